"""A picture of how scoring grows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

_STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "penchant",  # equal figures give equal files
}
_TITLES: Final = {
    "candidates": "one user, k = 16",
    "users": "16 candidates, k = 16",
    "k": "16 candidates, one user",
}


def draw(curves: Mapping[str, Sequence[Sequence[float]]], folder: Path) -> list[Path]:
    """Draw every curve of `inside.growth` in one figure, as PNG and SVG, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        figure.suptitle("utility and relevance: time of one product")
        for axes, (name, points) in zip(
            figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
        ):
            axes.loglog([n for n, _ in points], [1e6 * t for _, t in points], "o-", color="#0b6e4f")
            axes.set_title(_TITLES.get(name, name))
            axes.set_xlabel(name)
            axes.set_ylabel("µs")
        for ending in ("png", "svg"):
            path = folder / f"serving_growth.{ending}"
            metadata = {"Date": None} if ending == "svg" else {"Software": ""}
            figure.savefig(path, dpi=150, metadata=metadata)
            written.append(path)
    return written
