"""Fitting a gate: which directions tell kinds of prompt apart, and how much users' taste depends on them.

The directions are the principal components of the prompts' embeddings, weighted by judgements. Mean and variance of the
users' weights on the products are estimated by EM: every user is learned from their judgements, then both are set to the
moments of the users' posteriors. A product that no user's taste depends on gets a small variance and thereby vanishes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from penchant.models.errors import ModelError
from penchant.models.evaluation.few_shot import Catalogue, Vectors
from penchant.models.evaluation.split import bucket
from penchant.models.fitting.em import Fit
from penchant.models.fitting.relevance import CrossTable
from penchant.models.fitting.taste_families import compute_directions
from penchant.models.judgements.judgement import Judgement
from penchant.models.judgements.kinds import Preference
from penchant.models.taste.cohort import JudgementSteps, is_rank_one, learn_online
from penchant.models.taste.gate import Gate
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

GateOption = int | Literal["auto"]
"""0 for no gate, the number of gate values of a gate that is wanted, or `auto` for one only where it pays."""

GATE_SIZES: Final = (1, 2, 4)
"""Numbers of gate values that `tuning` tries."""

MAX_GATE: Final = 16
"""Largest number of gate values. A user has a coordinate for each of them and each gated direction."""

GATED_FAMILIES: Final = ("length", "style", "content-8")
"""Families of gated directions that `tuning` tries."""

START_VARIANCE: Final = 0.3
"""Variance of a user's weight on a product that EM starts from."""

SMALLEST_VARIANCE: Final = 1e-6
EM_ROUNDS: Final = 8
EM_USERS: Final = 200
EM_JUDGEMENTS: Final = 40
"""Largest number of judgements of a user that EM learns from."""

SMALLEST_COMPONENT: Final = 1e-3
"""Smallest variance of a prompt direction, relative to that of the first."""


class GateError(ModelError, ValueError):
    """A gate cannot be fitted to these judgements."""


@dataclass(frozen=True)
class PromptDirections:
    """Principal components of prompts' embeddings.

    Attributes:
        centre: `[E]` mean embedding.
        projection: `[E, n]` components, largest first, scaled to variance 1.
    """

    centre: Vector
    projection: Vector

    @classmethod
    def fit(cls, judgements: Sequence[Judgement], vectors: CrossTable) -> "PromptDirections":
        """Return the components of the embeddings of the judgements' prompts; none for a single prompt."""
        counts = Counter(j.context for j in judgements if vectors.has_prompt(j.context))
        if not counts:
            return cls(np.zeros(vectors.prompt_dim), np.zeros((vectors.prompt_dim, 0)))
        embedded = np.stack([vectors.get_prompt(prompt) for prompt in counts]).astype(np.float64)
        weights = np.array(list(counts.values()), np.float64)
        weights /= weights.sum()
        centre = weights @ embedded
        deviations = embedded - centre
        values, axes = np.linalg.eigh((weights * deviations.T) @ deviations)
        values, axes = values[::-1], axes[:, ::-1]
        kept = values > max(SMALLEST_COMPONENT * values[0], 1e-9)
        axes = axes[:, kept]
        # A fixed sign, so that equal judgements give an equal bundle on every machine.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
        # Rounded as in a bundle, so that a model serves with the numbers that it was fitted with.
        projection = (axes / values[kept] ** 0.5).astype(np.float32).astype(np.float64)
        return cls(centre.astype(np.float32).astype(np.float64), projection)


class GateFitter:
    """Adds gates to reward models.

    Args:
        judgements: Judgements of the users that a gate is fitted to.
        vectors: Features of every judged (context, text), with the embeddings of prompts.

    Raises:
        GateError: If the features do not hold the embeddings of prompts.
    """

    def __init__(self, judgements: Sequence[Judgement], vectors: Vectors) -> None:
        if not isinstance(vectors, CrossTable) or not vectors.prompt_dim:
            raise GateError("a gate needs features that hold the embeddings of prompts")
        self._vectors = vectors
        self._directions = PromptDirections.fit(judgements, vectors)
        by_user: dict[str, list[Judgement]] = defaultdict(list)
        for judgement in judgements:
            by_user[judgement.user].append(judgement)
        users = sorted(by_user, key=lambda user: bucket("gate", user))[:EM_USERS]
        self._histories = [
            list(islice((pair for j in by_user[user] for pair in _split_pairs(j)), EM_JUDGEMENTS))
            for user in users
        ]

    def add(self, reward: RewardModel, fit: Fit, gated: str, size: int) -> RewardModel:
        """Return a reward model with a gate.

        Args:
            reward: Reward model of the fit.
            fit: Fit that holds the standardised features.
            gated: Family of gated directions, as in `taste_families`, or several joined by `+`.
            size: Number of gate values. If the prompts vary in fewer directions, their number.

        Cost: that of learning up to `EM_USERS` users `EM_ROUNDS` times.
        """
        loadings, _ = compute_directions(gated, fit)
        # Rounded as in a bundle.
        loadings = loadings.astype(np.float32).astype(np.float64)
        gate = Gate(self._directions.centre, self._directions.projection[:, :size], loadings)
        means, variances = np.zeros(gate.products), np.full(gate.products, START_VARIANCE)
        gated_reward = reward.with_gate(gate, means, variances)
        if gate.products and self._histories:
            steps = self._build_steps(gated_reward)
            for _ in range(EM_ROUNDS):
                means, variances = _update_moments(gated_reward, steps)
                gated_reward = reward.with_gate(gate, means, variances)
        return gated_reward

    def _build_steps(self, reward: RewardModel) -> JudgementSteps:
        items = dict.fromkeys(
            (j.context, text) for history in self._histories for j in history for text in j.texts
        )
        catalogue = Catalogue(reward, {item: self._vectors[item] for item in items})
        histories = [[(j, catalogue.rows_of(j)) for j in history] for history in self._histories]
        return JudgementSteps.build(reward, catalogue.items, histories)


def _update_moments(reward: RewardModel, steps: JudgementSteps) -> tuple[Vector, Vector]:
    """Return mean and variance `[c·g]` of the users' weights on the products, given those of the reward model."""
    ((_, beliefs),) = learn_online(reward.population, steps, (EM_JUDGEMENTS,))
    weights = np.stack([user.mean[-reward.products :] for user in beliefs])
    uncertainty = np.stack([user.covariance.diagonal()[-reward.products :] for user in beliefs])
    mean = weights.mean(axis=0)
    return mean, np.maximum(((weights - mean) ** 2 + uncertainty).mean(axis=0), SMALLEST_VARIANCE)


def _split_pairs(judgement: Judgement) -> Iterator[Judgement]:
    """Yield a judgement of one or two texts as it is, one of more texts as comparisons of neighbours."""
    if is_rank_one(judgement):
        yield judgement
        return
    for better, worse in judgement.pairs():
        yield replace(judgement, kind=Preference.name, texts=(better, worse), groups=())
