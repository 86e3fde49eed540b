"""The text prior: standardisation, the radial basis, Bayesian linear regression and its uncertainty."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from penchant.models.taste.exact_product import GRID
from penchant.models.taste.match_basis import MatchBasis
from penchant.models.taste.text_prior import (
    CLIP,
    JITTER,
    MAX_INDUCING,
    MIN_INDUCING,
    LinearTextPrior,
    RadialBasis,
    Standardiser,
)

# ---------------------------------------------------------------- standardisation


def test_standardising_centres_scales_clips_and_adds_a_constant(rng):
    vectors = rng.normal(3, 2, (500, 4)).astype(np.float16)
    vectors[:, 3] = 0.25  # never varies
    standardiser = Standardiser.fit(vectors)
    x = standardiser(vectors)
    assert x.shape == (500, standardiser.width) == (500, 4 + MAX_INDUCING + 1)
    np.testing.assert_allclose(x[:, :3].mean(0), 0, atol=0.01)
    np.testing.assert_allclose(x[:, :3].std(0), 1, atol=0.01)
    np.testing.assert_array_equal(x[:, 3], 0)
    np.testing.assert_array_equal(x[:, -1], 1)
    far = standardiser(np.array([[1e4, -1e4, 3.0, 99.0]], np.float16))
    np.testing.assert_allclose(
        far[:, [0, 1, 2, 3, -1]],
        [[CLIP, -CLIP, (3 - standardiser.centre[2]) / standardiser.scale[2], 0, 1]],
        atol=GRID,
    )
    few = Standardiser.fit(vectors[: MIN_INDUCING - 1])
    assert few.basis is None
    assert few(vectors).shape == (500, few.width) == (500, 5)


def test_a_feature_that_almost_never_varies_is_dropped(rng):
    vectors = np.zeros((1000, 2), np.float16)
    vectors[:4, 0] = 1.0  # in 0.4 % of the texts
    vectors[:60, 1] = 1.0
    x = Standardiser.fit(vectors)(vectors)
    assert (x[:, 0] == 0).all()
    assert x[:, 1].std() == pytest.approx(1.0)


# ---------------------------------------------------------------- radial basis


def kernel(basis: RadialBasis, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return exp(−|a − b|²/2ℓ²) by SciPy's distances."""
    return np.exp(-(cdist(a * basis.scale, b * basis.scale) ** 2) / (2 * basis.length**2))


def test_the_nystroem_kernel_is_exact_if_all_texts_are_inducing(rng):
    """With the jitter, K(K + εI)⁻¹K = K − εK(K + εI)⁻¹ differs from K by ε at most."""
    vectors = rng.normal(size=(MAX_INDUCING, 5)).astype(np.float16)
    standardiser = Standardiser.fit(vectors)
    basis = standardiser.basis
    assert basis is not None
    assert len(basis.inducing) == MAX_INDUCING
    z = basis(basis.inducing)
    np.testing.assert_allclose(z @ z.T, kernel(basis, basis.inducing, basis.inducing), atol=1.01 * JITTER)
    # Inducing texts are kept in half precision, which is accurate enough.
    x = standardiser(vectors)
    z, wide = x[:, 5:-1], x[:, :5]
    np.testing.assert_allclose(z @ z.T, kernel(basis, wide, wide), atol=2e-3)


def test_the_kernel_of_fewer_inducing_texts_is_their_projection(rng):
    """k(x, Z)(K_ZZ + εI)⁻¹k(Z, x'), never more than the kernel's own 1 on the diagonal."""
    vectors = rng.normal(size=(600, 5)).astype(np.float16)
    standardiser = Standardiser.fit(vectors)
    basis = standardiser.basis
    wide = standardiser(vectors)[:, :5]
    across, inner = kernel(basis, wide, basis.inducing), kernel(basis, basis.inducing, basis.inducing)
    expected = across @ np.linalg.solve(inner + JITTER * np.eye(MAX_INDUCING), across.T)
    z = basis(wide)
    np.testing.assert_allclose(z @ z.T, expected, atol=1e-7)  # numbers are rounded to grids
    assert (z**2).sum(axis=1).max() <= 1 + 1e-9
    # A text far from all inducing texts has features near 0.
    assert np.abs(basis(np.full((1, 5), 100.0))).max() == 0


def test_inducing_points_are_texts_and_their_median_distance_is_the_length(rng):
    vectors = rng.normal(size=(400, 5)).astype(np.float16)
    standardiser = Standardiser.fit(vectors)
    basis = standardiser.basis
    texts = {row.tobytes() for row in standardiser(vectors)[:, :5].astype(np.float16)}
    inducing = {row.tobytes() for row in basis.inducing.astype(np.float16)}
    assert len(inducing) == MAX_INDUCING
    assert inducing <= texts
    assert basis.length == pytest.approx(np.median(pdist(basis.inducing * basis.scale)), rel=1e-6)


def test_blocks_have_equal_weight_in_the_kernel(rng):
    """Sixty numbers of an embedding do not outweigh four attributes."""
    vectors = rng.normal(size=(300, 64)).astype(np.float16)
    basis = Standardiser.fit(vectors, blocks=(60, 4)).basis
    spread = (basis.inducing * basis.scale).var(axis=0)
    assert spread[:60].sum() == pytest.approx(1, rel=0.1)
    assert spread[60:].sum() == pytest.approx(1, rel=0.1)


def test_the_seed_determines_the_inducing_texts(rng):
    vectors = rng.normal(size=(400, 3)).astype(np.float16)
    first, repeated, other = (Standardiser.fit(vectors, seed=seed).basis.inducing for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, repeated)
    assert {*map(bytes, first)} != {*map(bytes, other)}


def test_few_distinct_texts_have_no_radial_basis(rng):
    distinct = rng.normal(size=(MIN_INDUCING, 3)).astype(np.float16)
    assert Standardiser.fit(np.repeat(distinct[:-1], 5, axis=0)).basis is None
    basis = Standardiser.fit(np.repeat(distinct, 5, axis=0)).basis
    assert basis is not None
    assert len(basis.inducing) == MIN_INDUCING


# ---------------------------------------------------------------- match


@pytest.fixture
def match() -> MatchBasis:
    return MatchBasis(
        column=np.array([0, 1]),
        low=np.array([0.0, -1.0]),
        high=np.array([1.0, 1.0]),
        anchor=np.array([0.5, 0.25]),
        kind=np.array([-1, 1]),
        kind_column=2,
        width=3,
    )


def test_the_match_follows_the_features_of_the_text(rng, match):
    vectors = rng.normal(3, 2, (300, 6 + 3)).astype(np.float16)
    vectors[:, -1] = np.arange(300) % 2
    standardiser = Standardiser.fit(vectors, blocks=(4, 2), match=match)
    assert standardiser.widths == (6, 2, MAX_INDUCING, 1)
    assert standardiser.width == 6 + 2 + MAX_INDUCING + 1
    assert standardiser.matched == slice(6, 8)
    x = standardiser(vectors)
    np.testing.assert_array_equal(x[:, 6:8], match(vectors[:, 6:]))
    # Centre, scale and radial basis are those of the text alone.
    alone = Standardiser.fit(vectors[:, :6], blocks=(4, 2))
    assert alone.widths == (6, 0, MAX_INDUCING, 1)
    assert alone.matched == slice(6, 6)
    np.testing.assert_array_equal(np.delete(x, [6, 7], axis=1), alone(vectors[:, :6]))
    np.testing.assert_array_equal(alone(vectors), alone(vectors[:, :6]))  # it ignores the match


def test_without_match_x_is_neutral(rng, match):
    """Features of the text alone and an unknown match give exactly the same numbers."""
    vectors = rng.normal(0, 2, (100, 6 + 3)).astype(np.float16)
    vectors[:, -1] = 1
    standardiser = Standardiser.fit(vectors, blocks=(4, 2), match=match)
    unknown = vectors.copy()
    unknown[:, 6:] = np.nan
    np.testing.assert_array_equal(standardiser(unknown), standardiser(vectors[:, :6]))
    assert not standardiser(unknown)[:, standardiser.matched].any()
    d = standardiser.width
    prior = LinearTextPrior(
        standardiser,
        rng.normal(size=(d, 3)),
        rng.uniform(0.5, 1.0, (d, 3)),
        rng.normal(0, 0.01, (3, d, 4)).astype(np.float32),
        np.ones(3),
    )
    for alone, with_unknown in zip(
        prior.predict(standardiser(vectors[:, :6])), prior.predict(standardiser(unknown)), strict=True
    ):
        np.testing.assert_array_equal(alone, with_unknown)
    restored = LinearTextPrior.from_arrays(prior.arrays()).standardiser
    assert restored.widths == standardiser.widths
    np.testing.assert_array_equal(restored(vectors)[:, 6:8], match(vectors[:, 6:]))


# ---------------------------------------------------------------- regression


@pytest.fixture
def prior(rng) -> LinearTextPrior:
    d, m, r = 5, 3, 4
    return LinearTextPrior(
        Standardiser(rng.normal(size=d - 1), rng.uniform(0.5, 2, d - 1)),
        rng.normal(size=(d, m)),
        rng.uniform(0.5, 1.0, (d, m)),
        rng.normal(0, 0.2, (m, d, r)).astype(np.float32),
        rng.uniform(0.1, 0.3, m),
    )


def test_prediction_is_bayesian_linear_regression(rng, prior):
    vectors = rng.normal(size=(7, 4)).astype(np.float16)
    mean, variance = prior.predict(prior.standardiser(vectors))
    x = prior.standardiser(vectors)
    for j in range(3):
        low_rank = prior.learned[j].astype(float)
        cov = np.diag(prior.prior_variance[:, j]) - low_rank @ low_rank.T
        np.testing.assert_allclose(mean[:, j], x @ prior.weights[:, j], rtol=1e-12)
        expected = np.einsum("nd,de,ne->n", x, cov, x) + prior.residual_variance[j]
        np.testing.assert_allclose(variance[:, j], expected, rtol=1e-5)


def test_variance_is_never_below_the_residual(rng, prior):
    overdone = replace(prior, learned=prior.learned * 100)  # as truncation to float16 might, on a small scale
    _, variance = overdone.predict(overdone.standardiser(rng.normal(size=(7, 4)).astype(np.float16)))
    np.testing.assert_allclose(variance, np.broadcast_to(prior.residual_variance, (7, 3)))


def test_arrays_keep_the_prior(rng, prior):
    repeated = LinearTextPrior.from_arrays(prior.arrays())
    vectors = rng.normal(size=(7, 4)).astype(np.float16)
    for before, after in zip(
        prior.predict(prior.standardiser(vectors)),
        repeated.predict(repeated.standardiser(vectors)),
        strict=True,
    ):
        np.testing.assert_allclose(after, before, rtol=2e-3)
    third = LinearTextPrior.from_arrays(repeated.arrays())
    for before, after in zip(
        repeated.predict(repeated.standardiser(vectors)),
        third.predict(third.standardiser(vectors)),
        strict=True,
    ):
        np.testing.assert_array_equal(after, before)


def test_arrays_keep_the_radial_basis(rng):
    """The basis is kept exactly, so a bundle serves with the features that its weights were fitted on."""
    vectors = rng.normal(0.3, 2, (300, 6)).astype(np.float16)
    vectors[:, 2] = 1.0
    standardiser = Standardiser.fit(vectors, blocks=(4, 2))
    shape = (standardiser.width, 2)
    prior = LinearTextPrior(
        standardiser,
        rng.normal(size=shape).astype(np.float32).astype(float),
        np.ones(shape),
        np.zeros((2, shape[0], 1), np.float32),
        np.ones(2),
    )
    arrays = prior.arrays()
    assert arrays["text.inducing"].dtype == np.float16
    repeated = LinearTextPrior.from_arrays(arrays)
    np.testing.assert_array_equal(repeated.standardiser(vectors), standardiser(vectors))
    np.testing.assert_array_equal(
        repeated.predict(repeated.standardiser(vectors))[0], prior.predict(prior.standardiser(vectors))[0]
    )
    plain = LinearTextPrior.from_arrays(
        replace(prior, standardiser=replace(standardiser, basis=None)).arrays()
    )
    assert plain.standardiser.basis is None


def test_a_dropped_feature_stays_dropped_in_arrays():
    standardiser = Standardiser(np.zeros(2), np.array([1.0, np.inf]))
    shape = (3, 1)
    prior = LinearTextPrior(
        standardiser, np.ones(shape), np.ones(shape), np.zeros((1, 3, 1), np.float32), np.ones(1)
    )
    loaded = LinearTextPrior.from_arrays(prior.arrays())
    mean, _ = loaded.predict(loaded.standardiser(np.array([[2.0, 500.0]], np.float16)))
    assert mean[0, 0] == 3.0
