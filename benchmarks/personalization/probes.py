"""Sanity probes: does the model learn the user, and nothing that it must not know?

If a personal signal exists (votes and jokes, texts that recur), each probe must come out as stated, or the command
fails:

- `own`: 30 of the user's own judgements are better than none.
- `flip`: 30 reversed judgements are worse than none.
- `swap`: 30 judgements of another user are no better than none.
- `nobody`: A model that ignores who the user is loses to the model that knows 30 judgements.
- `format`: Length and first characters alone stay near the consensus and below the model.

Reversing the test labels in this code (`--reverse-labels`) must make the probes fail. A benchmark that cannot tell
which text was preferred would pass with any figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.peers import tuning
from benchmarks.peers.bradley_terry import BradleyTerry
from benchmarks.personalization import metrics
from benchmarks.personalization.cells import Result
from benchmarks.personalization.metrics import Figure, Statistic
from benchmarks.personalization.ours import fitted
from benchmarks.personalization.task import Answer, Asked, Task, reversed_judgement
from penchant.models.evaluation.split import TestPair, bucket
from penchant.models.judgements.judgement import Judgement

PROBED: Final = (("polis_opendata_en", "warm"), ("jester5k", "warm"))
VARIANTS: Final = ("own", "flip", "swap", "nobody", "format")
SHOTS: Final = (0, 10, 30)
NEAR: Final = 0.02
"""Maximum accuracy by which format alone may exceed the consensus."""

FIRST_CHARACTERS: Final = 3
BUCKETS: Final = 32


def answer(variant: str, task: Task, *, reverse_labels: bool = False) -> tuple[Asked, Answer]:
    """Return predictions under one probe.

    Args:
        variant: One of `VARIANTS`.
        task: The task.
        reverse_labels: Whether to reverse the test pairs.

    Raises:
        ValueError: If the probe does not exist.
    """
    parts = task.parts
    if reverse_labels:
        parts = replace(parts, test={u: [_reversed(p) for p in pairs] for u, pairs in parts.test.items()})
    asked = Asked.of(parts.test)
    match variant:
        case "own":
            return asked, fitted(task).answer(parts.support, parts.test, shots=SHOTS)
        case "flip":
            flipped = {user: [reversed_judgement(j) for j in rows] for user, rows in parts.support.items()}
            return asked, fitted(task).answer(flipped, parts.test, shots=SHOTS)
        case "swap":
            return asked, fitted(task).answer(swapped(parts.support), parts.test, shots=SHOTS)
        case "nobody":
            found = tuning.predict(BradleyTerry(), task.vectors, parts, task.mode, SHOTS)
        case "format":
            vectors = {item: format_features(item[1]) for item in task.vectors}
            found = tuning.predict(BradleyTerry(text_ridges=(None,)), vectors, parts, task.mode, SHOTS)
        case _:
            raise ValueError(f"no probe {variant!r}")
    return asked, Answer(found.better)


def swapped(support: Mapping[str, Sequence[Judgement]]) -> dict[str, Sequence[Judgement]]:
    """Give every user the support of another user, of the same context if another user has one."""
    order = sorted(support, key=lambda user: (support[user][0].context, bucket("swap", user)))
    return {user: support[order[(place + 1) % len(order)]] for place, user in enumerate(order)}


def format_features(text: str) -> "np.ndarray[tuple[int], np.dtype[np.float16]]":
    """Return length and first characters, and nothing else."""
    first = np.zeros((FIRST_CHARACTERS, BUCKETS))
    for place, character in enumerate(text[:FIRST_CHARACTERS]):
        first[place, ord(character) % BUCKETS] = 1
    lengths = [np.log1p(len(text)), np.log1p(len(text.split())), len(text) / 1000]
    return np.concatenate([lengths, first.ravel()]).astype(np.float16)


@dataclass(frozen=True)
class Check:
    """The outcome of a probe.

    Attributes:
        place: Set and split.
        probe: Name of the probe.
        claim: Statement that must hold.
        figure: Number that the claim is about, with its interval.
        passed: Whether the claim holds.
    """

    place: str
    probe: str
    claim: str
    figure: Figure
    passed: bool


def check(results: Mapping[str, Result]) -> list[Check]:
    """Test the claims on the results of one set and split, given by probe."""
    own = results["own"]
    drawn = metrics.repetitions([own.asked])
    curves = {name: metrics.curve(drawn, [result.answer.better]) for name, result in results.items()}
    last = max(SHOTS)
    none, known = curves["own"].accuracy[0], curves["own"].accuracy[last]

    def of(probe: str, k: int = last) -> Statistic:
        return curves[probe].accuracy[k]

    gain, flip, swap = known - none, of("flip") - none, of("swap") - none
    nobody, leak, near = known - of("nobody"), of("format") - known, of("format") - none
    found = [
        ("own", f"accuracy at {last} above 0 labels", gain, gain.figure().low > 0),
        ("flip", f"accuracy at {last} reversed labels below 0 labels", flip, flip.figure().high < 0),
        (
            "swap",
            f"accuracy at {last} labels of another user not above 0 labels",
            swap,
            swap.figure().low <= 0,
        ),
        (
            "nobody",
            f"accuracy at {last} labels above a model that knows no user",
            nobody,
            nobody.figure().low > 0,
        ),
        ("format", f"accuracy of format alone below {last} labels", leak, leak.figure().high < 0),
        (
            "format",
            f"accuracy of format alone not above 0 labels by more than {NEAR}",
            near,
            near.figure().low <= NEAR,
        ),
    ]
    place = f"{own.cell.set}, {own.cell.split}"
    return [Check(place, name, claim, stat.figure(), bool(passed)) for name, claim, stat, passed in found]


def _reversed(pair: TestPair) -> TestPair:
    return replace(pair, better=pair.worse, worse=pair.better)
