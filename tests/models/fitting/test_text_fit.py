"""Bayesian regression with noisy messages agrees with torch's normals, finite differences and a direct solve."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from penchant.models.fitting.text_fit import (
    INTERCEPT_VARIANCE,
    compute_gradient,
    fit_regression,
    tune_hyperparameters,
)
from penchant.models.taste.text_prior import Standardiser

HYPER = np.array([-0.5, -1.5, -1.0])  # log variance of block 0, of block 1, log τ²
BLOCKS = torch.tensor([0, 0, 0, 1, 1, 2])


@pytest.fixture
def messages(rng):
    """Features `[40, 6]` with the constant last, targets and precisions. Ten of the items were never judged."""
    x = np.column_stack([rng.normal(size=(40, 5)), np.ones(40)])
    weights = np.array([0.8, -0.6, 0.4, 0.0, 0.0, 0.5])
    precision = np.where(np.arange(40) % 4 == 0, 0.0, rng.uniform(0.5, 20, 40))
    noise = np.sqrt(0.3 + 1 / np.maximum(precision, 1e-9))
    target = np.where(precision > 0, x @ weights + noise * rng.normal(size=40), 0.0)
    return torch.tensor(x), torch.tensor(target), torch.tensor(precision)


def prior_variance() -> torch.Tensor:
    return torch.tensor([*np.exp(HYPER[[0, 0, 0, 1, 1]]), INTERCEPT_VARIANCE])


def test_the_evidence_agrees_with_the_marginal_gaussian(messages):
    x, target, precision = messages
    judged = precision > 0
    noise = torch.diag(float(np.exp(HYPER[-1])) + 1 / precision[judged])
    cov = x[judged] @ torch.diag(prior_variance()) @ x[judged].T + noise
    expected = MultivariateNormal(torch.zeros(int(judged.sum()), dtype=x.dtype), cov).log_prob(target[judged])
    constant = 0.5 * int(judged.sum()) * np.log(2 * np.pi)
    fitted = fit_regression(x, BLOCKS, target, precision, HYPER)
    assert fitted.log_evidence == pytest.approx(float(expected) + constant, rel=1e-10)


def test_the_posterior_agrees_with_a_direct_solve(messages):
    x, target, precision = messages
    judged = precision > 0
    fitted = fit_regression(x, BLOCKS, target, precision, HYPER)
    # The kriging form, prior covariance times inverse marginal covariance, is independent of the weight form.
    prior, rows = torch.diag(prior_variance()), x[judged]
    marginal = rows @ prior @ rows.T + torch.diag(float(np.exp(HYPER[-1])) + 1 / precision[judged])
    gain = torch.linalg.solve(marginal, rows @ prior).T
    torch.testing.assert_close(fitted.mean, gain @ target[judged], rtol=0, atol=1e-10)
    torch.testing.assert_close(fitted.cov, prior - gain @ rows @ prior, rtol=0, atol=1e-10)
    torch.testing.assert_close(fitted.prior_variance, prior_variance())
    assert fitted.residual_variance == pytest.approx(np.exp(HYPER[-1]))


def test_the_gradient_agrees_with_finite_differences(messages):
    x, target, precision = messages
    fitted = compute_gradient(
        x, BLOCKS, target, precision, fit_regression(x, BLOCKS, target, precision, HYPER)
    )
    for i, step in enumerate(np.eye(3) * 1e-5):
        up, down = (
            fit_regression(x, BLOCKS, target, precision, HYPER + s).log_evidence for s in (step, -step)
        )
        assert fitted[i] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-7)


def test_unjudged_items_carry_no_information(messages):
    x, target, precision = messages
    judged = precision > 0
    garbage = torch.where(judged, target, torch.full_like(target, 1e6))
    fitted, fewer = (
        fit_regression(x, BLOCKS, garbage, precision, HYPER),
        fit_regression(x[judged], BLOCKS, target[judged], precision[judged], HYPER),
    )
    torch.testing.assert_close(fitted.mean, fewer.mean, rtol=0, atol=1e-12)
    assert fitted.log_evidence == pytest.approx(fewer.log_evidence)


def test_without_messages_the_prior_remains(messages):
    x, target, precision = messages
    fitted = fit_regression(x, BLOCKS, target, torch.zeros_like(precision), HYPER)
    torch.testing.assert_close(fitted.mean, torch.zeros(6, dtype=x.dtype))
    torch.testing.assert_close(fitted.cov, torch.diag(prior_variance()))
    assert fitted.log_evidence == 0.0


def test_single_precision_features_are_accurate_enough(messages):
    x, target, precision = messages
    exact, single = (fit_regression(y, BLOCKS, target, precision, HYPER) for y in (x, x.float()))
    torch.testing.assert_close(single.mean, exact.mean, rtol=0, atol=1e-5)
    assert single.log_evidence == pytest.approx(exact.log_evidence, rel=1e-5)
    np.testing.assert_allclose(
        compute_gradient(x.float(), BLOCKS, target, precision, single),
        compute_gradient(x, BLOCKS, target, precision, exact),
        rtol=1e-4,
        atol=1e-4,
    )


def test_tuning_climbs_to_a_stationary_point(messages):
    x, target, precision = messages
    start = np.array([2.0, 2.0, -6.0])
    few, many = (
        tune_hyperparameters(x, BLOCKS, target, precision, start, max_steps=steps) for steps in (3, 200)
    )
    values = [fit_regression(x, BLOCKS, target, precision, h).log_evidence for h in (start, few, many)]
    assert values == sorted(values)
    assert values[1] > values[0] + 1
    slope = compute_gradient(x, BLOCKS, target, precision, fit_regression(x, BLOCKS, target, precision, many))
    inside = (many > -13.9) & (many < 3.9)
    np.testing.assert_allclose(slope[inside], 0, atol=1e-2)
    assert (
        slope[~inside & (many < 0)].max(initial=-1.0) <= 0
    )  # at its lower bound the gradient points further down


def test_tuning_finds_the_relevant_block_and_the_residual_variance(rng):
    """400 items: block 0 carries signal, block 1 none, and the residual variance is 0.5 whatever the messages' noise."""
    x = torch.tensor(np.column_stack([rng.normal(size=(400, 5)), np.ones(400)]))
    precision = torch.tensor(rng.uniform(2, 50, 400))
    signal = x @ torch.tensor([1.0, -1.0, 0.8, 0.0, 0.0, 0.3], dtype=x.dtype)
    noise = torch.tensor(rng.normal(size=400)) * (0.5 + 1 / precision).sqrt()
    fitted = tune_hyperparameters(x, BLOCKS, signal + noise, precision, np.zeros(3), max_steps=100)
    assert np.exp(fitted[0]) > 0.2
    assert np.exp(fitted[1]) < 0.02
    assert np.exp(fitted[2]) == pytest.approx(0.5, rel=0.25)


def test_tuning_stays_within_its_bounds(messages):
    x, target, precision = messages
    start = np.array([2.0, -13.5, -6.0])
    near, far = (
        tune_hyperparameters(x, BLOCKS, target, precision, start, max_steps=50, reach=r) for r in (0.5, 100.0)
    )
    assert np.abs(near - start).max() == pytest.approx(0.5)
    assert near[1] >= -14.0
    assert np.abs(far - start).max() > 2
    values = [fit_regression(x, BLOCKS, target, precision, h).log_evidence for h in (start, near, far)]
    assert values == sorted(values)


def test_the_radial_basis_learns_nonlinear_targets(rng):
    """The target is x₀x₁. Linear features predict nothing of it for new texts, the basis predicts most of it."""
    vectors = rng.normal(size=(500, 3)).astype(np.float16)
    signal = vectors[:, 0].astype(float) * vectors[:, 1].astype(float)
    target = torch.tensor(signal + 0.2 * rng.normal(size=500))
    standardiser = Standardiser.fit(vectors)
    unexplained = {}
    for name, features in (("radial", standardiser), ("linear", replace(standardiser, basis=None))):
        x = torch.tensor(features(vectors))
        widths = [3, x.shape[1] - 4, 1]
        blocks = torch.repeat_interleave(torch.arange(3), torch.tensor(widths))
        if name == "linear":
            blocks = torch.tensor([0, 0, 0, 1])
        precision = torch.where(torch.arange(500) < 350, 25.0, 0.0).double()  # the others are new
        start = np.full(int(blocks[-1]) + 1, -1.0)
        hyper = tune_hyperparameters(x, blocks, target, precision, start, max_steps=30)
        fitted = fit_regression(x, blocks, target, precision, hyper)
        error = signal[350:] - (x[350:] @ fitted.mean).numpy()
        unexplained[name] = error.var() / signal[350:].var()
        spread = ((x[350:] @ fitted.cov) * x[350:]).sum(1).numpy() + fitted.residual_variance
        assert 0.5 < np.mean(error**2 / spread) < 2.0  # and the stated variance is right
    assert unexplained["linear"] > 0.9
    assert unexplained["radial"] < 0.25
