"""`RewardModel`: feature vectors in, items of the user model out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penchant.models.items import Items
from penchant.models.likelihood import RatingScale
from penchant.models.population import Population
from penchant.models.text_prior import TextPrior

DEFAULT_SOURCE = "default"
REFERENCE_KEY = b"reference"


def item_key(context: str, text: str) -> bytes:
    """Key of an item in the item memory: what was judged is a text in its context. 16 bytes."""
    context_bytes = context.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(len(context_bytes).to_bytes(8, "big"), digest_size=16)
    digest.update(context_bytes)
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()


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
    item memory); behind them stand `loadings`, directions fixed as attributes of the text, known without error.

    Attributes:
        text_prior: c given the text.
        population: Prior over users, q = 1 + rank + number of loadings.
        temperature: Multiplies a utility difference before it becomes a probability; chosen on held-out users.
        reference: The population's median answer: median base utility, mean directions (one row).
        scales: Rating scale by source; `default` serves a source that is not listed.
        memory: Texts with learned residuals.
        loadings: `[d, p]` on standardised features.
    """

    text_prior: TextPrior
    population: Population
    temperature: float
    reference: Items
    scales: Mapping[str, RatingScale]
    loadings: NDArray[np.float64]
    memory: ItemMemory = field(repr=False)

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
        means, variances = self.text_prior.predict(vectors)
        for i, key in enumerate(keys):
            row = self.memory.rows.get(key)
            if row is not None:
                means[i], variances[i] = self.memory.means[row], self.memory.variances[row]
        return self._items(means, variances, self.text_prior.standardiser(vectors) @ self.loadings, keys)

    def with_attribute_tastes(self, variances: Mapping[int, float]) -> "RewardModel":
        """This model with tastes for single features beside the learned directions.

        A user may weigh each of these features for themselves, w ~ N(0, variance), whether or not the fitted data show
        that people differ in it: how long an answer should be is a matter of taste that no set of short statements
        can teach.

        Args:
            variances: Standardised feature to prior variance of a user's weight on it.
        """
        p, d = len(variances), len(self.text_prior.standardiser.centre) + 1
        loadings = np.zeros((d, p))
        loadings[list(variances), range(p)] = 1.0
        population = self.population
        k_archetypes, q = population.means.shape
        precisions = np.zeros((k_archetypes, q + p, q + p))
        precisions[:, :q, :q] = population.precisions
        precisions[:, range(q, q + p), range(q, q + p)] = 1 / np.array(list(variances.values()))
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

    def flip(self, source: str | None = None) -> float:  # noqa: ARG002 - learned by source, in time
        """How often the labels of a source are wrong: nothing is known of that yet."""
        return 0.0

    def rating_scale(self, source: str | None = None) -> RatingScale:
        """How a source's ratings, normalised to [-1, 1], arise from utility."""
        return self.scales.get(source or DEFAULT_SOURCE, self.scales[DEFAULT_SOURCE])
