"""`RewardModel`: turns feature vectors into items of the user model, and judgements into observations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.errors import ModelError
from penchant.models.judgements.judgement import DEFAULT_SOURCE
from penchant.models.taste.exact_product import ExactProduct
from penchant.models.taste.gate import Gate
from penchant.models.taste.items import Items
from penchant.models.taste.observations import RatingScale
from penchant.models.taste.population import Population
from penchant.models.taste.text_prior import LinearTextPrior, TextPrior

REFERENCE_KEY = b"reference"

SIGNAL_LIMIT: Final = 4.0
"""A declared signal is clipped to the mean ± this many standard deviations."""


class SignalError(ModelError, ValueError):
    """A model cannot take a declared signal, because it does not read the signal's column of the match features."""


@dataclass(frozen=True)
class ItemMemory:
    """Posterior coordinates of judged texts, learned residuals included.

    Attributes:
        rows: Row of each item key.
        means: `[n_items, m]` posterior means of the coordinates.
        variances: `[n_items, m]` posterior variances of the coordinates.
    """

    rows: Mapping[bytes, int]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]

    @classmethod
    def empty(cls, m: int) -> "ItemMemory":
        """Return a memory without items, of m coordinates."""
        return cls({}, np.zeros((0, m)), np.zeros((0, m)))


@dataclass(frozen=True)
class RewardModel:
    """Shared taste and the space of taste in which people differ.

    u_i(x) = t_i + b_x + z_i·v_x. The first m = 1 + rank item coordinates c = [b; v] come from the text prior or the item
    memory. Then follow `loadings`: fixed directions of the features, known without error. With a gate, the products of
    its directions and gate values are last. Base utilities from either source include a declared `signal`.

    Attributes:
        text_prior: Distribution of c given the text.
        population: Prior over users, q = 1 + rank + number of loadings + number of the gate's products.
        temperature: Factor on a utility difference before it becomes a probability, chosen on held-out users.
        reference: The population's median answer: median base utility, mean directions (one row).
        scales: Rating scale by source; `default` applies to sources that are not listed.
        memory: Texts with learned residuals.
        flips: Rate of wrong labels by source; `default` applies to sources that are not listed.
        gate: Dependence of taste on the kind of prompt. None if there is none.
        loadings: `[d, p]` weights of the features x.
        signal: `[d]` weights of x in base utility that are declared, not learned. The text prior's weights contain them,
            the item memory does not. None without a signal.
    """

    text_prior: TextPrior
    population: Population
    temperature: float
    reference: Items
    scales: Mapping[str, RatingScale]
    loadings: NDArray[np.float64]
    memory: ItemMemory = field(repr=False)
    flips: Mapping[str, float] = field(default_factory=dict)
    gate: Gate | None = None
    signal: NDArray[np.float64] | None = None

    @property
    def q(self) -> int:
        """Number of coordinates of a user."""
        return self.population.q

    @cached_property
    def rank(self) -> int:
        """Number of learned directions of taste."""
        return int(self.q - 1 - self.loadings.shape[1] - self.products)

    @property
    def products(self) -> int:
        """Number of the gate's products, the last coordinates; 0 without a gate."""
        return self.gate.products if self.gate else 0

    def describe(self, vectors: NDArray[np.float16], item_keys: Sequence[bytes] | None = None) -> Items:
        """Return the items of n texts.

        Args:
            vectors: `[n, ≥ dim]` features from `FeatureExtractor`: those of the text, its match features, and the
                embedding of its prompt. Without the latter two, the prompt is unknown, which is neutral.
            item_keys: n keys from `item_key`, looked up in the item memory. Equal keys are one text. If None, texts are
                distinguished by their vectors and the item memory is not used.

        The result for a text does not depend on the other texts, to the bit; see `exact_product`.

        Cost: O(n d m r) for the uncertainty of the text prior.
        """
        keys = tuple(item_keys) if item_keys is not None else tuple(row.tobytes() for row in vectors)
        x = self.text_prior.standardiser(vectors)
        means, variances = self.text_prior.predict(x)
        for i, key in enumerate(keys):
            row = self.memory.rows.get(key)
            if row is not None:
                means[i], variances[i] = self.memory.means[row], self.memory.variances[row]
                means[i, 0] += self.get_declared(x[i])
        fixed = self._fixed(x)
        if self.gate is not None:
            fixed, gated = np.split(fixed, [self.loadings.shape[1]], axis=1)
            fixed = np.concatenate([fixed, self.gate.multiply(gated, self.compute_gates(vectors))], axis=1)
        return self._items(means, variances, fixed, keys)

    @cached_property
    def _fixed(self) -> ExactProduct:
        """Product with the loadings, and with those of the gate if there is one."""
        loadings = [self.loadings] if self.gate is None else [self.loadings, self.gate.loadings]
        return ExactProduct(np.concatenate(loadings, axis=1), self.text_prior.standardiser.bounds)

    def compute_gates(self, vectors: NDArray[np.float16]) -> NDArray[np.float64]:
        """Return the gate values `[n, g]` of the prompts of texts; 0 if the vectors hold none. Without a gate, g = 0."""
        start = self.text_prior.standardiser.raw_width
        if self.gate is None:
            return np.zeros((len(vectors), 0))
        if vectors.shape[1] < start + self.gate.prompt_dim:
            return np.zeros((len(vectors), self.gate.size))
        return self.gate(vectors[:, start : start + self.gate.prompt_dim])

    def get_declared(self, x: NDArray[np.float64]) -> float:
        """Return the base utility that the signal declares for a text with standardised features `[d]`."""
        return 0.0 if self.signal is None else float(x @ self.signal)

    def with_signal(self, column: int, *, mean: float, std: float, weight: float) -> "RewardModel":
        """Return this model with a match feature as a declared part of every text's base utility.

        It adds weight · (value − mean) / std, clipped to `SIGNAL_LIMIT` standard deviations. An unknown value adds 0.

        Args:
            column: Column of the raw match features.
            mean: Value that adds 0.
            std: Standard deviation of the values, more than 0.
            weight: Utility (logits) of one standard deviation.

        Raises:
            SignalError: If the model does not read this column, or if its text prior is not linear.
        """
        prior = self.text_prior
        match = prior.standardiser.match
        if match is None or not isinstance(prior, LinearTextPrior):
            raise SignalError(
                "the model does not read prompts, so it cannot take a signal of the match with one"
            )
        try:
            match = match.extend(column, mean - SIGNAL_LIMIT * std, mean + SIGNAL_LIMIT * std, mean)
        except ValueError as error:
            raise SignalError(f"the model cannot take this signal: {error}") from error
        at = prior.standardiser.matched.stop
        row = np.zeros((1, prior.weights.shape[1]))
        row[0, 0] = weight / std
        signal = np.zeros(prior.standardiser.width) if self.signal is None else self.signal
        return replace(
            self,
            text_prior=prior.insert_rows(replace(prior.standardiser, match=match), at, row),
            loadings=np.insert(self.loadings, at, 0.0, axis=0),
            gate=self.gate.insert_column(at) if self.gate else None,
            signal=np.insert(signal, at, weight / std),
        )

    def with_tastes(self, loadings: NDArray[np.float64], variances: NDArray[np.float64]) -> "RewardModel":
        """Return this model with additional, declared directions of taste.

        Each user has a weight on each of them, w ~ N(0, variance), whether or not people differ in it in the fitted
        data. This captures preferences outside the learned directions.

        Args:
            loadings: `[d, p]` directions of x.
            variances: `[p]` prior variance of a user's weight on each direction.

        Raises:
            ValueError: If the model has a gate, whose products are the last coordinates.
        """
        if self.gate is not None:
            raise ValueError("tastes must be added before a gate")
        widened = self._widen(np.zeros(len(variances)), variances)
        return replace(widened, loadings=np.concatenate([self.loadings, loadings], axis=1))

    def with_gate(
        self, gate: Gate, means: NDArray[np.float64], variances: NDArray[np.float64]
    ) -> "RewardModel":
        """Return this model with a gate.

        Args:
            gate: The gate.
            means: `[c·g]` mean over users of the weight on each product: how the taste that all share depends on the
                prompt.
            variances: `[c·g]` prior variance of a user's weight on each product.

        Raises:
            ValueError: If the model has a gate.
        """
        if self.gate is not None:
            raise ValueError("the model already has a gate")
        return replace(self._widen(means, variances), gate=gate)

    def _widen(self, means: NDArray[np.float64], variances: NDArray[np.float64]) -> "RewardModel":
        """Return this model with p further coordinates of a user, w ~ N(mean, variance), still without directions."""
        p = len(variances)
        population = self.population
        k_archetypes, q = population.means.shape
        precisions = np.zeros((k_archetypes, q + p, q + p))
        precisions[:, :q, :q] = population.precisions
        precisions[:, range(q, q + p), range(q, q + p)] = 1 / variances
        reference = self.reference
        return replace(
            self,
            population=Population(
                population.weights,
                np.concatenate([population.means, np.tile(means, (k_archetypes, 1))], axis=1),
                precisions,
            ),
            # Features are standardised on the fitted texts, so the median answer is at 0.
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
        """Split coordinates `[n, m]` into base and directions; append `fixed` directions `[n, p]` without residual."""
        return Items(
            means[:, 0],
            variances[:, 0],
            np.concatenate([means[:, 1:], fixed], axis=1),
            np.concatenate([variances[:, 1:], np.zeros_like(fixed)], axis=1),
            keys,
        )

    def flip(self, source: str | None = None) -> float:
        """Return the rate of wrong labels of a source; that of `default` if the source is not listed."""
        return self.flips.get(source or DEFAULT_SOURCE, self.flips.get(DEFAULT_SOURCE, 0.0))

    def rating_scale(self, source: str | None = None) -> RatingScale:
        """Return the rating scale of a source; that of `default` if the source is not listed."""
        return self.scales.get(source or DEFAULT_SOURCE, self.scales[DEFAULT_SOURCE])
