"""The logistic bound for scalars and arrays, and the count of bounds that do not converge."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from penchant.models.taste import logistic
from penchant.models.taste.fixed_points import ConvergenceFailures
from penchant.models.taste.logistic import (
    BOUND_NAME,
    bound_precision,
    bound_precision_array,
    expected_sigmoid,
    expected_sigmoid_array,
    optimal_precision,
    optimal_precision_array,
    safe_log,
    sigmoid,
)


@pytest.fixture
def failures(monkeypatch):
    """Counter of the convergence failures of one test."""
    fresh = ConvergenceFailures()
    monkeypatch.setattr(logistic, "convergence_failures", fresh)
    return fresh


def random_mixtures(rng, u: int = 200, k: int = 3):
    """Return weights, means and variances `[u, k]` with prior deviations up to ten logits."""
    return rng.dirichlet(np.ones(k), u), rng.normal(0, 4, (u, k)), rng.uniform(0.01, 100, (u, k))


def test_the_precision_of_the_bound():
    xi = np.array([0.0, 1e-9, 5e-4, 0.0011, 0.7, 30.0, 800.0])
    exact = np.array([0.25, *(np.tanh(x / 2) / (2 * x) for x in xi[1:])])
    np.testing.assert_allclose(bound_precision_array(xi), exact, rtol=1e-9)
    np.testing.assert_allclose([bound_precision(x) for x in xi.tolist()], exact, rtol=1e-9)


def test_scalars_and_arrays_agree(rng):
    weights, means, variances = random_mixtures(rng)
    mixtures = [list(zip(*row, strict=True)) for row in zip(weights, means, variances, strict=True)]
    power = rng.uniform(0.05, 1, len(means))
    linear = power * rng.uniform(-0.5, 0.5, len(means))
    np.testing.assert_allclose(
        expected_sigmoid_array(weights, means, variances), [expected_sigmoid(m) for m in mixtures], rtol=1e-12
    )
    np.testing.assert_allclose(
        optimal_precision_array(weights, means, variances, power, linear),
        [optimal_precision(m, w, h) for m, w, h in zip(mixtures, power, linear, strict=True)],
        rtol=1e-6,
    )


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.5), (-2.0, 2.0)])
def test_the_expected_sigmoid_is_close_to_quadrature(mean, std):
    exact = quad(lambda x: expit(x) * norm.pdf(x, mean, std), mean - 12 * std, mean + 12 * std)[0]
    assert expected_sigmoid([(1.0, mean, std**2)]) == pytest.approx(exact, abs=0.01)


def test_extreme_logits_are_finite():
    assert [sigmoid(x) for x in (-1e6, -800.0, 0.0, 800.0)] == [0.0, 0.0, 0.5, 1.0]
    assert safe_log(0.0) == -np.inf


def test_a_bound_that_does_not_converge_is_counted(failures, monkeypatch):
    assert optimal_precision([(1.0, 0.5, 1.0)], 1.0, 0.5) == pytest.approx(0.24, abs=0.02)
    assert failures.counts() == {}
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    optimal_precision([(1.0, 3.0, 400.0)], 1.0, 0.5)
    assert failures.counts() == {BOUND_NAME: 1}
