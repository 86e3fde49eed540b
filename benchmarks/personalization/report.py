"""The results of a run: one JSON file, one Markdown file, and pictures."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from benchmarks.personalization import markdown, pictures, plan, summary
from benchmarks.personalization.cells import Cell, Store
from benchmarks.personalization.data import Source
from benchmarks.personalization.metrics import DRAWS, SEED
from benchmarks.personalization.task import SHOTS

LIBRARIES: Final = ("torch", "numpy", "scipy", "transformers")


def write(
    store: Store,
    cells: Sequence[Cell],
    sources: Mapping[str, Source],
    options: plan.Options,
    *,
    out: Path,
    folder: Path,
    encoder: str,
    speed: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Write the results of a run.

    Args:
        store: Store that holds all cells.
        cells: Cells of the run.
        sources: The sets.
        options: Options of the run.
        out: Path of the JSON and the Markdown file, without extension.
        folder: Folder of the pictures.
        encoder: Name of the encoder.
        speed: Result of `speed.measure`, if it was requested.

    Returns:
        Every probe that failed.
    """
    found: dict[str, Any] = {"about": about(sources, options, encoder)}
    for part, summarise in SUMMARIES.items():
        chosen = [cell for cell in cells if cell.part == part]
        if chosen:
            found[part] = summarise(store, chosen)
    if speed:
        found["speed"] = list(speed)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    drawn = pictures.draw(found.get(plan.CURVES, []), folder)
    shown = {p.stem: os.path.relpath(p, out.parent) for p in drawn if p.suffix == ".png"}
    out.with_suffix(".md").write_text(markdown.render(found, shown), "utf-8")
    checks = [*found.get(plan.PROBES, []), *found.get(plan.REVERSED, [])]
    return [f"{c['place']}: {c['claim']}: {c['figure']}" for c in checks if not c["passed"]]


SUMMARIES: Final = {
    plan.CURVES: summary.curves,
    plan.PROBES: summary.probed,
    plan.REVERSED: summary.probed,
    plan.ROBUSTNESS: summary.spoilt,
    plan.CONTROL: summary.controlled,
}


def about(sources: Mapping[str, Source], options: plan.Options, encoder: str) -> dict[str, Any]:
    """Return the commit, data and settings that the figures are based on."""
    return {
        **machine(LIBRARIES),
        "encoder": encoder,
        "features": next(iter(sources.values())).identity,
        "sets": {name: source.sha256 for name, source in sources.items()},
        "splits": list(options.splits),
        "repetitions": options.repetitions,
        "shots": list(SHOTS),
        "bootstrap": {"draws": DRAWS, "seed": SEED},
    }
