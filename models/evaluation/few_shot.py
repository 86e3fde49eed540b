"""Few-shot evaluation: how well is a new user's next comparison predicted after k of their own judgements?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.checkpoint import Progress, ignore_progress
from penchant.models.evaluation.split import TestPair
from penchant.models.judgements.judgement import Judgement
from penchant.models.ranking.selection import preference_logits
from penchant.models.taste.cohort import JudgementSteps, is_rank_one, learn_online
from penchant.models.taste.items import Items, item_key
from penchant.models.taste.observations import Observation
from penchant.models.taste.population import Beliefs
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel, build_observation

Vector = NDArray[np.float64]
Vectors = Mapping[tuple[str, str], NDArray[np.float16]]

SHOTS: Final = (0, 3, 10, 30, 100)


class Catalogue:
    """Every (context, text) of an evaluation, described once by a reward model."""

    def __init__(self, reward: RewardModel, vectors: Vectors) -> None:
        self._rows = {item: i for i, item in enumerate(vectors)}
        keys = [item_key(context, text) for context, text in vectors]
        self.items = reward.describe(np.stack(list(vectors.values())), keys)

    def places(self, judgement: Judgement) -> list[int]:
        """Rows of the texts that were judged."""
        return [self._rows[judgement.context, text] for text in judgement.texts]

    def rows(self, items: Sequence[tuple[str, str]]) -> Items:
        """Items of (context, text) pairs."""
        return self.items[[self._rows[item] for item in items]]


def observed(judgement: Judgement, reward: RewardModel, catalogue: Catalogue) -> Observation | None:
    """A judgement in its native form; None where it says nothing."""
    return build_observation(
        reward,
        catalogue.rows([(judgement.context, text) for text in judgement.texts]),
        kind=judgement.kind,
        value=judgement.normalised if judgement.kind == "rating" else judgement.value,
        weight=judgement.weight,
        source=judgement.source,
        groups=judgement.groups,
    )


@dataclass(frozen=True)
class Adapted:
    """One unseen user after k of their judgements, for every k, and the pairs to predict.

    Attributes:
        beliefs: About the user, by k.
        better: m items that were preferred.
        worse: m items that were not.
        texts: `[m, 2]` index of (better, worse) text.
    """

    beliefs: dict[int, Beliefs]
    better: Items
    worse: Items
    texts: NDArray[np.int64]


def adapt(
    reward: RewardModel,
    vectors: Vectors,
    support: Mapping[str, Sequence[Judgement]],
    test: Mapping[str, Sequence[TestPair]],
    *,
    shots: Sequence[int] = SHOTS,
    progress: Progress = ignore_progress,
) -> list[Adapted]:
    """Learns every unseen user's first k support judgements; k beyond what a user has means all they have."""
    catalogue = Catalogue(reward, vectors)
    known: dict[str, dict[int, Beliefs]] = {user: {} for user in test}
    most = max(shots)
    at_once = [user for user in test if all(is_rank_one(j) for j in support[user][:most])]
    steps = JudgementSteps.build(
        reward,
        catalogue.items,
        [[(j, catalogue.places(j)) for j in support[user][:most]] for user in at_once],
    )
    for number, (k, beliefs) in enumerate(learn_online(reward.population, steps, shots)):
        for user, found in zip(at_once, beliefs, strict=True):
            known[user][k] = found
        progress("learn", number + 1, len(shots))
    for user in known.keys() - set(at_once):
        known[user] = _learn_one(reward, catalogue, support[user], shots)
    text_index: dict[str, int] = {}
    adapted = []
    for user, pairs in test.items():
        rows = [[text_index.setdefault(t, len(text_index)) for t in (p.better, p.worse)] for p in pairs]
        adapted.append(
            Adapted(
                known[user],
                catalogue.rows([(p.context, p.better) for p in pairs]),
                catalogue.rows([(p.context, p.worse) for p in pairs]),
                np.array(rows, np.int64),
            )
        )
    return adapted


def _learn_one(
    reward: RewardModel, catalogue: Catalogue, support: Sequence[Judgement], shots: Sequence[int]
) -> dict[int, Beliefs]:
    """One user, one judgement after the other: for listwise judgements, whose sites are not rank one."""
    posterior, known, learned = UserPosterior.at_prior(reward.population), {}, 0
    for k in sorted(shots):
        for judgement in support[learned:k]:
            said = observed(judgement, reward, catalogue)
            if said is not None:
                posterior = posterior.learn(said)
        learned = max(k, learned)
        known[k] = posterior.beliefs
    return known


@dataclass(frozen=True)
class Predictions:
    """Few-shot predictions of one repetition.

    Attributes:
        users: `[n_pairs]` index of the user of each test pair, grouped.
        texts: `[n_pairs, 2]` index of (better, worse) text.
        better: By k, `[n_pairs]` P(better ≻ worse).
    """

    users: NDArray[np.int64]
    texts: NDArray[np.int64]
    better: dict[int, Vector]


class Forecast:
    """Predictions for any temperature: the part that does not depend on it is computed once."""

    def __init__(self, adapted: Sequence[Adapted]) -> None:
        self._users = np.concatenate([np.full(len(a.better), number) for number, a in enumerate(adapted)])
        self._texts = np.concatenate([a.texts for a in adapted])
        self._weights: dict[int, Vector] = {}
        self._logits: dict[int, Vector] = {}
        for k in adapted[0].beliefs:
            logits = [preference_logits(a.beliefs[k], a.better, a.worse) for a in adapted]
            self._logits[k] = np.concatenate(logits, axis=1)
            weights = [a.beliefs[k].weights for a in adapted]
            self._weights[k] = np.stack(weights, axis=1)[:, self._users]

    def at(self, temperature: float) -> Predictions:
        """P(better ≻ worse) of every test pair at every k."""
        better = {
            k: np.asarray((self._weights[k] * expit(temperature * logits)).sum(axis=0))
            for k, logits in self._logits.items()
        }
        return Predictions(self._users, self._texts, better)


def predict(reward: RewardModel, adapted: Sequence[Adapted]) -> Predictions:
    """P(better ≻ worse) of every test pair at every k, with the reward model's temperature."""
    return Forecast(adapted).at(reward.temperature)
