"""Systems by name: each answers a task."""

from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.code import code_hash
from benchmarks.peers import tuning
from benchmarks.peers.bradley_terry import BradleyTerry
from benchmarks.personalization.ours import fitted
from benchmarks.personalization.task import SHOTS, Answer, Task

PENCHANT: Final = "penchant"
PEERS: Final[Mapping[str, Callable[[], tuning.Peer]]] = {"bt": BradleyTerry}
SYSTEMS: Final = (PENCHANT, *PEERS)
TITLES: Final = {
    PENCHANT: "penchant",
    "bt": "Bradley–Terry (consensus)",
    "lore": "LoRe",
    "pal": "PAL-A",
    "hebbian": "Hebbian",
}
_MODULES: Final = {PENCHANT: "benchmarks.personalization.ours", "bt": "benchmarks.peers.bradley_terry"}


def answer(system: str, task: Task) -> Answer:
    """A system's predictions of a task's test pairs.

    Raises:
        KeyError: There is no such system.
    """
    if system == PENCHANT:
        return fitted(task).answer()
    found = tuning.predict(PEERS[system](), task.vectors, task.parts, task.mode, SHOTS)
    notes = {
        "setting": list(found.setting),
        "temperature": round(found.temperature, 4),
        "validation_users": found.validation_users,
        "trials": found.trials,
    }
    return Answer(found.better, notes)


def system_hash(system: str) -> str:
    """Hash of the code that a system's predictions depend on."""
    return code_hash(_MODULES[system], "benchmarks.personalization.task")
