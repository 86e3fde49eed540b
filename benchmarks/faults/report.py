"""The results files of a run: one in JSON and one in Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.outcome import Outcome
from benchmarks.machine import machine

_COLUMNS = ("acknowledged", "found", "duplicated", "lost", "unacknowledged")


def write(outcomes: Sequence[Outcome], out: Path) -> None:
    """Write the results of a run."""
    about = machine(("sqlalchemy", "uvicorn", "numpy"))
    out.parent.mkdir(parents=True, exist_ok=True)
    results = {"about": about, "parts": [outcome.as_json() for outcome in outcomes]}
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text(markdown(about, outcomes), "utf-8")


def markdown(about: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return the figures as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# Fault injection",
        "",
        f"Real server processes receive concurrent feedback of every kind. `python -m benchmarks.faults`, "
        f"{about['cores']} cores of {about['processor']}; commit {about['commit']}, {versions}.",
        "",
        "*Acknowledged* counts the events whose storage was acknowledged to the sender, *found* the events in the log "
        "afterwards, and *unacknowledged* the events found whose acknowledgement did not reach the sender. A request "
        "without an answer is sent again until it is answered; events that were already stored are not stored twice. "
        "*Replay* shows the number of users whose saved state was compared with the state learned again from the log, "
        "and the largest difference (goal: 1e-6).",
        "",
        "| part | store | rounds | acknowledged | found | duplicated | lost | unacknowledged | replay | as expected |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|---|",
    ]
    lines += [_row(outcome) for outcome in outcomes]
    lines.append("")
    for outcome in outcomes:
        figures = ", ".join(f"{name} {_said(value)}" for name, value in outcome.figures.items())
        lines.append(f"- **{outcome.part}**, {outcome.store}: {figures}.")
    faults = [f"- {o.part}, {o.store}: {fault}" for o in outcomes for fault in o.faults]
    if faults:
        lines += ["", "## Faults found", "", *faults]
    return "\n".join(lines) + "\n"


def _row(outcome: Outcome) -> str:
    counts = [f"{getattr(outcome.audit, name):,}" if outcome.audit else "" for name in _COLUMNS]
    compared = sum(replay.users for replay in outcome.replays)
    largest = max((replay.largest for replay in outcome.replays), default=0.0)
    differ = sum(replay.different for replay in outcome.replays)
    replayed = f"{compared} users, {differ} differ, {largest:.1g}" if outcome.replays else ""
    cells = [
        outcome.part,
        outcome.store,
        str(outcome.rounds),
        *counts,
        replayed,
        "no" if outcome.faults else "yes",
    ]
    return "| " + " | ".join(cells) + " |"


def _said(value: float | str | dict[str, int]) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {number:,}" for name, number in value.items()) or "none"
    return str(value)
