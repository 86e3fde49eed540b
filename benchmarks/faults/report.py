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
    for outcome in outcomes:
        if outcome.beside:
            lines += ["", *_attacked(outcome)]
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


def _attacked(outcome: Outcome) -> list[str]:
    """Return the table of what an innocent client experienced."""
    lines = [
        f"## Beside hostile requests, on {outcome.store}",
        "",
        "An innocent client asks for small cached rankings at a steady pace while an attack is repeated, and until it "
        "has enough of them. The waits include those of the requests that a long wait kept it from sending. *Vote* is "
        "the longest wait for a vote. *Memory* is the peak of the server above its peak during an ordinary request of "
        "as many bytes, which is a ranking.",
        "",
        "| attack | seconds | answers | rankings | p50 ms | p99 ms | longest ms | vote ms | memory MB | as expected |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in outcome.beside:
        cells = [
            row.case,
            f"{row.attack_seconds:g}",
            _said(row.answers),
            f"{row.rankings:,}",
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            f"{row.longest_ms:.1f}",
            "" if row.longest_vote_ms is None else f"{row.longest_vote_ms:.1f}",
            f"{row.memory_above_mb:+.1f}",
            "no" if row.faults else "yes",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _said(value: float | str | dict[str, int]) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {number:,}" for name, number in value.items()) or "none"
    return str(value)
