"""Learning curves as pictures: one figure a set, accuracy and log-loss of every system, with intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.personalization.systems import PENCHANT, TITLES

COLOURS: Final = {
    PENCHANT: "#0b6e4f",
    "bt": "#6c757d",
    "lore": "#d1495b",
    "pal": "#8d6a9f",
    "hebbian": "#edae49",
}
QUANTITIES: Final = {"accuracy": "accuracy (user mean)", "log_loss": "log-loss"}
STYLE: Final = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "penchant",  # the same figures give the same file
}


def draw(places: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draws every set of `summary.curves` as PNG and SVG; returns the files."""
    by_set: dict[str, list[Mapping[str, Any]]] = {}
    for place in places:
        if "systems" in place:
            by_set.setdefault(place["set"], []).append(place)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(STYLE):
        for name, found in by_set.items():
            figure = _figure(name, found)
            for ending in ("png", "svg"):
                path = folder / f"{name}.{ending}"
                metadata = {"Date": None} if ending == "svg" else {"Software": ""}
                figure.savefig(path, dpi=150, metadata=metadata)
                written.append(path)
    return written


def _figure(name: str, places: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(4.6 * len(places), 6.4), layout="constrained")
    figure.suptitle(name)
    axes = figure.subplots(len(QUANTITIES), len(places), squeeze=False)
    for column, place in enumerate(places):
        for row, (quantity, title) in enumerate(QUANTITIES.items()):
            _lines(axes[row, column], place, quantity)
            axes[row, column].set_ylabel(title)
        kind = "texts nobody judged before" if place["split"] == "cold" else "texts that recur"
        axes[0, column].set_title(f"{place['split']}: {kind}\n{place['users']} users", fontsize=9)
        axes[-1, column].set_xlabel("judgements of the user's own")
    axes[0, 0].legend(fontsize=7, frameon=False)
    return figure


def _lines(axes: Axes, place: Mapping[str, Any], quantity: str) -> None:
    for name, system in place["systems"].items():
        shots = [point["k"] for point in system["curve"]]
        where = range(len(shots))
        value, low, high = zip(*(point[quantity] for point in system["curve"]), strict=True)
        wide = 2.0 if name == PENCHANT else 1.2
        axes.plot(
            where, value, color=COLOURS[name], linewidth=wide, marker="o", markersize=3, label=TITLES[name]
        )
        axes.fill_between(
            where, low, high, color=COLOURS[name], alpha=0.18 if name == PENCHANT else 0.06, linewidth=0
        )
        axes.set_xticks(where, [str(k) for k in shots])
