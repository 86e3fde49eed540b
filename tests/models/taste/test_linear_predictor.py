"""Beliefs updated without inversion agree with inversion, and projections agree with their definition."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.taste.items import Items
from penchant.models.taste.linear_predictor import LinearPredictor, ProjectedBeliefs, StackedBeliefs
from penchant.models.taste.logistic import expected_sigmoid
from penchant.models.taste.population import Beliefs, Population


def predictor_along(direction) -> LinearPredictor:
    """Return the predictor ψ = φ·y."""
    predictor = LinearPredictor(
        Items(
            np.zeros(1),
            np.zeros(1),
            np.zeros((1, len(direction) - 1)),
            np.zeros((1, len(direction) - 1)),
            (b"a",),
        )
    )
    predictor.direction = np.asarray(direction, float)
    return predictor


def assert_equal(actual: Beliefs, expected: Beliefs) -> None:
    np.testing.assert_allclose(actual.means, expected.means, atol=1e-9)
    np.testing.assert_allclose(actual.covariances, expected.covariances, atol=1e-10)
    np.testing.assert_allclose(actual.weights, expected.weights, atol=1e-9)


@pytest.mark.parametrize("archetypes", [1, 4])
@pytest.mark.parametrize("q", [1, 2, 17])
def test_updates_agree_with_inversion(rng, make_population, archetypes, q):
    """Sherman–Morrison and Woodbury updates agree with `update`, which inverts."""
    population, prior = (
        make_population(rng, q=q, archetypes=archetypes),
        make_population(rng, q=q, archetypes=2).prior,
    )
    precision, linear, stacked = np.zeros((q, q)), np.zeros(q), StackedBeliefs.stack(population.prior, prior)
    for number in range(60):
        if number % 3:
            direction, site_precision, site_linear = rng.normal(0, 1, q), rng.uniform(0, 2), rng.normal()
            stacked = stacked.update(
                ProjectedBeliefs(predictor_along(direction), stacked), site_precision, site_linear
            )
            precision = precision + site_precision * np.outer(direction, direction)
            linear = linear + site_linear * direction
        else:
            r = int(rng.integers(1, 5))
            directions, root, site_linear = (
                rng.normal(0, 1, (r, q)),
                rng.normal(0, 1, (r, r - 1)),
                rng.normal(0, 1, r),
            )
            core = root @ root.T  # singular, like the precision of a ranking
            stacked = StackedBeliefs.stack(stacked.user.update(directions, core, site_linear), prior)
            precision = precision + directions.T @ core @ directions
            linear = linear + directions.T @ site_linear
        expected = population.update(precision, linear)
        assert_equal(stacked.user, expected)
        np.testing.assert_allclose(stacked.second_moments[0], expected.expected_squares[1:], rtol=1e-9)
    assert_equal(
        StackedBeliefs(stacked.rows, stacked.second_moments, stacked.weights, stacked.prior_weights).prior,
        prior,
    )
    np.testing.assert_array_equal(stacked.second_moments[1], prior.expected_squares[1:])


def test_an_update_does_not_change_its_input(rng, make_population):
    before = StackedBeliefs.stack(make_population(rng, archetypes=2).prior, make_population(rng).prior)
    copies = before.rows.copy(), before.second_moments.copy(), list(before.weights)
    before.update(ProjectedBeliefs(predictor_along([1.0, -1.0, 0.5]), before), 0.7, 2.0)
    before.user.update(rng.normal(size=(2, 3)), np.eye(2), np.ones(2))
    np.testing.assert_array_equal(before.rows, copies[0])
    np.testing.assert_array_equal(before.second_moments, copies[1])
    assert before.weights == copies[2]


def test_projections_of_user_and_prior(rng, make_items, make_population):
    """The reference is the definition ψ = b + φ·y + e for each archetype."""
    user, prior = make_population(rng, archetypes=3).prior, make_population(rng, archetypes=2).prior
    a, b = make_items(rng), make_items(rng)
    actual = ProjectedBeliefs(LinearPredictor(a, b), StackedBeliefs.stack(user, prior))
    phi = np.array([0.0, *(a.directions - b.directions)[0]])
    for beliefs, mixture in ((user, actual.user), (prior, actual.prior)):
        residual = float(
            (a.base_variance + b.base_variance)[0]
            + (a.direction_variance + b.direction_variance)[0] @ beliefs.expected_squares[1:]
        )
        for c, (weight, mean, variance) in enumerate(mixture):
            assert weight == beliefs.weights[c]
            assert mean == pytest.approx(float((a.base - b.base)[0] + beliefs.means[c] @ phi))
            assert variance == pytest.approx(float(phi @ beliefs.covariances[c] @ phi) + residual)
        assert len(mixture) == len(beliefs.weights)
    assert 0 < expected_sigmoid(actual.user) < 1
    for sign in (1.0, -1.0):
        vote = ProjectedBeliefs(LinearPredictor(a, sign=sign), StackedBeliefs.stack(user, user))
        phi = sign * np.array([1.0, *a.directions[0]])
        assert vote.user[0][1] == pytest.approx(float(sign * a.base[0] + user.means[0] @ phi))
        assert vote.user == vote.prior


def test_a_text_compared_with_itself_is_certain(rng, make_items, make_population):
    a = make_items(rng)
    noisy = replace(a, base=a.base + 1, directions=a.directions + 1)
    actual = ProjectedBeliefs(
        LinearPredictor(a, noisy), StackedBeliefs.stack(*[make_population(rng, archetypes=2).prior] * 2)
    )
    assert [component[1:] for component in actual.user] == [(0.0, 0.0)] * 2
    assert actual.residual == 0.0


def test_a_ruled_out_archetype_can_recover():
    population = Population(np.array([0.5, 0.5]), np.array([[-40.0], [40.0]]), np.array([[[4.0]], [[4.0]]]))
    stacked = StackedBeliefs.stack(population.prior, population.prior)
    for _ in range(3):
        stacked = stacked.update(ProjectedBeliefs(predictor_along([1.0]), stacked), 5.0, 200.0)  # y = 40
    assert stacked.weights[0] < 1e-290
    for _ in range(9):
        stacked = stacked.update(ProjectedBeliefs(predictor_along([1.0]), stacked), 5.0, -200.0)  # y = -40
    assert np.isfinite(stacked.weights).all()
    assert stacked.weights[0] > 0.999
