"""What wrong and hostile train labels do to other people: labels flipped, and one account that lies a thousand times.

The unseen users' own judgements stay as they are; only what the shared model was fitted on changes. Every variant is
compared with the clean fit on the same pairs.

Reversing a share ε of the labels at random leaves of each (1 − 2ε)² of what it tells (the Fisher information of a weak
effect seen through a binary symmetric channel), even to a fit that knows ε. `thin10` and `thin30` leave out so many
labels that as much is lost: what flips cost beyond that is what a better fit could win back.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.personalization import metrics
from benchmarks.personalization.cells import Result
from benchmarks.personalization.metrics import Figure
from benchmarks.personalization.ours import Fitted, fitted
from benchmarks.personalization.task import Answer, Task, reversed_judgement
from penchant.models.evaluation.split import bucket
from penchant.models.judgements.judgement import Judgement

SETS: Final = ("polis_opendata_en",)
VARIANTS: Final = ("clean", "flip10", "thin10", "flip30", "thin30", "poison")
TITLES: Final = {
    "clean": "clean",
    "flip10": "10 % of the train labels reversed",
    "thin10": "36 % of the train labels left out, which tell as much",
    "flip30": "30 % of the train labels reversed",
    "thin30": "84 % of the train labels left out, which tell as much",
    "poison": "one account adds 1,000 judgements against the consensus",
}
SHOTS: Final = (0, 10)
POISONED: Final = 1000
ACCOUNT: Final = "\N{BIOHAZARD SIGN} poisoned"


def answer(variant: str, task: Task) -> Answer:
    """Predictions of a model fitted on spoilt train judgements.

    Raises:
        ValueError: There is no such variant.
    """
    train = task.parts.train
    match variant:
        case "clean":
            return fitted(task).answer(shots=SHOTS)
        case "flip10":
            train = flipped(train, 0.1)
        case "thin10":
            train = thinned(train, 0.1)
        case "flip30":
            train = flipped(train, 0.3)
        case "thin30":
            train = thinned(train, 0.3)
        case "poison":
            train = [*train, *poison(train)]
        case _:
            raise ValueError(f"no variant {variant!r}")
    return Fitted(task, train).answer(shots=SHOTS)


def flipped(train: Sequence[Judgement], share: float) -> list[Judgement]:
    """Reverses a share of the judgements, chosen by hash of user and texts."""
    return [reversed_judgement(j) if bucket("flip", j.user, *j.texts) < share else j for j in train]


def thinned(train: Sequence[Judgement], share: float) -> list[Judgement]:
    """Leaves out so many judgements, chosen by hash, that the others tell as much as all do with a share reversed."""
    kept = (1 - 2 * share) ** 2
    return [j for j in train if bucket("thin", j.user, *j.texts) < kept]


def poison(train: Sequence[Judgement]) -> list[Judgement]:
    """1,000 judgements of one account: the opposite of what most people say, of the texts that most people judged."""
    rated: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    compared: Counter[tuple[str, str, str]] = Counter()
    for j in train:
        if j.kind in ("rating", "vote"):
            rated[j.context, j.texts[0]].append(j)
        else:
            compared.update((j.context, a, b) for a, b in j.pairs())
    found = [_against(rows) for rows in sorted(rated.values(), key=len, reverse=True)]
    for (context, a, b), times in compared.most_common():
        if times > compared[context, b, a]:
            found.append(Judgement(ACCOUNT, context, "pair", (b, a), source=train[0].source))
    return [found[i % len(found)] for i in range(POISONED)]


def _against(rows: Sequence[Judgement]) -> Judgement:
    one = rows[0]
    middle = sum(one.scale) / 2 if one.kind == "rating" else 0.0
    liked = float(np.mean([j.value for j in rows])) > middle
    low, high = one.scale if one.kind == "rating" else (-1.0, 1.0)
    return replace(one, user=ACCOUNT, value=low if liked else high)


@dataclass(frozen=True)
class Effect:
    """What a variant did to other users' accuracy.

    Attributes:
        place: Set and split.
        variant: Its name.
        k: Judgements of the user's own.
        change: Of accuracy against the clean fit.
    """

    place: str
    variant: str
    k: int
    change: Figure


def effects(results: Mapping[str, Result]) -> list[Effect]:
    """Paired with the clean fit, for one set and split."""
    clean = results["clean"]
    drawn = metrics.repetitions([clean.asked])
    curves = {name: metrics.curve(drawn, [result.answer.better]) for name, result in results.items()}
    return [
        Effect(
            f"{clean.cell.set}, {clean.cell.split}",
            name,
            k,
            (curves[name].accuracy[k] - curves["clean"].accuracy[k]).figure(),
        )
        for name in VARIANTS[1:]
        for k in SHOTS
    ]
