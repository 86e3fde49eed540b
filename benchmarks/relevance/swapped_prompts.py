"""Part `prompts`: with the wrong prompts, judged pairs must not be predicted better than with their own."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.relevance import metrics
from benchmarks.relevance.metrics import Figure, Vector
from penchant.models.judgements.files import load
from penchant.models.judgements.judgement import Judgement
from penchant.models.ranking.selection import preference_probability
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

Item = tuple[str, str]
Vectors = Mapping[Item, NDArray[np.float16]]
Extract = Callable[[Sequence[Item]], Vectors]

SETS: Final = ("crowdrag25_pairwise", "expertqa_edits", "ukp_convarg1", "scratchplot_stories")
MAX_PAIRS: Final = 2000
MATCHES: Final = 5
"""Number of better-rated answers that each worse-rated one is compared with."""

SEED: Final = 11


@dataclass(frozen=True)
class Compared:
    """A pair of texts, one of which is better.

    Attributes:
        better: (prompt, text) that was preferred.
        worse: The other (prompt, text). Its prompt differs if answers to different questions were rated.
        cluster: Name shared by the pairs that depend on each other.
    """

    better: Item
    worse: Item
    cluster: str


@dataclass(frozen=True)
class PromptRow:
    """Pairs of one kind of one set.

    Attributes:
        pairs: Name of the set and kind of judgement.
        number: Number of pairs.
        right: Accuracy with the pairs' own prompts; a tie counts half.
        wrong: Accuracy with other prompts of the set.
        gain: `right` minus `wrong`, paired.
        own: Share of texts that are preferred, under their own prompt, to a text that answers another one. None if all
            texts answer several prompts.
    """

    pairs: str
    number: int
    right: Figure
    wrong: Figure
    gain: Figure
    own: Figure | None

    @property
    def passed(self) -> bool:
        """Whether the wrong prompts are not better."""
        return self.gain.high >= 0


def measure_swapped_prompts(reward: RewardModel, extract: Extract, data: Path) -> list[PromptRow]:
    """Return a row for each set and kind of pair. Sets that the folder does not hold are left out.

    Args:
        reward: Reward model.
        extract: Function that returns the feature vector of each (prompt, text). It is called once.
        data: Folder of the sets.
    """
    probes = []
    for name in SETS:
        path = data / name / "data.jsonl.gz"
        if path.exists():
            judgements = load([path])
            wrong = swap_prompts([judgement.context for judgement in judgements])
            probes += [
                Probe(f"{name}: {kind}s", pairs, wrong) for kind, pairs in pairs_of(judgements).items()
            ]
    return measure_probes(probes, reward, extract)


def measure_probes(probes: Sequence["Probe"], reward: RewardModel, extract: Extract) -> list[PromptRow]:
    """Return a row for each probe."""
    needed = list(dict.fromkeys(item for probe in probes for item in probe.items))
    vectors = extract(needed) if needed else {}
    return [probe.measure(reward, vectors) for probe in probes]


def pairs_of(judgements: Sequence[Judgement], most: int = MAX_PAIRS) -> dict[str, list[Compared]]:
    """Return the pairs of a set by kind of judgement. Ratings become pairs by the mean rating of each text.

    Args:
        judgements: Judgements of one set.
        most: Largest number of pairs of a kind; a seeded sample if there are more.
    """
    rng = np.random.default_rng(SEED)
    found: dict[str, list[Compared]] = {}
    for judgement in judgements:
        if judgement.form != "comparison":
            continue
        for better, worse in judgement.pairs():
            cluster = "\x1f".join(sorted((better, worse)))
            found.setdefault(judgement.kind, []).append(
                Compared((judgement.context, better), (judgement.context, worse), cluster)
            )
    if rated := _rated([j for j in judgements if j.form == "rating"], rng):
        found["rating"] = rated
    return {
        kind: [pairs[i] for i in np.sort(rng.permutation(len(pairs))[:most])] for kind, pairs in found.items()
    }


def _rated(ratings: Sequence[Judgement], rng: np.random.Generator) -> list[Compared]:
    """Compare each rated text with some that got more: of its prompt, or of any if no other text answers its prompt."""
    values: dict[Item, list[float]] = {}
    for judgement in ratings:
        values.setdefault((judgement.context, judgement.texts[0]), []).append(judgement.normalised)
    means = {item: float(np.mean(found)) for item, found in values.items()}
    texts = Counter(prompt for prompt, _ in means)
    pairs = []
    for worse, mean in means.items():
        alone = texts[worse[0]] == 1
        better = [item for item, other in means.items() if other > mean and (alone or item[0] == worse[0])]
        pairs += [
            Compared(better[i], worse, "\x1f".join(worse)) for i in rng.permutation(len(better))[:MATCHES]
        ]
    return pairs


class Probe:
    """Pairs with their own prompts and with wrong ones.

    Args:
        name: Name in the report.
        pairs: The pairs.
        wrong: A wrong prompt for each prompt.
    """

    def __init__(self, name: str, pairs: Sequence[Compared], wrong: Mapping[str, str]) -> None:
        self._name = name
        self._clusters = [pair.cluster for pair in pairs]
        self._right = [(pair.better, pair.worse) for pair in pairs]
        self._swapped = [
            ((wrong[pair.better[0]], pair.better[1]), (wrong[pair.worse[0]], pair.worse[1])) for pair in pairs
        ]
        self._own = _against_other_answers(pairs, wrong)

    @property
    def items(self) -> list[Item]:
        """Every (prompt, text) that is compared."""
        pairs = (*self._right, *self._swapped, *self._own)
        return list(dict.fromkeys(item for pair in pairs for item in pair))

    def measure(self, reward: RewardModel, vectors: Vectors) -> PromptRow:
        """Return the accuracies for no user.

        Args:
            reward: Reward model.
            vectors: Feature vector of every (prompt, text) of `items`.
        """
        rows = {item: row for row, item in enumerate(self.items)}
        # Without keys the item memory is not used: it knows judged texts under their own prompts only.
        items = reward.describe(np.stack([vectors[item] for item in rows]))
        nobody = UserPosterior.at_prior(reward.population)

        def accuracy(pairs: Sequence[tuple[Item, Item]]) -> Vector:
            better, worse = (items[[rows[pair[side]] for pair in pairs]] for side in (0, 1))
            probability = preference_probability(reward, nobody, better, worse)
            return np.where(probability == 0.5, 0.5, (probability > 0.5).astype(np.float64))

        right, swapped = accuracy(self._right), accuracy(self._swapped)
        return PromptRow(
            self._name,
            len(right),
            metrics.mean_by_cluster(right, self._clusters),
            metrics.mean_by_cluster(swapped, self._clusters),
            metrics.mean_by_cluster(right - swapped, self._clusters),
            metrics.mean(accuracy(self._own)) if self._own else None,
        )


def swap_prompts(prompts: Iterable[str]) -> dict[str, str]:
    """Return a wrong prompt for each prompt: the next one in a seeded order.

    Raises:
        ValueError: If there is only one prompt.
    """
    distinct = sorted(set(prompts))
    if len(distinct) < 2:
        raise ValueError("the set has one prompt only, so there is no wrong one")
    order = [distinct[i] for i in np.random.default_rng(SEED).permutation(len(distinct))]
    return dict(zip(order, order[1:] + order[:1], strict=True))


def _against_other_answers(pairs: Sequence[Compared], wrong: Mapping[str, str]) -> list[tuple[Item, Item]]:
    """Pair each text, under its own prompt, with a text that answers another prompt.

    Texts that answer several prompts are not used.
    """
    prompts: dict[str, set[str]] = {}
    for pair in pairs:
        for prompt, text in (pair.better, pair.worse):
            prompts.setdefault(text, set()).add(prompt)
    single = {text: next(iter(found)) for text, found in prompts.items() if len(found) == 1}
    answers = {prompt: text for text, prompt in single.items()}
    return [
        ((prompt, text), (prompt, answers[wrong[prompt]]))
        for text, prompt in single.items()
        if wrong[prompt] in answers
    ]
