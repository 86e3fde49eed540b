"""Functions of the match: slopes along segments, zero at the anchor, neutral if unknown."""

import numpy as np
import pytest

from penchant.models.taste.match_basis import MatchBasis

KIND = 2


@pytest.fixture
def basis() -> MatchBasis:
    """Two segments of column 0 for kind 0, one for kind 1, and column 1 for all kinds."""
    return MatchBasis(
        column=np.array([0, 0, 0, 1]),
        low=np.array([0.0, 0.5, 0.0, 0.0]),
        high=np.array([0.5, 1.0, 1.0, 1.0]),
        anchor=np.array([0.75, 0.75, 0.25, 0.5]),
        kind=np.array([0, 0, 1, -1]),
        kind_column=KIND,
        width=3,
    )


def rows(*values: tuple[float, float, float]) -> np.ndarray:
    return np.array(values, np.float16)


def test_a_function_is_the_length_below_the_feature_from_the_anchor(basis):
    assert len(basis) == 4
    found = basis(rows((0.75, 0.5, 0), (1.0, 1.0, 0), (0.5, 0.0, 0), (0.25, 0.25, 0), (-3, 9, 0)))
    expected = [
        [0, 0, 0, 0],  # at the anchor
        [0, 0.25, 0, 0.5],
        [0, -0.25, 0, -0.5],
        [-0.25, -0.25, 0, -0.25],
        [-0.5, -0.25, 0, 0.5],  # constant beyond the ends
    ]
    np.testing.assert_array_equal(found, expected)


def test_a_function_applies_to_its_kind_of_prompt(basis):
    found = basis(rows((1.0, 1.0, 1), (1.0, 1.0, 7), (1.0, 1.0, np.nan)))
    np.testing.assert_array_equal(found, [[0, 0, 0.75, 0.5], [0, 0, 0, 0.5], [0, 0, 0, 0.5]])


def test_an_unknown_feature_is_neutral(basis):
    found = basis(rows((np.nan, np.nan, np.nan), (np.nan, 1.0, 0), (1.0, np.nan, 0)))
    np.testing.assert_array_equal(found, [[0, 0, 0, 0], [0, 0, 0, 0.5], [0, 0.25, 0, 0]])
    assert basis(np.zeros((0, 3), np.float16)).shape == (0, 4)


def test_weights_are_slopes(basis):
    """The utility is piecewise linear in the feature, with the weights as its derivatives."""
    weights = np.array([3.0, 1.0, 5.0, 2.0])
    for kind, at, slope in ((0, 0.25, 3.0), (0, 0.75, 1.0), (1, 0.25, 5.0), (1, 0.75, 5.0)):
        step = 2.0**-6
        low, high = basis(rows((at, 0.5, kind), (at + step, 0.5, kind))) @ weights
        assert (high - low) / step == pytest.approx(slope)


def test_arrays_keep_the_basis(basis):
    arrays = basis.arrays()
    assert set(arrays) == {f"match.{n}" for n in ("column", "low", "high", "anchor", "kind", "layout")}
    assert {arrays[f"match.{name}"].dtype for name in ("low", "high", "anchor")} == {np.dtype(np.float32)}
    again = MatchBasis.from_arrays(arrays)
    assert again is not None
    assert (again.kind_column, again.width, len(again)) == (KIND, 3, 4)
    match = np.random.default_rng(0).uniform(-0.5, 1.5, (50, 3)).astype(np.float16)
    match[:, KIND] = np.arange(50) % 3
    np.testing.assert_array_equal(again(match), basis(match))
    for name, array in again.arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_bundle_without_match_has_no_basis():
    assert MatchBasis.from_arrays({"text.centre": np.zeros(3)}) is None
