"""The results files of a run: one in JSON and one in Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import accelerator, machine
from benchmarks.serving.parts import Goal, Outcome

_LIMITS: Final = Path(__file__).with_name("limits.md")
"""Hand-written text on what limits each figure and what was tried."""


def write(outcomes: Sequence[Outcome], seconds: float, out: Path) -> list[Goal]:
    """Write the results of a run.

    Returns:
        The goals that were missed.
    """
    about = {
        **machine(("torch", "numpy", "fastapi", "uvicorn")),
        "seconds": seconds,
        "accelerator": accelerator(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    results = {"about": about, "parts": {one.part: asdict(one) for one in outcomes}}
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text(markdown(about, outcomes), "utf-8")
    return [goal for one in outcomes for goal in one.goals if not goal.met]


def markdown(about: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return the figures as Markdown."""
    device = about["accelerator"]
    lines = [
        "# Serving",
        "",
        f"`python -m benchmarks.serving --seconds {about['seconds']:g}`. The servers are processes and are loaded in "
        f"turn from another process on loopback; figures are medians of the rounds. "
        f"{about['cores']} cores of {about['processor']}; "
        f"commit {about['commit']}, "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + ".",
    ]
    if device is not None:
        lines += [
            "",
            f"All encoders, including the peers', compute on {device}. The goals are set for a processor.",
        ]
    for outcome in outcomes:
        header, *rows = outcome.table
        lines += ["", f"## {outcome.part}", "", _row(header), _row(["---"] * len(header)), *map(_row, rows)]
        if outcome.goals:
            lines += ["", "| goal | wanted | measured | |", "|---|--:|--:|---|", *map(_goal, outcome.goals)]
    return "\n".join(lines) + "\n\n" + _LIMITS.read_text("utf-8")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _goal(goal: Goal) -> str:
    sign = "≥" if goal.at_least else "≤"
    return _row(
        [goal.name, f"{sign} {goal.bound:g}", f"{goal.value:.3g}", "met" if goal.met else "**missed**"]
    )
