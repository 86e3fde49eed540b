"""Figures from filled cells, as plain data for the JSON file."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from benchmarks.personalization import control, metrics, probes, robustness
from benchmarks.personalization.cells import Cell, Result, Store
from benchmarks.personalization.metrics import Curve, Figure, Repetition, Statistic
from benchmarks.personalization.systems import PENCHANT
from benchmarks.personalization.task import SHOTS

MIN_CONTEXT_USERS: Final = 20
MOST_CONTEXTS: Final = 15
"""A set with more contexts than this is not reported context by context."""


def curves(store: Store, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return one entry per set and split. A system that ran only the first repetitions is compared on those."""
    places = dict.fromkeys((cell.set, cell.split) for cell in cells)
    return [_place(store, [c for c in cells if (c.set, c.split) == place]) for place in places]


def _place(store: Store, cells: Sequence[Cell]) -> dict[str, Any]:
    by_system: dict[str, list[Result]] = {}
    for cell in sorted(cells, key=lambda cell: cell.repetition):
        by_system.setdefault(cell.system, []).append(store.read(cell))
    results = max(by_system.values(), key=len)
    about: dict[str, Any] = {"set": cells[0].set, "split": cells[0].split, "repetitions": len(results)}
    if any(not result.answer.better for result in results):
        return {**about, "nobody": "a repetition has no unseen user with enough judgements"}
    drawn = metrics.repetitions([result.asked for result in results])
    better = {name: [result.answer.better for result in found] for name, found in by_system.items()}
    found = {name: metrics.curve(drawn[: len(p)], p) for name, p in better.items()}
    first = max(found.items(), key=lambda item: len(better[item[0]]))[1]
    about |= {"users": first.users, "pairs": first.pairs}
    about["systems"] = {
        name: {
            "repetitions": len(better[name]),
            "curve": _points(curve),
            "seconds": [round(result.seconds, 1) for result in by_system[name]],
            "notes": [result.answer.notes for result in by_system[name]],
        }
        for name, curve in found.items()
    }
    if PENCHANT in found:
        for point in about["systems"][PENCHANT]["curve"]:
            pooled = np.concatenate([predicted[point["k"]] for predicted in better[PENCHANT]])
            point["calibration_noise"] = round(metrics.calibration_noise(pooled), 4)
        about["with_labels"] = _with_labels(found[PENCHANT])
        about["against"] = {
            name: _against(metrics.curve(drawn[: len(p)], better[PENCHANT][: len(p)]), found[name])
            for name, p in better.items()
            if name != PENCHANT
        }
        about["contexts"] = _contexts(drawn, better)
    return about


def _points(curve: Curve) -> list[dict[str, Any]]:
    return [
        {
            "k": k,
            "accuracy": figure(curve.accuracy[k]),
            "log_loss": figure(curve.log_loss[k]),
            "user_log_loss": figure(curve.user_log_loss[k]),
            "calibration_error": round(curve.calibration[k], 4),
            "harmed": round(curve.harmed[k], 4),
            "worse": round(curve.changed[k][0], 4),
            "better": round(curve.changed[k][1], 4),
        }
        for k in sorted(curve.accuracy)
    ]


def _with_labels(curve: Curve) -> list[dict[str, Any]]:
    """Return the paired change that labels make, against k = 0 and against the previous k."""
    shots = sorted(curve.accuracy)
    return [
        {
            "k": k,
            "accuracy": figure(curve.accuracy[k] - curve.accuracy[shots[0]]),
            "user_log_loss": figure(curve.user_log_loss[k] - curve.user_log_loss[shots[0]]),
            "accuracy_since_last": figure(curve.accuracy[k] - curve.accuracy[last]),
        }
        for last, k in itertools.pairwise(shots)
    ]


def _against(ours: Curve, peer: Curve) -> list[dict[str, Any]]:
    return [
        {
            "k": k,
            "accuracy": figure(ours.accuracy[k] - peer.accuracy[k]),
            "log_loss": figure(ours.log_loss[k] - peer.log_loss[k]),
        }
        for k in SHOTS
    ]


def _contexts(
    drawn: Sequence[Repetition], better: Mapping[str, Sequence[Mapping[int, metrics.Vector]]]
) -> list[dict[str, Any]]:
    names = drawn[0].asked.context_names
    if not 1 < len(names) <= MOST_CONTEXTS:
        return []
    rows = []
    for name in names:
        found = {system: metrics.accuracy_among(drawn[: len(p)], p, name) for system, p in better.items()}
        ours = found[PENCHANT]
        if ours is None or ours[2] < MIN_CONTEXT_USERS:
            continue
        rows.append(
            {
                "context": name,
                "users": ours[2],
                "systems": {
                    system: [
                        {"k": k, "accuracy": figure(scores[0][k]), "user_log_loss": figure(scores[1][k])}
                        for k in SHOTS
                    ]
                    for system, scores in found.items()
                    if scores is not None
                },
            }
        )
    return sorted(rows, key=lambda row: -row["users"])


def probed(store: Store, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return every claim of the sanity probes, and whether it holds."""
    return [
        {**asdict(check), "figure": figure(check.figure)}
        for results in _by_place(store, cells)
        for check in probes.check(results)
    ]


def spoilt(store: Store, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the effect of wrong and hostile training labels on other users' accuracy."""
    return [
        {**asdict(effect), "change": figure(effect.change)}
        for results in _by_place(store, cells)
        for effect in robustness.effects(results)
    ]


def controlled(store: Store, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return accuracy in the semi-synthetic control: of seen users, and of unseen users by number of pairs."""
    rows = []
    for cell in cells:
        result = store.read(cell)
        (drawn,) = metrics.repetitions([result.asked])
        is_seen = result.asked.users < control.SEEN  # seen users come first
        hits = np.stack([metrics.hit(result.answer.better[k]) for k in control.SHOTS], axis=1)
        seen, unseen = (Statistic(*drawn.user_means(hits, who)) for who in (is_seen, ~is_seen))
        rows.append(
            {
                "system": cell.system,
                "seen": figure(seen.only(len(control.SHOTS) - 1)),
                "unseen": {str(k): figure(unseen.only(i)) for i, k in enumerate(control.SHOTS[:-1])},
                "seconds": round(result.seconds, 1),
                "notes": result.answer.notes,
            }
        )
    return rows


def _by_place(store: Store, cells: Sequence[Cell]) -> Iterator[dict[str, Result]]:
    for place in dict.fromkeys((cell.set, cell.split) for cell in cells):
        found = {cell.system: store.read(cell) for cell in cells if (cell.set, cell.split) == place}
        if all(result.answer.better for result in found.values()):
            yield found


def figure(statistic: Statistic | Figure) -> list[float]:
    """Return [value, low, high], rounded."""
    found = statistic.figure() if isinstance(statistic, Statistic) else statistic
    return [round(number, 5) for number in (found.value, found.low, found.high)]
