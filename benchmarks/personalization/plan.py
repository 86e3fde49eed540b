"""The plan of a run: its cells and their keys, in groups that share a task, and the function that fills them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from benchmarks.code import code_hash
from benchmarks.personalization import control, probes, robustness, speed
from benchmarks.personalization.cells import Cell, Result, Timer, key_of
from benchmarks.personalization.data import Source
from benchmarks.personalization.systems import SYSTEMS, answer, control_answer, system_hash
from benchmarks.personalization.task import SHOTS, Answer, Asked, Task
from penchant.models.evaluation.split import Mode

CURVES: Final = "curves"
PROBES: Final = "probes"
ROBUSTNESS: Final = "robustness"
CONTROL: Final = "control"
PARTS: Final = (CURVES, PROBES, ROBUSTNESS, CONTROL)
REVERSED: Final = "probes-reversed"
TRAINED_BY_STEPS: Final = frozenset({"lore", "pal", "hebbian"})
SPLITS: Final[tuple[Mode, ...]] = ("cold", "warm")


@dataclass(frozen=True)
class Options:
    """The options of a run.

    Attributes:
        splits: `cold`, `warm`.
        repetitions: Number of repetitions of each split.
        peer_repetitions: Number of repetitions of the peers that train by gradient steps, which take most of the time.
        systems: Names of penchant and peers.
        parts: Parts of the benchmark.
        reverse_labels: Whether to reverse every test label, which must make the probes fail.
    """

    splits: tuple[Mode, ...]
    repetitions: int
    systems: tuple[str, ...]
    parts: tuple[str, ...]
    reverse_labels: bool = False
    peer_repetitions: int = 5

    @classmethod
    def of(
        cls,
        splits: str,
        repetitions: int,
        systems: str,
        parts: str,
        *,
        reverse_labels: bool = False,
        peer_repetitions: int = 5,
    ) -> "Options":
        """Return options from comma-separated lists.

        Raises:
            ValueError: If a name is unknown.
        """
        wanted = _among(splits, SPLITS)
        return cls(
            tuple(split for split in SPLITS if split in wanted),
            repetitions,
            _among(systems, SYSTEMS),
            _among(parts, PARTS),
            reverse_labels,
            peer_repetitions,
        )


def cells(options: Options, sources: Mapping[str, Source]) -> list[Cell]:
    """Return all cells of a run."""
    found = []
    if CURVES in options.parts:
        found += [
            Cell(CURVES, name, split, repetition, system)
            for name in sources
            for split in options.splits
            for repetition in range(options.repetitions)
            for system in options.systems
            if repetition < options.peer_repetitions or system not in TRAINED_BY_STEPS
        ]
    if PROBES in options.parts:
        part = REVERSED if options.reverse_labels else PROBES
        found += [
            Cell(part, name, split, 0, variant)
            for name, split in probes.PROBED
            if name in sources and split in options.splits
            for variant in probes.VARIANTS
        ]
    if ROBUSTNESS in options.parts:
        found += [
            Cell(ROBUSTNESS, name, split, 0, variant)
            for name in robustness.SETS
            if name in sources
            for split in options.splits
            for variant in robustness.VARIANTS
        ]
    if CONTROL in options.parts and control.TEXTS in sources:
        found += [
            Cell(CONTROL, control.TEXTS, "cold", 0, system)
            for system in control.SYSTEMS
            if system in options.systems
        ]
    return found


def key(cell: Cell, sources: Mapping[str, Source]) -> str:
    """Return the key of a cell's result, from its code, options and data."""
    source = sources[cell.set]
    return key_of(cell, code=_code(cell), data=source.sha256, features=source.identity, shots=SHOTS)


def _code(cell: Cell) -> str:
    match cell.part:
        case "curves":
            return system_hash(cell.system)
        case "robustness":
            return code_hash(robustness.__name__)
        case "control":
            return system_hash(cell.system, control.__name__)
        case _:
            return code_hash(probes.__name__)


def groups(missing: Sequence[Cell], sources: Mapping[str, Source]) -> list[list[Cell]]:
    """Return the cells grouped by (set, split, repetition), the largest sets first."""

    def task_of(cell: Cell) -> tuple[int, str, str, int, bool]:
        size = -sources[cell.set].path.stat().st_size
        return size, cell.set, cell.split, cell.repetition, cell.part == CONTROL

    return [list(group) for _, group in groupby(sorted(missing, key=task_of), key=task_of)]


def fill(group: Sequence[Cell], sources: Mapping[str, Source]) -> Iterator[Result]:
    """Compute a group."""
    first = group[0]
    mode: Mode = "cold" if first.split == "cold" else "warm"
    if first.part == CONTROL:
        task = control.task(sources[first.set])
    else:
        task = Task.of(sources[first.set], mode, first.repetition)
    for cell in group:
        with Timer() as timer:
            asked, found = _answer(cell, task)
        yield Result(cell, asked, found, timer.seconds)


def _answer(cell: Cell, task: Task) -> tuple[Asked, Answer]:
    if not task.parts.test:
        return task.asked, Answer(
            {}, {"nobody": "no unseen user has enough support judgements and test pairs"}
        )
    match cell.part:
        case "curves":
            return task.asked, answer(cell.system, task)
        case "robustness":
            return task.asked, robustness.answer(cell.system, task)
        case "control":
            return task.asked, control_answer(cell.system, task)
        case _:
            return probes.answer(cell.system, task, reverse_labels=cell.part == REVERSED)


def timed(sources: Mapping[str, Source], cache_folder: Path) -> list[dict[str, Any]]:
    """Time fitting if a set for it exists. It is done once for the same code and data."""
    path = cache_folder / "speed.json"
    known: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found = []
    for name, mode in speed.SETS:
        if name not in sources:
            continue
        cell = Cell("speed", name, mode, 0, "all")
        wanted = key_of(cell, code=code_hash(speed.__name__), data=sources[name].sha256)
        if wanted not in known:
            known[wanted] = speed.measure(Task.of(sources[name], mode, 0))
            path.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        found.append(known[wanted])
    return found


def _among(names: str, known: Sequence[str]) -> tuple[str, ...]:
    wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no {', '.join(unknown)} among {', '.join(known)}")
    return wanted
