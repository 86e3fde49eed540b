"""Tastes are coordinates that do not depend on the coordinates of the fit and lose no information."""

import numpy as np
import pytest

from penchant.models.explain.tastes import Tastes
from penchant.models.taste.population import Population


@pytest.fixture
def population(rng, make_population) -> Population:
    return make_population(rng, q=4, archetypes=3)


@pytest.fixture
def covariance(rng):
    root = rng.normal(size=(3, 3))
    return root @ root.T


def test_scores_are_uncorrelated_with_mean_0_and_variance_1(population, covariance):
    prior = population.prior
    mean, actual = Tastes.principal_axes(prior, covariance).users(prior.mean, prior.covariance)
    np.testing.assert_allclose(mean[1:], 0, atol=1e-12)
    np.testing.assert_allclose(actual[1:, 1:], np.eye(3), atol=1e-9)
    assert (mean[0], actual[0, 0]) == pytest.approx((prior.mean[0], prior.covariance[0, 0]))


def test_tastes_carry_decreasing_and_separate_shares(population, covariance):
    tastes = Tastes.principal_axes(population.prior, covariance)
    carried = tastes.positions @ covariance @ tastes.positions.T
    np.testing.assert_allclose(carried, np.diag(np.diagonal(carried)), atol=1e-9)
    assert (np.diff(np.diagonal(carried)) <= 0).all()
    # Together they carry all of the personal variance: E[z V z] = tr(S V).
    assert np.trace(carried) == pytest.approx(np.trace(population.prior.covariance[1:, 1:] @ covariance))


def test_utilities_are_the_same_in_both_coordinates(rng, population, covariance, make_items):
    tastes, items = Tastes.principal_axes(population.prior, covariance), make_items(rng, 7, k=3)
    users = rng.normal(size=(5, 4))
    base, positions = tastes.texts(items)
    scores, _ = tastes.users(users, np.tile(np.eye(4), (5, 1, 1)))
    expected = items.base + users @ items.features.T
    np.testing.assert_allclose(scores[:, :1] + base + scores[:, 1:] @ positions.T, expected, atol=1e-9)


def test_uncertainty_is_the_same_in_both_coordinates(rng, population, covariance, make_items):
    tastes, items = Tastes.principal_axes(population.prior, covariance), make_items(rng, 7, k=3)
    root = rng.normal(size=(4, 4))
    _, actual = tastes.users(np.zeros(4), root @ root.T)
    _, positions = tastes.texts(items)
    features = np.concatenate([np.ones((7, 1)), positions], axis=1)
    expected = ((items.features @ root) ** 2).sum(axis=1)
    np.testing.assert_allclose(((features @ actual) * features).sum(axis=1), expected)


def test_the_coordinates_of_the_fit_do_not_matter(rng, population, covariance):
    """z → A z and v → A⁻ᵀ v are the same model: its tastes are the same up to their signs."""
    change = np.eye(4)
    change[1:, 1:] = rng.normal(size=(3, 3))
    inverse = np.linalg.inv(change)
    other = Population(
        population.weights,
        population.means @ change.T,
        inverse.T @ population.precisions @ inverse,
    )
    back = inverse[1:, 1:]
    here = Tastes.principal_axes(population.prior, covariance)
    there = Tastes.principal_axes(other.prior, back.T @ covariance @ back)
    positions = there.positions @ back.T
    signs = np.sign((positions * here.positions).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(signs * positions, here.positions, atol=1e-8)


def test_tastes_are_recovered_from_their_positions(population, covariance):
    tastes = Tastes.principal_axes(population.prior, covariance)
    again = Tastes.from_positions(population.prior, tastes.positions.tolist())
    np.testing.assert_array_equal(again.positions, tastes.positions)
    np.testing.assert_array_equal(again.centre, tastes.centre)
    with pytest.raises(ValueError, match="4 tastes do not fit a population of 4"):
        Tastes.from_positions(population.prior, [*tastes.positions.tolist(), [1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="1 tastes do not fit"):
        Tastes.from_positions(population.prior, [[1.0, 2.0]])


@pytest.mark.parametrize("known", [0, 1, 2])
def test_missing_tastes_are_completed(population, covariance, known):
    tastes = Tastes.principal_axes(population.prior, covariance)
    again = Tastes.from_positions(population.prior, tastes.positions[:known].tolist())
    np.testing.assert_array_equal(again.positions[:known], tastes.positions[:known])
    _, actual = again.users(population.prior.mean, population.prior.covariance)
    np.testing.assert_allclose(actual[1:, 1:], np.eye(3), atol=1e-9)


def test_users_who_agree_have_no_tastes(rng, make_population, make_items):
    prior = make_population(rng, q=1).prior
    for tastes in (Tastes.principal_axes(prior, np.zeros((0, 0))), Tastes.from_positions(prior, [])):
        assert tastes.positions.shape == (0, 0)
        items = make_items(rng, 3, k=0)
        base, positions = tastes.texts(items)
        np.testing.assert_array_equal(base, items.base)
        assert positions.shape == (3, 0)
        mean, covariance = tastes.users(prior.mean, prior.covariance)
        assert (mean.tolist(), covariance.tolist()) == (prior.mean.tolist(), prior.covariance.tolist())


def test_a_taste_without_variation_is_harmless(rng, population):
    """If no text varies along z, the tastes carry nothing and lose nothing."""
    tastes = Tastes.principal_axes(population.prior, np.zeros((3, 3)))
    assert np.isfinite(tastes.positions).all()
    scores, _ = tastes.users(np.array([0.0, 1.0, 2.0, 3.0]), np.eye(4))
    np.testing.assert_allclose(tastes.centre + scores[1:] @ tastes.positions, [1, 2, 3])
