"""`RewardModel`: feature vectors in, items of the user model out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penchant.models.judgements import kinds
from penchant.models.judgements.judgement import DEFAULT_SOURCE
from penchant.models.taste.items import Items
from penchant.models.taste.likelihood import Observation, Pair, Ranking, Rating, RatingScale, Vote
from penchant.models.taste.population import Population
from penchant.models.taste.text_prior import TextPrior

REFERENCE_KEY = b"reference"


def item_key(context: str, text: str) -> bytes:
    """Key of an item in the item memory: what was judged is a text in its context. 16 bytes."""
    context_bytes = context.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(len(context_bytes).to_bytes(8, "big"), digest_size=16)
    digest.update(context_bytes)
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def item_keys(contexts: Sequence[str], texts: Sequence[str]) -> tuple[bytes, ...]:
    """`item_key` of n texts in their contexts; a context that is the one before it is hashed once."""
    keys, last, begun = [], None, hashlib.blake2b(digest_size=16)
    for context, text in zip(contexts, texts, strict=True):
        if context is not last:
            last, context_bytes = context, context.encode("utf-8", "surrogatepass")
            begun = hashlib.blake2b(len(context_bytes).to_bytes(8, "big") + context_bytes, digest_size=16)
        digest = begun.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return tuple(keys)


@dataclass(frozen=True)
class ItemMemory:
    """Posterior of the coordinates of texts that many users judged: their learned residuals.

    Attributes:
        rows: Item key to row.
        means: `[n_items, m]`.
        variances: `[n_items, m]`.
    """

    rows: Mapping[bytes, int]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]

    @classmethod
    def empty(cls, m: int) -> "ItemMemory":
        """No item is known."""
        return cls({}, np.zeros((0, m)), np.zeros((0, m)))


@dataclass(frozen=True)
class RewardModel:
    """Shared taste and the space in which people differ.

    u_i(x) = t_i + b_x + z_i·v_x. The first m = 1 + rank item coordinates c = [b; v] come from the text prior (and the
    item memory); behind them stand `loadings`, fixed directions of the features, known without error.

    Attributes:
        text_prior: c given the text.
        population: Prior over users, q = 1 + rank + number of loadings.
        temperature: Multiplies a utility difference before it becomes a probability; chosen on held-out users.
        reference: The population's median answer: median base utility, mean directions (one row).
        scales: Rating scale by source; `default` serves a source that is not listed.
        memory: Texts with learned residuals.
        flips: How often labels are wrong, by source.
        loadings: `[d, p]` on the features x.
    """

    text_prior: TextPrior
    population: Population
    temperature: float
    reference: Items
    scales: Mapping[str, RatingScale]
    loadings: NDArray[np.float64]
    memory: ItemMemory = field(repr=False)
    flips: Mapping[str, float] = field(default_factory=dict)

    @property
    def q(self) -> int:
        """Coordinates of a user."""
        return self.population.q

    @cached_property
    def rank(self) -> int:
        """Directions of taste that were learned."""
        return int(self.q - 1 - self.loadings.shape[1])

    def describe(self, vectors: NDArray[np.float16], item_keys: Sequence[bytes] | None = None) -> Items:
        """Items of n texts.

        Args:
            vectors: `[n, dim]` features as `FeatureExtractor` gives them.
            item_keys: n keys from `item_key`: they look up the item memory, and equal keys are one text. None: texts
                are told apart by their vectors and nothing is looked up.

        Cost: O(n d m r) for the uncertainty of the text prior.
        """
        keys = tuple(item_keys) if item_keys is not None else tuple(row.tobytes() for row in vectors)
        x = self.text_prior.standardiser(vectors)
        means, variances = self.text_prior.predict_standardised(x)
        for i, key in enumerate(keys):
            row = self.memory.rows.get(key)
            if row is not None:
                means[i], variances[i] = self.memory.means[row], self.memory.variances[row]
        return self._items(means, variances, x @ self.loadings, keys)

    def with_tastes(self, loadings: NDArray[np.float64], variances: NDArray[np.float64]) -> "RewardModel":
        """This model with tastes for given directions of features beside the learned ones.

        A user may weigh each of them for themselves, w ~ N(0, variance), whether or not the fitted data show that people
        differ in it: this catches what a user likes outside the learned directions.

        Args:
            loadings: `[d, p]` directions of x.
            variances: `[p]` prior variance of a user's weight on each.
        """
        p = loadings.shape[1]
        population = self.population
        k_archetypes, q = population.means.shape
        precisions = np.zeros((k_archetypes, q + p, q + p))
        precisions[:, :q, :q] = population.precisions
        precisions[:, range(q, q + p), range(q, q + p)] = 1 / variances
        reference = self.reference
        return replace(
            self,
            loadings=np.concatenate([self.loadings, loadings], axis=1),
            population=Population(
                population.weights,
                np.concatenate([population.means, np.zeros((k_archetypes, p))], axis=1),
                precisions,
            ),
            # Features are standardised on the fitted texts: the median answer stands at 0.
            reference=replace(
                reference,
                directions=np.concatenate([reference.directions, np.zeros((1, p))], axis=1),
                direction_variance=np.concatenate([reference.direction_variance, np.zeros((1, p))], axis=1),
            ),
        )

    def with_attribute_tastes(self, variances: Mapping[int, float]) -> "RewardModel":
        """`with_tastes` for single features: column of x to prior variance."""
        loadings = np.zeros((self.text_prior.standardiser.width, len(variances)))
        loadings[list(variances), range(len(variances))] = 1.0
        return self.with_tastes(loadings, np.array(list(variances.values())))

    @staticmethod
    def _items(
        means: NDArray[np.float64],
        variances: NDArray[np.float64],
        fixed: NDArray[np.float64],
        keys: tuple[bytes, ...],
    ) -> Items:
        """Splits coordinates `[n, m]` into base and directions; fixed directions `[n, p]` have no residual."""
        return Items(
            means[:, 0],
            variances[:, 0],
            np.concatenate([means[:, 1:], fixed], axis=1),
            np.concatenate([variances[:, 1:], np.zeros_like(fixed)], axis=1),
            keys,
        )

    def flip(self, source: str | None = None) -> float:
        """How often a source's labels are wrong; `default` serves a source that is not listed."""
        return self.flips.get(source or DEFAULT_SOURCE, self.flips.get(DEFAULT_SOURCE, 0.0))

    def rating_scale(self, source: str | None = None) -> RatingScale:
        """How a source's ratings, normalised to [-1, 1], arise from utility."""
        return self.scales.get(source or DEFAULT_SOURCE, self.scales[DEFAULT_SOURCE])


def observation(
    reward: RewardModel,
    items: Items,
    *,
    kind: str,
    value: float | None = None,
    weight: float = 1.0,
    source: str | None = None,
    groups: tuple[int, ...] = (),
) -> Observation | None:
    """A judgement in its native form.

    Args:
        reward: Knows the source's rating scale and how often its labels are wrong.
        items: The judged texts, winner first: (chosen, rejected), (edited, original), (chosen, the others shown …),
            (best, …, worst), or the one item rated.
        kind: Name of the kind of judgement, as in `Judgement.kind`.
        value: ±1 of a vote, [-1, 1] of a rating.
        weight: In [0, 1]; for an edit, how much it changed.
        source: Where it comes from.
        groups: Sizes of a ranking's groups of tied texts, best first; () means no ties.

    Returns:
        None where nothing is said: a weight of 0, all tied, or only one text compared with itself.

    Raises:
        ValueError: An unknown kind, a kind with a wrong number of items, or a vote or rating without value.
    """
    n, flip = len(items), reward.flip(source)
    judgement = kinds.BY_NAME.get(kind)
    if judgement is None or not judgement.can_judge(n) or (value is None and judgement.form != "comparison"):
        raise ValueError(f"{kind!r} of {n} items with value {value}")
    if not weight:
        return None
    if judgement.form == "vote":
        return Vote(items, 1 if value and value > 0 else -1, weight, flip)
    if judgement.form == "rating":
        return Rating(items, value or 0.0, reward.rating_scale(source), weight, flip)
    groups = groups or judgement.default_groups(n)
    if len(groups) == 1 or len(set(items.keys)) == 1:
        return None
    if groups == (1, 1):
        return Pair(items[0], items[1], weight, flip)
    return Ranking(items, groups, weight, flip)
