"""Cells: their keys and files, and the processes that fill them."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.personalization.task import Answer, Asked
from penchant.models.files import open_atomically, write_atomically

THREADS: Final = 1
"""Threads of every process. With one process per core, more threads would only compete."""


@dataclass(frozen=True, order=True)
class Cell:
    """The identity of one result.

    Attributes:
        part: Part of the benchmark.
        set: Name of the set of judgements.
        split: `cold` or `warm`.
        repetition: Number of the repetition of the split.
        system: Name of the system or variant that answers.
    """

    part: str
    set: str
    split: str
    repetition: int
    system: str

    def __str__(self) -> str:
        return f"{self.part}/{self.set}/{self.split}.{self.repetition}.{self.system}"


@dataclass(frozen=True)
class Result:
    """A filled cell.

    Attributes:
        cell: The cell.
        asked: The test pairs.
        answer: The predictions.
        seconds: Time that it took, in seconds.
    """

    cell: Cell
    asked: Asked
    answer: Answer
    seconds: float


class Store:
    """Results on disk, each as an array file and a small JSON file that is written last.

    Attributes:
        folder: Folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, cell: Cell, key: str) -> bool:
        """Whether the result exists and was computed under exactly this key."""
        path = self._path(cell, "json")
        try:
            return bool(json.loads(path.read_text("utf-8"))["key"] == key)
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return False

    def write(self, result: Result, key: str) -> None:
        """Store a result. A reader sees all of it or nothing."""
        arrays = {f"better_{k}": p.astype(np.float32) for k, p in result.answer.better.items()}
        asked = {name: value for name, value in asdict(result.asked).items() if name != "context_names"}
        path = self._path(result.cell, "npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "key": key,
            "cell": asdict(result.cell),
            "seconds": round(result.seconds, 3),
            "contexts": result.asked.context_names,
            "notes": dict(result.answer.notes),
        }
        self._path(result.cell, "json").unlink(missing_ok=True)
        with open_atomically(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **asked)
        write_atomically(self._path(result.cell, "json"), (json.dumps(about, indent=1) + "\n").encode())

    def read(self, cell: Cell) -> Result:
        """Return a stored result.

        Raises:
            FileNotFoundError: If it does not exist.
        """
        about: dict[str, Any] = json.loads(self._path(cell, "json").read_text("utf-8"))
        with np.load(self._path(cell, "npz")) as arrays:
            better = {
                int(name.removeprefix("better_")): arrays[name].astype(np.float64)
                for name in arrays.files
                if name.startswith("better_")
            }
            held = {name: arrays[name] for name in arrays.files if not name.startswith("better_")}
        asked = Asked(**held, context_names=tuple(about["contexts"]))
        return Result(cell, asked, Answer(better, about["notes"]), about["seconds"])

    def _path(self, cell: Cell, kind: str) -> Path:
        return self.folder / f"{cell}.{kind}"


def key_of(cell: Cell, **depends_on: object) -> str:
    """Return a hash of the cell and of everything that its result depends on."""
    content = json.dumps({"cell": asdict(cell), **depends_on}, sort_keys=True)
    return blake2b(content.encode(), digest_size=16).hexdigest()


Fill = Callable[[Sequence[Cell]], Iterable[Result]]
"""A function that computes the cells of one (set, split, repetition), one after the other."""


def run(
    groups: Sequence[Sequence[Cell]], fill: Fill, store: Store, keys: Mapping[Cell, str], jobs: int
) -> None:
    """Fill cells, with one process per group and `jobs` processes at a time. With one job, fill them in this process.

    Args:
        groups: Cells that share a task. The long groups come first, so that no single process is left at the end.
        fill: Picklable function that computes a group.
        store: Store that receives every result as soon as it is computed.
        keys: Key of every cell.
        jobs: Number of processes.

    Raises:
        BaseExceptionGroup: If groups failed; raised after all other groups are done.
    """
    total, done, start = sum(map(len, groups)), 0, time.perf_counter()

    def tell(cells: Sequence[Cell]) -> None:
        nonlocal done
        for cell in cells:
            done += 1
            minutes = (time.perf_counter() - start) / 60
            print(f"[{done}/{total}, {minutes:.1f} min] {cell}: {store.read(cell).seconds:.1f} s", flush=True)

    if jobs == 1:
        for group in groups:
            for cell in _fill(group, fill, store, keys):
                tell([cell])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare) as pool:
        waiting = [pool.submit(_fill_all, group, fill, store, keys) for group in groups]
        failed = []
        for future in as_completed(waiting):
            if error := future.exception():
                failed.append(error)
                print(f"failed: {error!r}", flush=True)
            else:
                tell(future.result())
    if failed:
        raise BaseExceptionGroup(f"{len(failed)} of {len(groups)} groups failed", failed)


def _prepare() -> None:
    import torch  # noqa: PLC0415 - in the process that computes

    torch.set_num_threads(THREADS)


def _fill(group: Sequence[Cell], fill: Fill, store: Store, keys: Mapping[Cell, str]) -> Iterable[Cell]:
    for result in fill(group):
        store.write(result, keys[result.cell])
        yield result.cell


def _fill_all(group: Sequence[Cell], fill: Fill, store: Store, keys: Mapping[Cell, str]) -> list[Cell]:
    return list(_fill(group, fill, store, keys))


class Timer:
    """A timer of the wall time of a block, in `seconds`."""

    seconds = 0.0

    def __enter__(self) -> "Timer":
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
