"""Exact products agree with rational arithmetic, to the bit, however their rows are grouped."""

from fractions import Fraction

import numpy as np
import pytest

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.exact_product import GRID, ExactProduct, round_to_grid
from penchant.models.taste.text_prior import RadialBasis, Standardiser
from penchant.models.testing import tiny_bundle


def draw(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return round_to_grid(np.clip(2 * rng.normal(size=(rows, columns)), -4, 4))


def test_rounding_is_to_the_nearest_multiple():
    x = np.array([0.0, 1.0, -4.0, 0.6 * GRID, 1.4 * GRID, -2.6 * GRID, 0.5 + 0.3 * GRID])
    expected = np.array([0.0, 1.0, -4.0, GRID, GRID, -3 * GRID, 0.5])
    np.testing.assert_array_equal(round_to_grid(x), expected)


@pytest.mark.parametrize("parts", [1, 2])
def test_no_sum_is_rounded(rng, parts):
    """The reference adds fractions. Large weights of opposite signs cancel, which shows every lost bit."""
    d = 300
    x, matrix = draw(rng, 5, d), rng.normal(size=(d, 4)) * rng.choice([1e-6, 1.0, 1e3], size=(d, 1))
    product = ExactProduct(matrix, np.full(d, 4.0), parts=parts)
    stored = product._parts
    for part in range(parts):
        for column in range(4):
            weights = [Fraction(w) for w in stored[:, part * 4 + column].tolist()]
            for row in x:
                exact = sum((Fraction(v) * w for v, w in zip(row.tolist(), weights, strict=True)), Fraction())
                assert Fraction(float(row @ stored[:, part * 4 + column])) == exact


@pytest.mark.parametrize(("parts", "error"), [(1, 2.0**-30), (2, 2.0**-54)])
def test_the_error_is_that_of_the_rounded_matrix(rng, parts, error):
    x, matrix = draw(rng, 50, 200), rng.normal(size=(200, 3))
    bounds = np.full(200, 4.0)
    found = ExactProduct(matrix, bounds, parts=parts)(x)
    largest = (bounds @ np.abs(matrix)).max()
    atol = error * largest * np.abs(x).sum(axis=1).max()
    np.testing.assert_allclose(found, x @ matrix, rtol=0, atol=atol)


def test_a_matrix_of_zeros_gives_zeros(rng):
    np.testing.assert_array_equal(
        ExactProduct(np.zeros((3, 2)), np.ones(3))(draw(rng, 4, 3)), np.zeros((4, 2))
    )


def test_rows_do_not_depend_on_their_group(rng):
    x, matrix = draw(rng, 97, 411), rng.normal(size=(411, 33))
    product = ExactProduct(matrix, np.full(411, 4.0))
    whole = product(x)
    for size in (1, 2, 3, 7, 16, 50):
        for start in range(0, 97, size):
            np.testing.assert_array_equal(product(x[start : start + size]), whole[start : start + size])


def test_x_stays_within_its_bounds(rng):
    """Exactness needs it, for the features of a radial basis too."""
    vectors = (5 * rng.normal(size=(400, 6))).astype(np.float16)
    standardiser = Standardiser.fit(vectors)
    assert isinstance(standardiser.basis, RadialBasis)
    x = standardiser(np.concatenate([vectors, 100 * vectors]))
    assert (np.abs(x) <= standardiser.bounds).all()
    np.testing.assert_array_equal(x, np.rint(x / GRID) * GRID)


@pytest.mark.parametrize("gate", [0, 2])
def test_a_text_is_described_the_same_with_any_other_texts(rng, gate):
    reward = tiny_bundle(FeatureExtractor(HashingEncoder()), match=True, gate=gate).reward
    width = reward.text_prior.standardiser.raw_width + (reward.gate.prompt_dim if reward.gate else 0)
    spread = rng.choice([0.05, 0.5, 20.0], size=(61, 1))
    vectors = (spread * rng.normal(size=(61, width))).astype(np.float16)
    keys = [bytes([n]) for n in range(61)]
    whole = reward.describe(vectors, keys).rows
    for size in (1, 2, 5, 31):
        for start in range(0, 61, size):
            end = min(start + size, 61)
            part = reward.describe(vectors[start:end], keys[start:end]).rows
            np.testing.assert_array_equal(part, whole[start:end])
