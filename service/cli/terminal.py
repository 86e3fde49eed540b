"""What commands show on the terminal: results on stdout, progress and problems on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

out = Console(soft_wrap=False)
err = Console(stderr=True, soft_wrap=True)

USAGE = 2
"""Exit code for input that cannot be used: a bad file, bundle or setting."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it: 128 + SIGINT."""

SECONDS_BETWEEN_LINES = 30.0
"""Where stderr is no terminal: a stage that takes long tells how far it is so often."""

Report = Callable[[str, int, int], None]
"""What long work calls as it goes: stage, done, total."""


def stop(problem: object, code: int = USAGE) -> NoReturn:
    """Ends the command with one line on stderr."""
    err.print(f"penchant: {problem}", markup=False, highlight=False, style="red" if err.is_terminal else None)
    raise typer.Exit(code)


def note(text: str) -> None:
    """One line on stderr that is no problem."""
    err.print(text, markup=False, highlight=False)


@contextmanager
def progress() -> Iterator[Report]:
    """Bars on stderr, one a stage; where stderr is no terminal, a line a stage and one every half minute."""
    if not err.is_terminal:
        yield progress_lines(note, time.monotonic)
        return
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks or bars.tasks[tasks[stage]].completed > done:  # a stage may come again
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)  # None: it only pulses

        yield report


def progress_lines(write: Callable[[str], None], clock: Callable[[], float]) -> Report:
    """Progress as lines, for logs.

    Args:
        write: Takes a line.
        clock: Seconds.
    """
    stage, began, before, told = "", 0.0, 0, 0.0

    def report(name: str, done: int, total: int) -> None:
        nonlocal stage, began, before, told
        now = clock()
        if name != stage:
            stage, began, before, told = name, now, done, now
            write(f"{name} ({total:,})" if total else name)
        elif now - told >= SECONDS_BETWEEN_LINES:
            told = now
            # What an earlier run had done came at once: speed is that of this run.
            left = (now - began) * (total - done) / (done - before) if total and done > before else None
            of = f" of {total:,}" if total else ""
            write(f"{name}: {done:,}{of}" + ("" if left is None else f", {_duration(left)} left"))

    return report


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes / 60:.1f} h"
    )
