"""What a run leaves behind: one JSON file, one Markdown file, pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from benchmarks.personalization import plan, summary
from benchmarks.personalization.cells import Cell, Store
from benchmarks.personalization.data import Source
from benchmarks.personalization.metrics import DRAWS, SEED
from benchmarks.personalization.systems import TITLES
from benchmarks.personalization.task import SHOTS

LIBRARIES: Final = ("torch", "numpy", "scipy", "transformers")


def write(
    store: Store,
    cells: Sequence[Cell],
    sources: Mapping[str, Source],
    options: plan.Options,
    *,
    out: Path,
    pictures: Path,  # noqa: ARG001
    encoder: str,
) -> list[str]:
    """Writes the results of a run.

    Returns:
        Every probe that did not come out as it must.
    """
    found: dict[str, Any] = {"about": about(sources, options, encoder)}
    chosen = [cell for cell in cells if cell.part == plan.CURVES]
    if chosen:
        found["curves"] = summary.curves(store, chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text(markdown(found), "utf-8")
    return []


def about(sources: Mapping[str, Source], options: plan.Options, encoder: str) -> dict[str, Any]:
    """What the figures rest on."""
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


def markdown(found: Mapping[str, Any]) -> str:
    """The same figures to read."""
    lines = ["# Personalization", ""]
    for place in found.get("curves", []):
        lines += _curve(place)
    return "\n".join(lines) + "\n"


def _curve(place: Mapping[str, Any]) -> Iterable[str]:
    yield f"### {place['set']}, {place['split']}"
    yield ""
    if "nobody" in place:
        yield place["nobody"]
        yield ""
        return
    yield f"{place['users']} users, {place['pairs']} pairs, {place['repetitions']} repetitions."
    yield ""
    yield "| system | " + " | ".join(f"k = {k}" for k in SHOTS) + " |"
    yield "|---" * (1 + len(SHOTS)) + "|"
    for name, system in place["systems"].items():
        cells = [f"{p['accuracy'][0]:.3f} / {p['log_loss'][0]:.3f}" for p in system["curve"]]
        yield f"| {TITLES[name]} | " + " | ".join(cells) + " |"
    yield ""
