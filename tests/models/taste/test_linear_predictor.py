"""Projections of beliefs on a judgement agree with their definition."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.taste.linear_predictor import LinearPredictor
from penchant.models.taste.logistic import expected_sigmoid
from penchant.models.taste.population import FactoredBeliefs


@pytest.mark.parametrize("is_factored", [False, True])
def test_the_distribution_of_a_pair_and_a_vote(rng, make_items, make_population, is_factored):
    """The reference is the definition ψ = b + φ·y + e for each archetype."""
    population = make_population(rng, archetypes=3)
    precision, linear = np.cov(rng.normal(size=(3, 9))), rng.normal(size=3)
    beliefs = population.update(precision, linear)
    given = FactoredBeliefs(population, precision, linear) if is_factored else beliefs
    a, b = make_items(rng), make_items(rng)
    mixture, residual = LinearPredictor(a, b).project(given)
    phi = np.array([0.0, *(a.directions - b.directions)[0]])
    assert residual == pytest.approx(
        (a.base_variance + b.base_variance)[0]
        + (a.direction_variance + b.direction_variance)[0] @ beliefs.expected_squares[1:]
    )
    assert len(mixture) == 3
    for c, (weight, mean, variance) in enumerate(mixture):
        assert weight == pytest.approx(beliefs.weights[c])
        assert mean == pytest.approx(float((a.base - b.base)[0] + beliefs.means[c] @ phi))
        assert variance == pytest.approx(float(phi @ beliefs.covariances[c] @ phi) + residual)
    assert 0 < expected_sigmoid(mixture) < 1
    for sign in (1.0, -1.0):
        vote, _ = LinearPredictor(a, sign=sign).project(given)
        phi = sign * np.array([1.0, *a.directions[0]])
        assert vote[0][1] == pytest.approx(float(sign * a.base[0] + beliefs.means[0] @ phi))


def test_a_text_compared_with_itself_is_certain(rng, make_items, make_population):
    a = make_items(rng)
    noisy = replace(a, base=a.base + 1, directions=a.directions + 1)
    mixture, residual = LinearPredictor(a, noisy).project(make_population(rng, archetypes=2).prior)
    assert [component[1:] for component in mixture] == [(0.0, 0.0)] * 2
    assert residual == 0.0
