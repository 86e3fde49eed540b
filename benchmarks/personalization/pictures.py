"""Learning curves as pictures: one figure per set, with accuracy and log-loss of every system and their intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
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
SPACING: Final = 0.06
"""Distance between the peers' bars."""

STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "penchant",  # equal figures give equal files
}


def draw(places: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw every set of `summary.curves` as PNG and SVG, and return the files."""
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
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _lines(axes: Axes, place: Mapping[str, Any], quantity: str) -> None:
    """Draw penchant with a band, and the peers with thin bars side by side."""
    peers = [name for name in place["systems"] if name != PENCHANT]
    for name, system in place["systems"].items():
        shots = [point["k"] for point in system["curve"]]
        value, low, high = np.array([point[quantity] for point in system["curve"]]).T
        where = np.arange(len(shots), dtype=float)
        drawn: dict[str, Any] = {
            "color": COLOURS[name],
            "marker": "o",
            "markersize": 3,
            "label": TITLES[name],
        }
        if name == PENCHANT:
            axes.plot(where, value, linewidth=2.0, zorder=3, **drawn)
            axes.fill_between(where, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        else:
            where += SPACING * (peers.index(name) + 1)
            bars = np.maximum([value - low, high - value], 0)  # with few users, an interval may miss the mean
            axes.errorbar(where, value, bars, linewidth=1.0, elinewidth=0.6, **drawn)
        axes.set_xticks(range(len(shots)), [str(k) for k in shots])
