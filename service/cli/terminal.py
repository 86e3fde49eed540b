"""Output of commands: results on stdout, progress and problems on stderr."""

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
"""Exit code for unusable input, such as a bad file, bundle or setting."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in shells."""

SECONDS_BETWEEN_LINES = 30.0
"""Seconds between two lines of progress of a long stage, if stderr is not a terminal."""

Report = Callable[[str, int, int], None]
"""A function that long work calls with stage, done and total."""


def stop(problem: object, code: int = USAGE) -> NoReturn:
    """End the command with one line on stderr."""
    err.print(f"penchant: {problem}", markup=False, highlight=False, style="red" if err.is_terminal else None)
    raise typer.Exit(code)


def note(text: str) -> None:
    """Print one line of information on stderr."""
    err.print(text, markup=False, highlight=False)


@contextmanager
def progress() -> Iterator[Report]:
    """Show one bar per stage on stderr. If stderr is not a terminal, print a line per stage and every half minute."""
    if not err.is_terminal:
        yield progress_lines(note, time.monotonic)
        return
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks or bars.tasks[tasks[stage]].completed > done:  # a stage may be repeated
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)  # None pulses

        yield report


def progress_lines(write: Callable[[str], None], clock: Callable[[], float]) -> Report:
    """Return a function that reports progress as lines, for logs.

    Args:
        write: Function that prints a line.
        clock: Function that returns a time in seconds.
    """
    stage, began, before, reported_at = "", 0.0, 0, 0.0

    def report(name: str, done: int, total: int) -> None:
        nonlocal stage, began, before, reported_at
        now = clock()
        if name != stage:
            stage, began, before, reported_at = name, now, done, now
            write(f"{name} ({total:,})" if total else name)
        elif now - reported_at >= SECONDS_BETWEEN_LINES:
            reported_at = now
            # Progress of an earlier run is reported at once. The speed is that of this run.
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
