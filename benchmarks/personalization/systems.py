"""Systems by name. Each of them answers a task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.code import code_hash
from benchmarks.peers import tuning
from benchmarks.peers.bradley_terry import BradleyTerry
from benchmarks.peers.hebbian import HebbianLearner
from benchmarks.peers.lore import LoRe
from benchmarks.peers.pal import PAL
from benchmarks.personalization import control
from benchmarks.personalization.ours import Fitted, fitted
from benchmarks.personalization.task import SHOTS, Answer, Task

PENCHANT: Final = "penchant"
PEERS: Final[Mapping[str, Callable[[], tuning.Peer]]] = {
    "bt": BradleyTerry,
    "lore": LoRe,
    "pal": PAL,
    "hebbian": HebbianLearner,
}
SYSTEMS: Final = (PENCHANT, *PEERS)
TITLES: Final = {
    PENCHANT: "penchant",
    "bt": "Bradley–Terry (consensus)",
    "lore": "LoRe",
    "pal": "PAL-A",
    "hebbian": "Hebbian",
}
_OURS: Final = "benchmarks.personalization.ours"


def answer(system: str, task: Task) -> Answer:
    """Return a system's predictions of a task's test pairs.

    Raises:
        KeyError: If the system does not exist.
    """
    if system == PENCHANT:
        return fitted(task).answer()
    return peer_answer(PEERS[system](), task, SHOTS)


def control_answer(system: str, task: Task) -> Answer:
    """Return a system's predictions in the semi-synthetic control."""
    if system == PENCHANT:
        return Fitted(task, ranks=control.RANKS).answer(shots=control.SHOTS)
    return peer_answer(control.peer(system), task, control.SHOTS)


def peer_answer(peer: tuning.Peer, task: Task, shots: Sequence[int]) -> Answer:
    """Tune and fit a peer, and return its predictions."""
    found = tuning.predict(peer, task.vectors, task.parts, task.mode, shots)
    notes = {
        "setting": list(found.setting),
        "temperature": round(found.temperature, 4),
        "validation_users": found.validation_users,
        "trials": found.trials,
    }
    return Answer(found.better, notes)


def system_hash(system: str, *also: str) -> str:
    """Return a hash of the code that a system's predictions depend on."""
    module = _OURS if system == PENCHANT else PEERS[system].__module__
    return code_hash(module, "benchmarks.personalization.task", *also)
