"""`TextPrior`: the distribution of an item's coordinates c = [b; v] given its text alone, before it is judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from penchant.models.taste.exact_product import ExactProduct, round_to_grid
from penchant.models.taste.match_basis import MatchBasis

Vector = NDArray[np.float64]

MIN_INDUCING: Final = 64
"""Minimum number of distinct texts for a radial basis: with fewer it would consist of the texts themselves."""

MAX_INDUCING: Final = 128
"""Maximum number of inducing texts: 256 gain .0002 of held-out log-loss and double the time of a fit."""

JITTER: Final = 1e-4
KERNEL_GRID: Final = 2.0**-30
SQUARES_GRID: Final = 2.0**-26
"""Grids of the kernel and of squared features, see `exact_product`."""

CLIP: Final = 4.0
"""Standardised features are clipped to ±4, which limits extrapolation to texts unlike any fitted one."""


@dataclass(frozen=True)
class RadialBasis:
    """Nyström features of a squared-exponential kernel, for what is not linear in the features of a text.

    k(x, x') = exp(−|x − x'|²/2ℓ²) on standardised features; z(x) = L⁻¹ k(Z, x) with K_ZZ = LLᵀ makes z(x)·z(x') the
    Nyström approximation of k (Williams & Seeger 2001).

    Attributes:
        inducing: `[r, dim]` Z, standardised features of fitted texts.
        scale: `[dim]` factors that give both blocks, embedding and attributes, equal weight in the kernel.
        length: Length scale ℓ.
    """

    inducing: Vector
    scale: Vector
    length: float

    def __call__(self, wide: Vector) -> Vector:
        """Return z `[n, r]` of standardised features `[n, dim]`. Cost: O(n r (dim + r))."""
        features: Vector = self._root(round_to_grid(self._kernel(wide), KERNEL_GRID))
        return features

    @cached_property
    def _root(self) -> ExactProduct:
        """Product with L⁻¹ᵀ `[r, r]`."""
        gram = self._kernel(self.inducing) + JITTER * np.eye(len(self.inducing))
        root: Vector = np.linalg.inv(np.linalg.cholesky(gram)).T
        return ExactProduct(root, np.ones(len(root)), step=KERNEL_GRID)

    @cached_property
    def _inner(self) -> tuple[ExactProduct, Vector]:
        """Product with the inducing texts in the kernel's metric, and their squared lengths `[r]`."""
        bounds = np.full(self.inducing.shape[1], CLIP)
        return ExactProduct((self.inducing * self.scale**2).T, bounds, parts=1), self._square(self.inducing)

    def _square(self, wide: Vector) -> Vector:
        scaled = wide * self.scale
        lengths: Vector = np.vecdot(scaled, scaled)  # row by row
        return lengths

    def _kernel(self, wide: Vector) -> Vector:
        inner, lengths = self._inner
        kernel = inner(wide)
        kernel *= -2.0
        kernel += self._square(wide)[:, None]
        kernel += lengths
        np.maximum(kernel, 0.0, out=kernel)
        kernel *= -0.5 / self.length**2
        return np.exp(kernel, out=kernel)


@dataclass(frozen=True)
class Standardiser:
    """x = [(vector − centre) / scale clipped ; match ; radial basis features ; 1], rounded to a grid.

    The first `dim` raw features describe the text alone, the others its match with a prompt. The x of a text does not
    depend on the texts that are standardised with it; see `exact_product`.

    Attributes:
        centre: `[dim]` subtracted from the raw features of the text.
        scale: `[dim]` divisor; infinite for a feature that does not vary in the fitted texts.
        basis: Radial basis features of the text; None if too few texts were fitted.
        match: Functions of the match features; None if the model does not read prompts.
    """

    centre: Vector
    scale: Vector
    basis: RadialBasis | None = None
    match: MatchBasis | None = None

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.float16],
        *,
        blocks: tuple[int, ...] = (),
        match: MatchBasis | None = None,
        seed: int = 0,
    ) -> "Standardiser":
        """Return the standardiser of the texts that a model is fitted on. Features with little variation are dropped.

        Args:
            vectors: `[n, ≥ dim]` raw features.
            blocks: Widths of the blocks of a text's features, which get equal weight in the radial basis; their sum is
                dim. () for a single block of all raw features.
            match: Functions of the match features.
            seed: Seed of the choice of inducing texts.
        """
        wide = vectors[:, : sum(blocks) or None].astype(np.float64)
        deviation = wide.std(axis=0)
        common = (wide != np.median(wide, axis=0)).mean(axis=0) > 5e-3
        # Rounded as in a bundle, so that a model serves with the numbers that it was fitted with.
        centre = wide.mean(axis=0).astype(np.float32).astype(np.float64)
        scale = np.where(common & (deviation > 1e-6), deviation, np.inf).astype(np.float32).astype(np.float64)
        plain = cls(centre, scale)
        basis = _radial_basis(plain(vectors)[:, :-1], blocks or (wide.shape[1],), seed)
        return cls(centre, scale, basis, match)

    @property
    def width(self) -> int:
        """Length d of x."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Widths of the parts of x: the text's features, match, radial basis and the constant."""
        match, basis = self.match, self.basis
        return len(self.centre), len(match) if match else 0, len(basis.inducing) if basis else 0, 1

    @cached_property
    def bounds(self) -> Vector:
        """`[d]` largest absolute value of each column of x."""
        text, _, basis, _ = self.widths
        matched = [self.match.bounds] if self.match is not None else []
        # The features of a radial basis have length 1 at most.
        return np.concatenate([np.full(text, CLIP), *matched, np.ones(basis + 1)]) * (1 + 1e-6)

    @property
    def raw_width(self) -> int:
        """Number of raw features that are read: those of the text and its match features."""
        return len(self.centre) + (self.match.width if self.match else 0)

    @property
    def matched(self) -> slice:
        """Columns of x that hold the functions of the match features."""
        return slice(self.widths[0], self.widths[0] + self.widths[1])

    def __call__(self, vectors: NDArray[np.float16]) -> Vector:
        """Return x `[n, d]` of raw features, the constant last.

        Args:
            vectors: `[n, dim]` features of the texts alone, for which the match is unknown and neutral, or `[n, dim +
                match.width]`. A model that does not read prompts ignores the match. Further columns are ignored.
        """
        dim, raw_width = len(self.centre), self.raw_width
        widths = self.widths
        x = np.empty((len(vectors), sum(widths)))
        wide, matched, basis = np.split(x, np.cumsum(widths)[:-1], axis=1)[:3]
        wide[:] = vectors[:, :dim]
        wide -= self.centre
        wide /= self.scale
        np.clip(wide, -CLIP, CLIP, out=wide)
        if self.match is not None:
            matched[:] = self.match(vectors[:, dim:raw_width]) if vectors.shape[1] > dim else 0.0
        if self.basis is not None:
            basis[:] = self.basis(round_to_grid(wide))
        x[:, -1] = 1.0
        return round_to_grid(x)


def _radial_basis(wide: Vector, blocks: tuple[int, ...], seed: int) -> RadialBasis | None:
    """Basis whose inducing points are random texts, with the median distance between them as length scale."""
    distinct = np.unique(wide.astype(np.float16), axis=0)
    if len(distinct) < MIN_INDUCING:
        return None
    drawn = np.random.default_rng(seed).permutation(len(distinct))[:MAX_INDUCING]
    inducing = distinct[np.sort(drawn)].astype(np.float64)
    scale = (
        np.concatenate([np.full(width, width**-0.5) for width in blocks])
        .astype(np.float32)
        .astype(np.float64)
    )
    scaled = inducing * scale
    distance = np.sqrt(
        np.maximum((scaled**2).sum(1)[:, None] + (scaled**2).sum(1) - 2 * scaled @ scaled.T, 0.0)
    )
    return RadialBasis(
        inducing, scale, float(np.float32(np.median(distance[np.triu_indices(len(scaled), 1)])))
    )


class TextPrior(Protocol):
    """Maps standardised features to a Gaussian over item coordinates."""

    @property
    def standardiser(self) -> Standardiser:
        """Map from raw feature vectors to standardised features."""
        ...

    def predict(self, x: Vector) -> tuple[Vector, Vector]:
        """Return mean and variance, both `[n, m]`, of the coordinates of n texts with standardised features `[n, d]`."""
        ...

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that a bundle stores."""
        ...


@dataclass(frozen=True)
class LinearTextPrior:
    """c_j(x) ~ N(w_j·x, x'S_jx + τ_j²): Bayesian linear regression of every coordinate on the features x.

    With the radial basis among the features it is a Gaussian process with a linear and a squared-exponential kernel, the
    latter in its Nyström approximation.

    Attributes:
        standardiser: Map from raw vectors to x `[d]`.
        weights: `[d, m]` posterior means w_j.
        prior_variance: `[d, m]` prior variance of each weight.
        learned: `[m, d, r]` L_j with S_j ≈ diag(prior_variance_j) − L_jL_jᵀ: the reduction of the prior variance by the
            data, truncated to its r largest directions (truncation errs towards more uncertainty).
        residual_variance: `[m]` τ_j², the variance that no text feature explains.
    """

    standardiser: Standardiser
    weights: Vector
    prior_variance: Vector
    learned: NDArray[np.float32]
    residual_variance: Vector

    def predict(self, x: Vector) -> tuple[Vector, Vector]:
        """Return mean and variance `[n, m]` given x `[n, d]`. Cost: O(n d m r), dominated by the variance."""
        means, variance, reduction = self._products
        reductions = reduction(x).reshape(len(x), *self.learned.shape[::2])
        reductions *= reductions
        variances = variance(round_to_grid(x * x, SQUARES_GRID)) - reductions.sum(axis=2)
        return means(x), np.maximum(variances, 0.0) + self.residual_variance

    @cached_property
    def _products(self) -> tuple[ExactProduct, ExactProduct, ExactProduct]:
        """Products with the weights, with the prior variances and with the learned directions of all coordinates."""
        bounds = self.standardiser.bounds
        learned = self.learned.transpose(1, 0, 2).reshape(len(self.weights), -1)
        return (
            ExactProduct(self.weights, bounds),
            ExactProduct(self.prior_variance, bounds**2, step=SQUARES_GRID),
            # Bundles hold float16, which one part represents well enough.
            ExactProduct(learned, bounds, parts=1),
        )

    def insert_rows(self, standardiser: Standardiser, at: int, rows: Vector) -> "LinearTextPrior":
        """Return this prior on wider features x, with weights that are known exactly.

        Args:
            standardiser: Map from raw vectors to the wider x.
            at: Column of the first new feature in the wider x.
            rows: `[n, m]` weights of the new features.
        """
        n, m = rows.shape
        rank = self.learned.shape[2]
        return LinearTextPrior(
            standardiser,
            np.concatenate([self.weights[:at], rows, self.weights[at:]]),
            np.concatenate([self.prior_variance[:at], np.zeros((n, m)), self.prior_variance[at:]]),
            np.concatenate(
                [self.learned[:, :at], np.zeros((m, n, rank), np.float32), self.learned[:, at:]], axis=1
            ),
            self.residual_variance,
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return float32 statistics and weights, and float16 uncertainty."""
        basis = self.standardiser.basis
        return {
            "text.inducing": (basis.inducing if basis else np.zeros((0, 0))).astype(np.float16),
            "text.basis_scale": (basis.scale if basis else np.zeros(0)).astype(np.float32),
            "text.basis_length": np.array([basis.length] if basis else [], np.float32),
            "text.centre": self.standardiser.centre.astype(np.float32),
            "text.scale": self.standardiser.scale.astype(np.float32),
            "text.weights": self.weights.astype(np.float32),
            "text.prior_variance": self.prior_variance.astype(np.float32),
            "text.learned": self.learned.astype(np.float16),
            "text.residual_variance": self.residual_variance.astype(np.float32),
            **(self.standardiser.match.arrays() if self.standardiser.match else {}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "LinearTextPrior":
        """Return the text prior that `arrays` stored."""
        wide = {name: array.astype(np.float64) for name, array in arrays.items() if name.startswith("text.")}
        basis = None
        if len(wide["text.inducing"]):
            basis = RadialBasis(
                wide["text.inducing"], wide["text.basis_scale"], float(wide["text.basis_length"][0])
            )
        return cls(
            Standardiser(wide["text.centre"], wide["text.scale"], basis, MatchBasis.from_arrays(arrays)),
            wide["text.weights"],
            wide["text.prior_variance"],
            wide["text.learned"].astype(np.float32),
            wide["text.residual_variance"],
        )
