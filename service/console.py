"""What commands show on the terminal: results on stdout, progress and problems on stderr."""

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

Report = Callable[[str, int, int], None]
"""What long work calls as it goes: stage, done, total."""


def stop(problem: object, code: int = USAGE) -> NoReturn:
    """Ends the command with one line on stderr."""
    err.print(f"penchant: {problem}", markup=False, highlight=False, style="red" if err.is_terminal else None)
    raise typer.Exit(code)


@contextmanager
def progress() -> Iterator[Report]:
    """Bars on stderr, one a stage; where stderr is no terminal, one line a stage."""
    if not err.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks or bars.tasks[tasks[stage]].completed > done:  # a stage may come again
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)  # None: it only pulses

        yield report


def _lines() -> Report:
    last = ""

    def report(stage: str, _done: int, total: int) -> None:
        nonlocal last
        if stage != last:
            last = stage
            err.print(f"{stage} ({total})" if total else stage, markup=False, highlight=False)

    return report
