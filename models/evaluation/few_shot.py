"""Few-shot evaluation: predictions of a new user's comparisons after k of their own judgements."""

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
from penchant.models.taste.observing import build_observation
from penchant.models.taste.population import Beliefs
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]
Vectors = Mapping[tuple[str, str], NDArray[np.float16]]

SHOTS: Final = (0, 3, 10, 30, 100)


class Catalogue:
    """All (context, text) items of an evaluation, described once by a reward model."""

    def __init__(self, reward: RewardModel, vectors: Vectors) -> None:
        self._rows = {item: i for i, item in enumerate(vectors)}
        keys = [item_key(context, text) for context, text in vectors]
        self.items = reward.describe(np.stack(list(vectors.values())), keys)

    def rows_of(self, judgement: Judgement) -> list[int]:
        """Return the rows of the judged texts."""
        return [self._rows[judgement.context, text] for text in judgement.texts]

    def select(self, items: Sequence[tuple[str, str]]) -> Items:
        """Return the items of (context, text) pairs."""
        return self.items[[self._rows[item] for item in items]]


def observe(judgement: Judgement, reward: RewardModel, catalogue: Catalogue) -> Observation | None:
    """Return a judgement as an observation. None if it carries no information."""
    return build_observation(
        reward,
        catalogue.select([(judgement.context, text) for text in judgement.texts]),
        kind=judgement.kind,
        value=judgement.normalised,
        weight=judgement.weight,
        source=judgement.source,
        groups=judgement.groups,
    )


@dataclass(frozen=True)
class Adapted:
    """An unseen user's beliefs after k of their judgements, for every k, and the pairs to predict.

    Attributes:
        beliefs: Beliefs about the user, by k.
        better: m preferred items.
        worse: The m items that they were preferred to.
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
    """Learn the first k support judgements of every unseen user, or all of them if there are fewer than k."""
    catalogue = Catalogue(reward, vectors)
    beliefs_of: dict[str, dict[int, Beliefs]] = {user: {} for user in test}
    most = max(shots)
    rank_one_users = [user for user in test if all(is_rank_one(j) for j in support[user][:most])]
    steps = JudgementSteps.build(
        reward,
        catalogue.items,
        [[(j, catalogue.rows_of(j)) for j in support[user][:most]] for user in rank_one_users],
    )
    for number, (k, beliefs) in enumerate(learn_online(reward.population, steps, shots)):
        for user, user_beliefs in zip(rank_one_users, beliefs, strict=True):
            beliefs_of[user][k] = user_beliefs
        progress("learn", number + 1, len(shots))
    for user in beliefs_of.keys() - set(rank_one_users):
        beliefs_of[user] = _learn_user(reward, catalogue, support[user], shots)
    text_index: dict[str, int] = {}
    adapted = []
    for user, pairs in test.items():
        rows = [[text_index.setdefault(t, len(text_index)) for t in (p.better, p.worse)] for p in pairs]
        adapted.append(
            Adapted(
                beliefs_of[user],
                catalogue.select([(p.context, p.better) for p in pairs]),
                catalogue.select([(p.context, p.worse) for p in pairs]),
                np.array(rows, np.int64),
            )
        )
    return adapted


def _learn_user(
    reward: RewardModel, catalogue: Catalogue, support: Sequence[Judgement], shots: Sequence[int]
) -> dict[int, Beliefs]:
    """Beliefs by k of a user with listwise judgements, whose sites are not of rank one."""
    posterior, beliefs, learned = UserPosterior.at_prior(reward.population), {}, 0
    for k in sorted(shots):
        for judgement in support[learned:k]:
            observation = observe(judgement, reward, catalogue)
            if observation is not None:
                posterior = posterior.learn(observation)
        learned = max(k, learned)
        beliefs[k] = posterior.beliefs
    return beliefs


@dataclass(frozen=True)
class Predictions:
    """Few-shot predictions of one repetition.

    Attributes:
        users: `[n_pairs]` index of the user of each test pair, grouped.
        texts: `[n_pairs, 2]` index of (better, worse) text.
        better: `[n_pairs]` P(better ≻ worse), by k.
    """

    users: NDArray[np.int64]
    texts: NDArray[np.int64]
    better: dict[int, Vector]


class Forecast:
    """Predictions at any temperature. The part that does not depend on it is computed once."""

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

    def predict(self, temperature: float) -> Predictions:
        """Return P(better ≻ worse) of every test pair at every k."""
        better = {
            k: np.asarray((self._weights[k] * expit(temperature * logits)).sum(axis=0))
            for k, logits in self._logits.items()
        }
        return Predictions(self._users, self._texts, better)


def predict(reward: RewardModel, adapted: Sequence[Adapted]) -> Predictions:
    """Return P(better ≻ worse) of every test pair at every k, at the reward model's temperature."""
    return Forecast(adapted).predict(reward.temperature)
