"""Targets of a release: the figures of an earlier prototype on frozen embeddings, as accuracy and log-loss by k."""

from collections.abc import Mapping
from typing import Any, Final

FLOOR: Final[Mapping[tuple[str, str], Mapping[int, tuple[float, float]]]] = {
    ("polis_opendata_en", "cold"): {
        0: (0.577, 0.678),
        3: (0.581, 0.675),
        10: (0.586, 0.673),
        30: (0.591, 0.671),
        100: (0.592, 0.670),
    },
    ("polis_opendata_en", "warm"): {
        0: (0.678, 0.614),
        3: (0.698, 0.593),
        10: (0.717, 0.568),
        30: (0.734, 0.542),
        100: (0.743, 0.528),
    },
    ("jester5k", "warm"): {
        0: (0.630, 0.643),
        3: (0.637, 0.638),
        10: (0.643, 0.630),
        30: (0.653, 0.620),
        100: (0.661, 0.613),
    },
    ("jester5k", "cold"): {
        0: (0.544, 0.686),
        3: (0.548, 0.686),
        10: (0.553, 0.684),
        30: (0.557, 0.682),
        100: (0.561, 0.681),
    },
    ("stanford_politeness", "cold"): {
        0: (0.623, 0.646),
        3: (0.624, 0.647),
        10: (0.623, 0.641),
        30: (0.625, 0.638),
        100: (0.624, 0.639),
    },
    ("ukp_convarg1", "cold"): {
        0: (0.726, 0.526),
        3: (0.726, 0.526),
        10: (0.726, 0.526),
        30: (0.726, 0.526),
    },
}

CALIBRATION_ERROR: Final = 0.02
HARMED: Final = 0.05


def floor(place: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare a set and split with the floor. A cell is reached if both figures, rounded alike, are no worse."""
    wanted = FLOOR.get((place["set"], place["split"]), {})
    points = {p["k"]: p for p in place["systems"]["penchant"]["curve"]}
    return [
        {
            "k": k,
            "floor": list(bounds),
            "ours": [points[k]["accuracy"][0], points[k]["log_loss"][0]],
            "reached": round(points[k]["accuracy"][0], 3) >= bounds[0]
            and round(points[k]["log_loss"][0], 3) <= bounds[1],
        }
        for k, bounds in wanted.items()
    ]


def goals(place: Mapping[str, Any]) -> dict[str, bool]:
    """Return the goals for every set and split, by their description, and whether they are met."""
    curve, gains = place["systems"]["penchant"]["curve"], place["with_labels"]
    found = {
        "calibration error at most 0.02, or of chance": all(
            p["calibration_error"] <= max(CALIBRATION_ERROR, p["calibration_noise"]) for p in curve
        ),
        "at most 5 % of users worse, pairs permuted": all(p["harmed"] <= HARMED for p in curve),
        "at most 5 % of users worse, texts as clusters": all(p["worse"] <= HARMED for p in curve),
        "k = 3 no worse than k = 0": gains[0]["user_log_loss"][1] <= 0,
        "accuracy never falls with k": all(gain["accuracy_since_last"][2] >= 0 for gain in gains),
    }
    if "bt" in place["against"]:
        found["k = 0 no worse than Bradley–Terry"] = place["against"]["bt"][0]["accuracy"][2] >= 0
    return found
