"""The results files of a run: one in JSON and one in Markdown."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine

GOAL_BYTES: Final = 4 * 2**30
GIB: Final = 2**30

Figures = Mapping[str, Any]


def write(found: Sequence[Figures], out: Path) -> list[str]:
    """Write the results of a run.

    Returns:
        The goals that were missed.
    """
    about = machine()
    growth = [exponent(a, b) for a, b in itertools.pairwise(found)]
    out.parent.mkdir(parents=True, exist_ok=True)
    results = {"about": about, "sizes": list(found), "growth": growth}
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text(markdown(about, found, growth), "utf-8")
    return [
        f"{one['judgements']:,} judgements took {one['peak_bytes']['fitted'] / GIB:.2f} GiB"
        for one in found
        if one["peak_bytes"]["fitted"] > GOAL_BYTES
    ]


def exponent(smaller: Figures, larger: Figures) -> float:
    """Return the power of the number of judgements with which the time of a round grows; 1 is linear."""
    times = math.log(larger["seconds_a_round"] / smaller["seconds_a_round"])
    return times / math.log(larger["judgements"] / smaller["judgements"])


def markdown(about: Mapping[str, Any], found: Sequence[Figures], growth: Sequence[float]) -> str:
    """Return the figures as Markdown."""
    first = found[0]
    lines = [
        "# Fitting at scale",
        "",
        f"Comparisons by users whose {first['rank']} directions of taste are planted, fitted at rank {first['rank']} on "
        f"{first['dim']} features per text. `python -m benchmarks.scale`, seed {first['seed']}, "
        f"{first['threads']} threads of {about['processor']}; commit {about['commit']}, "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + ".",
        "",
        "| judgements | users | texts | read s | index s | fit s | rounds | s a round | grows with power | peak GiB |",
        "|--:" * 10 + "|",
    ]
    for one, power in zip(found, [None, *growth], strict=True):
        seconds = one["seconds"]
        cells = [
            *(f"{one[name]:,}" for name in ("judgements", "users", "texts")),
            *(f"{seconds[name]:.1f}" for name in ("read", "index", "fit")),
            str(one["rounds"]),
            f"{one['seconds_a_round']:.3f}",
            "" if power is None else f"{power:.2f}",
            f"{one['peak_bytes']['fitted'] / GIB:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Recovery of the planted tastes: accuracy / log-loss of the next comparisons of "
        f"up to {max(one['recovery']['users'] for one in found)} users after all of their judgements, on the judged "
        "texts and on texts that nobody judged. *Truth* predicts from the true utilities.",
        "",
        "| judgements | texts | consensus | personal | truth |",
        "|--:|---|--:|--:|--:|",
    ]
    for one in found:
        for where in ("judged", "new"):
            quality = one["recovery"][where]
            shown = (f"{quality[by]['accuracy']:.3f} / {quality[by]['log_loss']:.3f}" for by in quality)
            lines.append(f"| {one['judgements']:,} | {where} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"
