"""The effect of wrong and hostile training labels on other users: flipped labels, and an account with 1,000 lies.

The unseen users' own judgements stay unchanged. Only the data that the shared model is fitted on changes. Every
variant is compared with the clean fit on the same pairs.

Reversing a share ε of the labels at random keeps (1 − 2ε)² of each label's information (the Fisher information of a
weak effect seen through a binary symmetric channel), even for a fit that knows ε. `thin10` and `thin30` leave out so
many labels that the same amount of information is lost. A better fit could only win back the additional loss that
flips cause.
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
    "thin10": "36 % of the train labels left out, with the same loss of information",
    "flip30": "30 % of the train labels reversed",
    "thin30": "84 % of the train labels left out, with the same loss of information",
    "poison": "one account adds 1,000 judgements against the consensus",
}
SHOTS: Final = (0, 10)
POISONED: Final = 1000
ACCOUNT: Final = "\N{BIOHAZARD SIGN} poisoned"


def answer(variant: str, task: Task) -> Answer:
    """Return predictions of a model fitted on corrupted training judgements.

    Raises:
        ValueError: If the variant does not exist.
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
    """Reverse a share of the judgements, chosen by hash of user and texts."""
    return [reversed_judgement(j) if bucket("flip", j.user, *j.texts) < share else j for j in train]


def thinned(train: Sequence[Judgement], share: float) -> list[Judgement]:
    """Leave out judgements, chosen by hash, until the rest has as much information as all with a share reversed."""
    kept = (1 - 2 * share) ** 2
    return [j for j in train if bucket("thin", j.user, *j.texts) < kept]


def poison(train: Sequence[Judgement]) -> list[Judgement]:
    """Return 1,000 judgements of one account: the opposite of the majority's, on the texts that most people judged."""
    rated: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    compared: Counter[tuple[str, str, str]] = Counter()
    for j in train:
        if j.form != "comparison":
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
    """The effect of a variant on other users' accuracy.

    Attributes:
        place: Set and split.
        variant: Name of the variant.
        k: Number of the user's own judgements.
        change: Change of accuracy against the clean fit.
    """

    place: str
    variant: str
    k: int
    change: Figure


def effects(results: Mapping[str, Result]) -> list[Effect]:
    """Return the effects on one set and split, paired with the clean fit."""
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
