"""Plackett–Luce with ties agrees with enumeration, numerical derivatives and tensor-product quadrature."""

import itertools
import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.models.taste import listwise
from penchant.models.taste.fixed_points import ConvergenceFailures
from penchant.models.taste.listwise import (
    build_stages,
    expected_site,
    gaussian_site,
    integrate_out_residuals,
    log_likelihood,
    log_probability,
    uniform_log_likelihood,
)
from penchant.models.taste.population import Beliefs
from penchant.models.taste.sobol import normal_draws

GROUPS = [(1, 2), (1, 1, 1), (2, 1), (1, 3), (2, 2), (1, 2, 1), (3, 1), (1, 1, 1, 1), (2, 1, 2)]


def plackett_luce(utilities) -> float:
    """Return the probability of this order, item by item."""
    powers = [math.exp(u) for u in utilities]
    return math.prod(powers[i] / sum(powers[i:]) for i in range(len(powers)))


def efron(groups, utilities) -> float:
    """Return Efron's approximation by its definition."""
    powers, chance, start = [math.exp(u) for u in utilities], 1.0, 0
    for size in groups[:-1]:
        tied, behind = sum(powers[start : start + size]), sum(powers[start + size :])
        for j in range(size):
            chance *= powers[start + j] / (behind + tied * (1 - j / size))
        start += size
    return chance


def make_gaussian(mean, covariance) -> Beliefs:
    """Return a mixture of one Gaussian."""
    return Beliefs(np.ones(1), np.asarray(mean, float)[None], np.asarray(covariance, float)[None])


# ---------------------------------------------------------------- the likelihood


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_likelihood_agrees_with_its_definition(rng, groups):
    utilities = rng.normal(0, 2, (5, sum(groups)))
    expected = [math.log(efron(groups, u)) for u in utilities]
    np.testing.assert_allclose(log_likelihood(groups, utilities), expected, rtol=1e-12)
    uniform = math.log(efron(groups, [0.0] * sum(groups)))
    assert uniform_log_likelihood(groups) == pytest.approx(uniform, rel=1e-12)


def test_probabilities_of_all_orders_sum_to_one(rng):
    utilities = rng.normal(0, 1.5, 4)
    orders = np.array([utilities[list(order)] for order in itertools.permutations(range(4))])
    assert np.exp(log_likelihood((1, 1, 1, 1), orders)).sum() == pytest.approx(1.0)
    chosen = np.array([[u, *np.delete(utilities, i)] for i, u in enumerate(utilities)])
    assert np.exp(log_likelihood((1, 3), chosen)).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(
        np.exp(log_likelihood((1, 1, 1, 1), orders)), [plackett_luce(u) for u in orders], rtol=1e-12
    )


@pytest.mark.parametrize("groups", [(2, 2), (2, 1), (1, 2, 1), (3, 1)], ids=str)
def test_ties_are_close_to_the_sum_over_orders(rng, groups):
    """Efron (1977) approximates the sum over the orders of each group up to a factor d!. It is exact for equal items,
    and within 3 % for items that differ by a third of a logit, as tied items do."""
    factor = math.prod(math.factorial(size) for size in groups[:-1])

    def over_orders(u) -> float:
        ends = np.cumsum(groups)
        parts = [range(end - size, end) for end, size in zip(ends, groups, strict=True)]
        total = 0.0
        for orders in itertools.product(*(itertools.permutations(part) for part in parts)):
            total += plackett_luce(u[list(itertools.chain(*orders))])
        return total

    same = np.zeros(sum(groups))
    assert factor * np.exp(log_likelihood(groups, same[None])[0]) == pytest.approx(over_orders(same))
    errors = []
    for _ in range(50):
        u = rng.normal(0, 0.3, sum(groups))
        errors.append(np.log(factor) + log_likelihood(groups, u[None])[0] - np.log(over_orders(u)))
    assert np.abs(errors).mean() < 0.03
    assert np.abs(errors).max() < 0.15


@given(
    groups=st.sampled_from(GROUPS),
    seed=st.integers(0, 100),
    shift=st.floats(-1e3, 1e3),
    scale=st.floats(0, 1e4),
)
def test_only_differences_count_and_nothing_overflows(groups, seed, shift, scale):
    utilities = scale * np.random.default_rng(seed).normal(size=(3, sum(groups)))
    actual = log_likelihood(groups, utilities)
    assert np.isfinite(actual).all()
    assert (actual <= 1e-12).all()
    np.testing.assert_allclose(log_likelihood(groups, utilities + shift), actual, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_the_order_within_a_group_does_not_count(rng, groups):
    utilities, ends = rng.normal(0, 1, sum(groups)), np.cumsum(groups)
    shuffled = np.concatenate([rng.permutation(part) for part in np.split(utilities, ends[:-1])])
    np.testing.assert_allclose(
        log_likelihood(groups, utilities[None]), log_likelihood(groups, shuffled[None]), rtol=1e-12
    )


# ---------------------------------------------------------------- the site


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_without_uncertainty_the_site_is_gradient_and_curvature(rng, groups):
    """Without uncertainty Λ = −∇²log p and h = ∇log p, by numerical derivatives."""
    n, step = sum(groups), 1e-3
    mean = rng.normal(0, 1, n)
    eye = step * np.eye(n)

    def value(at) -> float:
        return float(log_likelihood(groups, at[None])[0])

    gradient = [(value(mean + e) - value(mean - e)) / (2 * step) for e in eye]
    hessian = [
        [
            (value(mean + e + f) - value(mean + e - f) - value(mean - e + f) + value(mean - e - f))
            / (4 * step**2)
            for f in eye
        ]
        for e in eye
    ]
    precision, linear = gaussian_site(groups, make_gaussian(mean, 1e-12 * np.eye(n)))
    np.testing.assert_allclose(linear - precision @ mean, gradient, atol=1e-5)
    np.testing.assert_allclose(precision, -np.array(hessian), atol=1e-5)


def quadrature(groups, mean, covariance, power=1.0, degree=24):
    """Return exact posterior moments of three utilities and the order's probability, by product Gauss–Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(degree)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3)
    weight = np.einsum("i,j,k->ijk", weights, weights, weights).ravel() / weights.sum() ** 3
    u = mean + grid @ np.linalg.cholesky(covariance).T
    weight = weight * np.array([efron(groups, row) for row in u]) ** power
    evidence, weight = weight.sum(), weight / weight.sum()
    centre = weight @ u
    return centre, (u - centre).T @ ((u - centre) * weight[:, None]), evidence


@pytest.mark.parametrize("groups", [(1, 2), (1, 1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("power", [1.0, 0.3])
def test_sites_of_three_against_quadrature(rng, groups, power):
    """At prior deviations up to two logits, means are within 0.03 posterior deviations and variances within 8 %."""
    for _ in range(6):
        root = rng.normal(0, 1, (3, 3))
        covariance, mean = root @ root.T + 0.2 * np.eye(3), rng.normal(0, 1, 3)
        true_mean, true_covariance, evidence = quadrature(groups, mean, covariance, power)
        precision, linear = gaussian_site(groups, make_gaussian(mean, covariance), power)
        actual = np.linalg.inv(np.linalg.inv(covariance) + precision)
        std = np.sqrt(np.diag(true_covariance))
        centre = actual @ (np.linalg.solve(covariance, mean) + linear)
        assert (np.abs(centre - true_mean) / std).max() < 0.03
        np.testing.assert_allclose(np.diag(actual), np.diag(true_covariance), rtol=0.08)
        if power == 1.0:
            assert np.exp(log_probability(groups, make_gaussian(mean, covariance))) == pytest.approx(
                evidence, rel=0.03
            )


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0, 15.0])
@pytest.mark.parametrize("groups", [*GROUPS, (1, 9), (1,) * 8], ids=str)
def test_the_site_is_a_fixed_point(rng, groups, scale):
    n = sum(groups)
    for _ in range(3):
        root = rng.normal(0, scale / np.sqrt(n), (n, n))
        covariance, mean = root @ root.T + 0.1 * np.eye(n), rng.normal(0, scale, n)
        precision, linear = gaussian_site(groups, make_gaussian(mean, covariance))
        actual = np.linalg.inv(np.linalg.inv(covariance) + precision)
        again, pull = expected_site(groups, actual @ (np.linalg.solve(covariance, mean) + linear), actual)
        np.testing.assert_allclose(again, precision, atol=3e-5)
        np.testing.assert_allclose(pull, linear, atol=3e-4)
        # Independent of the level, symmetric, and a proper Gaussian.
        np.testing.assert_allclose(precision.sum(axis=0), np.zeros(n), atol=1e-12)
        assert linear.sum() == pytest.approx(0.0, abs=1e-9)
        np.testing.assert_allclose(precision, precision.T, atol=1e-12)
        assert np.linalg.eigvalsh(precision)[0] > -1e-9


@pytest.mark.parametrize("gap", [50.0, 800.0, 1e6])
def test_extreme_utilities_stay_finite(gap):
    for mean, moves in ((np.array([gap, 0.0, 0.0]), False), (np.array([-gap, 0.0, 0.0]), True)):
        precision, linear = gaussian_site((1, 2), make_gaussian(mean, np.eye(3)))
        assert np.isfinite(precision).all()
        assert np.isfinite(linear).all()
        assert np.isfinite(precision).all()
        # A great surprise pulls with the full gradient. An expected ranking carries no information.
        np.testing.assert_allclose(linear, [1.0, -0.5, -0.5] if moves else np.zeros(3), atol=1e-3)
        if not moves:
            np.testing.assert_allclose(precision, np.zeros((3, 3)), atol=1e-9)


def test_a_singular_covariance_is_supported(rng):
    """With equal texts, two of the utilities are the same number."""
    root = rng.normal(0, 1, (2, 2))
    covariance = (root @ root.T)[np.ix_([0, 0, 1], [0, 0, 1])]
    precision, linear = gaussian_site((1, 2), make_gaussian([0.3, 0.3, -0.2], covariance))
    assert np.isfinite(precision).all()
    # Both being chosen over the third is informative; the order between them is not.
    mean, actual = np.array([0.3, -0.2]), root @ root.T
    s = np.linspace(-10, 10, 4001)
    difference = mean[0] - mean[1], actual[0, 0] + actual[1, 1] - 2 * actual[0, 1]
    psi = difference[0] + np.sqrt(difference[1]) * s
    weight = np.exp(-(s**2) / 2) / (2 + np.exp(-psi))
    true = weight @ psi / weight.sum()
    start = np.array([0.3, 0.3, -0.2])
    after = np.linalg.solve(np.eye(3) + covariance @ precision, start + covariance @ linear)
    assert after[0] - after[2] == pytest.approx(true, abs=0.02)


def test_residuals_are_integrated_out(rng):
    """With δ = rest + e, the reference marginalises the joint Gaussian by the Schur complement."""
    root, residual = rng.normal(0, 1, (3, 2)), np.diag([0.5, 0.0, 2.0])
    residual[0, 2] = residual[2, 0] = 0.3
    precision, linear = root @ root.T, rng.normal(0, 1, 3)
    actual, pull = integrate_out_residuals(precision, linear, residual)
    prior = np.diag([1.0, 2.0, 0.7])
    # Reference: condition (rest, rest + e) on a pseudo-observation with the site's precision.
    wide = np.block([[prior, prior], [prior, prior + residual]])
    site = np.zeros((6, 6))
    site[3:, 3:] = precision
    joint = np.linalg.solve(np.eye(6) + wide @ site, wide)
    mean = joint @ np.concatenate([np.zeros(3), linear])
    expected = np.linalg.inv(np.linalg.inv(prior) + actual)
    np.testing.assert_allclose(expected, joint[:3, :3], atol=1e-10)
    np.testing.assert_allclose(expected @ pull, mean[:3], atol=1e-10)


def test_all_tied_texts_carry_no_information(rng):
    precision, linear = gaussian_site((3,), make_gaussian(rng.normal(0, 1, 3), np.eye(3)))
    np.testing.assert_array_equal(precision, np.zeros((3, 3)))
    np.testing.assert_array_equal(linear, np.zeros(3))
    assert log_probability((3,), make_gaussian(np.zeros(3), np.eye(3))) == pytest.approx(0.0, abs=1e-12)


# ---------------------------------------------------------------- draws


def test_draws_are_symmetric_and_white():
    for width in (1, 3, 20):
        draws = normal_draws(width, 512)
        assert draws.shape == (512, width)
        np.testing.assert_allclose(draws.mean(0), np.zeros(width), atol=1e-15)
        np.testing.assert_allclose(draws.T @ draws / 512, np.eye(width), atol=1e-12)
        assert normal_draws(width, 512) is draws
        with pytest.raises(ValueError, match="read-only"):
            draws[0, 0] = 1.0
    few = normal_draws(100, 64)  # too few draws to whiten
    assert np.isfinite(few).all()
    assert few.std() == pytest.approx(1.0, abs=0.05)


def test_long_lists_get_fewer_draws():
    assert build_stages((1, 2)).draws == listwise.MAX_DRAWS
    assert build_stages((1, 1999)).draws == 128
    assert build_stages((1,) * 120).draws == listwise.MIN_DRAWS
    for groups in ((1, 299), (1,) * 40):
        n = sum(groups)
        precision, linear = gaussian_site(groups, make_gaussian(np.zeros(n), np.eye(n)))
        assert np.isfinite(linear).all()
        assert linear[0] > 0.5 > linear[1] if n == 300 else linear[0] > linear[-1]
        assert np.linalg.eigvalsh(precision)[0] > -1e-9


# ---------------------------------------------------------------- iterations that do not converge


@pytest.fixture
def failures(monkeypatch):
    """Counter of the convergence failures of one test."""
    fresh = ConvergenceFailures()
    monkeypatch.setattr(listwise, "convergence_failures", fresh)
    return fresh


def wide_beliefs(seed: int) -> Beliefs:
    """Return beliefs about four utilities with deviations of about 100. Those of a fitted bundle are about 1."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(0, 1, (2, 4, 4))
    covariances = 10_000 * (roots @ roots.transpose(0, 2, 1) / 4 + 0.1 * np.eye(4))
    return Beliefs(rng.dirichlet(np.ones(2)), rng.normal(0, 100, (2, 4)), covariances)


def test_a_site_that_does_not_converge_is_counted_and_still_proper(failures, caplog):
    with caplog.at_level(logging.WARNING):
        sites = [listwise.gaussian_site((1, 1, 1, 1), wide_beliefs(seed)) for seed in range(6)]
    for precision, linear in sites:
        assert np.linalg.eigvalsh(precision)[0] > -1e-9
        assert np.isfinite(linear).all()
    (name,) = failures.counts()
    assert name == "site of a choice or ranking"
    assert 1 <= failures.counts()[name] <= 6
    assert "did not converge: the residual is" in caplog.text


def test_a_converged_site_is_not_counted(failures):
    beliefs = Beliefs(np.ones(1), np.zeros((1, 4)), np.eye(4)[None])
    listwise.gaussian_site((1, 1, 1, 1), beliefs)
    assert failures.counts() == {}
