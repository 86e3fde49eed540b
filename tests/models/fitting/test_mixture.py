"""The fit of the mixture prior agrees with the served closed form, SciPy's Gaussians and plain loops."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from penchant.models.fitting import mixture as module
from penchant.models.fitting.assemble import build_population
from penchant.models.fitting.messages import Messages
from penchant.models.fitting.mixture import SHRINKAGE, Mixture, UserPosteriors, fit_mixture

F = 3  # coordinates of a user


def messages_of(rng: np.random.Generator, n: int, *, f: int = F, most: float = 4.0) -> Messages:
    """Return random evidence of n users, from very little to much."""
    roots = rng.normal(size=(n, f, f)) * rng.uniform(0.05, most**0.5, (n, 1, 1))
    return Messages(torch.tensor(roots @ roots.transpose(0, 2, 1)), torch.tensor(rng.normal(size=(n, f))))


def mixture_of(rng: np.random.Generator, k: int) -> Mixture:
    roots = rng.normal(size=(k, F, F))
    return Mixture(
        torch.tensor(rng.dirichlet(np.full(k, 4.0))),
        torch.tensor(rng.normal(size=(k, F))),
        torch.tensor(roots @ roots.transpose(0, 2, 1) / F + 0.3 * np.eye(F)),
    )


# ---------------------------------------------------------------- E step


@pytest.mark.parametrize("k", [1, 3])
def test_user_posteriors_agree_with_the_served_population(rng, k):
    mixture, messages = mixture_of(rng, k), messages_of(rng, 20)
    posteriors, served = mixture.compute_posteriors(messages), build_population(mixture)
    for u in range(20):
        expected = served.update(messages.precision[u].numpy(), messages.linear[u].numpy())
        np.testing.assert_allclose(posteriors.responsibilities[u].numpy(), expected.weights, atol=1e-10)
        np.testing.assert_allclose(posteriors.means[u].numpy(), expected.means, atol=1e-10)
        np.testing.assert_allclose(posteriors.covs[u].numpy(), expected.covariances, atol=1e-10)


@pytest.mark.parametrize("k", [1, 3])
def test_the_evidence_is_that_of_a_noisy_observation_of_the_position(rng, k):
    """exp(−½yᵀΛy + ηᵀy) ∝ N(Λ⁻¹η; y, Λ⁻¹), so the user is observed at Λ⁻¹η with noise."""
    mixture, messages = mixture_of(rng, k), messages_of(rng, 20)
    posteriors, total = mixture.compute_posteriors(messages), 0.0
    for u in range(20):
        noise = np.linalg.inv(messages.precision[u].numpy())
        observed, linear = noise @ messages.linear[u].numpy(), messages.linear[u].numpy()
        scale = 0.5 * linear @ noise @ linear + 0.5 * np.linalg.slogdet(2 * np.pi * noise)[1]
        logs = []
        for c in range(k):
            mean, cov = mixture.means[c].numpy(), mixture.covs[c].numpy()
            logs.append(
                np.log(float(mixture.weights[c])) + multivariate_normal.logpdf(observed, mean, cov + noise)
            )
            gain = cov @ np.linalg.inv(cov + noise)  # Kalman's form of the posterior
            np.testing.assert_allclose(
                posteriors.means[u, c].numpy(), mean + gain @ (observed - mean), atol=1e-7
            )
            np.testing.assert_allclose(posteriors.covs[u, c].numpy(), cov - gain @ cov, atol=1e-7)
        shares = np.exp(logs - np.logaddexp.reduce(logs))
        np.testing.assert_allclose(posteriors.responsibilities[u].numpy(), shares, atol=1e-9)
        total += scale + np.logaddexp.reduce(logs)
    assert posteriors.evidence == pytest.approx(total / 20, rel=1e-8)


def test_a_user_without_judgements_is_at_the_prior(rng):
    mixture = mixture_of(rng, 3)
    nothing = Messages(torch.zeros(1, F, F).double(), torch.zeros(1, F).double())
    posteriors = mixture.compute_posteriors(nothing)
    torch.testing.assert_close(posteriors.responsibilities[0], mixture.weights)
    torch.testing.assert_close(posteriors.means[0], mixture.means)
    torch.testing.assert_close(posteriors.covs[0], mixture.covs)
    assert posteriors.evidence == pytest.approx(0, abs=1e-12)


def test_moments_agree_with_draws(rng):
    posteriors = mixture_of(rng, 3).compute_posteriors(messages_of(rng, 2))
    mean, cov = posteriors.moments
    for u in range(2):
        chosen = rng.choice(3, 400_000, p=posteriors.responsibilities[u].numpy())
        draws = np.concatenate(
            [
                rng.multivariate_normal(
                    posteriors.means[u, c].numpy(), posteriors.covs[u, c].numpy(), int((chosen == c).sum())
                )
                for c in range(3)
            ]
        )
        np.testing.assert_allclose(mean[u].numpy(), draws.mean(0), atol=0.02)
        np.testing.assert_allclose(cov[u].numpy(), np.cov(draws.T), atol=0.03)


def test_moments_of_one_archetype_are_those_of_its_gaussian(rng):
    posteriors = mixture_of(rng, 1).compute_posteriors(messages_of(rng, 4))
    mean, cov = posteriors.moments
    assert torch.equal(mean, posteriors.means[:, 0])
    assert torch.equal(cov, posteriors.covs[:, 0])


def test_an_affine_map_of_users_maps_their_moments(rng):
    """y' = A(y − s)."""
    posteriors = mixture_of(rng, 3).compute_posteriors(messages_of(rng, 5))
    shift, change = torch.tensor(rng.normal(size=F)), torch.tensor(rng.normal(size=(F, F)))
    moved = posteriors.transform(shift, change)
    assert torch.equal(moved.responsibilities, posteriors.responsibilities)
    (mean, cov), (new_mean, new_cov) = posteriors.moments, moved.moments
    for u in range(5):
        torch.testing.assert_close(new_mean[u], change @ (mean[u] - shift))
        torch.testing.assert_close(new_cov[u], change @ cov[u] @ change.T)
        for c in range(3):
            torch.testing.assert_close(moved.means[u, c], change @ (posteriors.means[u, c] - shift))
            torch.testing.assert_close(moved.covs[u, c], change @ posteriors.covs[u, c] @ change.T)


# ---------------------------------------------------------------- M step


def test_the_m_step_agrees_with_a_plain_loop(rng):
    """Covariances shrink to the common one with the weight of ten users, and each weight counts one more user."""
    posteriors = mixture_of(rng, 3).compute_posteriors(messages_of(rng, 40))
    fitted = mixture_of(rng, 3).refit(posteriors)
    r, means, covs = (t.numpy() for t in (posteriors.responsibilities, posteriors.means, posteriors.covs))
    overall = sum(r[u, c] * means[u, c] for u in range(40) for c in range(3)) / 40
    common = np.zeros((F, F))
    for u, c in itertools.product(range(40), range(3)):
        deviation = means[u, c] - overall
        common += r[u, c] * (covs[u, c] + np.outer(deviation, deviation)) / 40
    for c in range(3):
        count = sum(r[u, c] for u in range(40))
        mean = sum(r[u, c] * means[u, c] for u in range(40)) / count
        scatter = np.zeros((F, F))
        for u in range(40):
            deviation = means[u, c] - mean
            scatter += r[u, c] * (covs[u, c] + np.outer(deviation, deviation))
        assert float(fitted.weights[c]) == pytest.approx((count + 1) / (40 + 3))
        np.testing.assert_allclose(fitted.means[c].numpy(), mean, atol=1e-10)
        shrunk = (scatter + SHRINKAGE * common) / (count + SHRINKAGE)
        np.testing.assert_allclose(fitted.covs[c].numpy(), shrunk, atol=1e-10)


def test_a_single_archetype_stays_centred(rng):
    """What all users share belongs to the base utility, so the second moment is learned but not the mean."""
    single = Mixture.single(torch.eye(F).double())
    posteriors = single.compute_posteriors(messages_of(rng, 30))
    fitted = single.refit(posteriors)
    assert fitted.means.tolist() == [[0.0] * F]
    assert fitted.weights.tolist() == [1.0]
    expected = np.mean(
        [
            np.outer(m, m) + c
            for m, c in zip(posteriors.means[:, 0].numpy(), posteriors.covs[:, 0].numpy(), strict=True)
        ],
        axis=0,
    )
    np.testing.assert_allclose(fitted.covs[0].numpy(), expected, atol=1e-10)


def clustered(rng: np.random.Generator, n: int = 600) -> tuple[Messages, np.ndarray, np.ndarray, np.ndarray]:
    """Draw users around three centres with individual noise. Return messages, centres, shares and true archetypes."""
    centres, shares = np.array([[2.5, 0.0], [-1.5, 2.0], [-1.0, -2.5]]), np.array([0.5, 0.3, 0.2])
    archetypes = rng.choice(3, n, p=shares)
    positions = centres[archetypes] + 0.5 * rng.normal(size=(n, 2))
    precision = rng.uniform(4, 40, n)
    observed = positions + rng.normal(size=(n, 2)) / np.sqrt(precision)[:, None]
    return (
        Messages(
            torch.tensor(precision[:, None, None] * np.eye(2)), torch.tensor(precision[:, None] * observed)
        ),
        centres,
        shares,
        archetypes,
    )


def test_em_never_decreases_the_evidence(rng, monkeypatch):
    """Without shrinkage it is exact EM of the evidence and the weights' prior (one more user each)."""
    monkeypatch.setattr(module, "SHRINKAGE", 0.0)
    messages, *_ = clustered(rng, 200)
    mixture = Mixture(
        torch.full((4,), 0.25).double(),
        torch.tensor(rng.normal(size=(4, 2))),
        torch.eye(2).double().repeat(4, 1, 1),
    )
    values = []
    for _ in range(60):
        posteriors = mixture.compute_posteriors(messages)
        values.append(200 * posteriors.evidence + float(mixture.weights.log().sum()))
        mixture = mixture.refit(posteriors)
    assert np.diff(values).min() > -1e-9
    assert values[-1] > values[0] + 20


def test_with_shrinkage_the_evidence_does_not_decrease_noticeably(rng):
    """It falls at most by what `fit_mixture` treats as no change, because shrinkage costs small archetypes some fit."""
    messages, *_ = clustered(rng)
    single = Mixture.single(4 * torch.eye(2).double())
    mixture = fit_mixture(messages, single, 3, seed=0)
    before = mixture.compute_posteriors(messages).evidence
    assert before > single.compute_posteriors(messages).evidence + 0.1
    for _ in range(20):
        mixture = mixture.refit(mixture.compute_posteriors(messages))
    assert mixture.compute_posteriors(messages).evidence > before - 1e-3


# ---------------------------------------------------------------- split


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_split_recovers_planted_archetypes(rng, seed):
    messages, centres, shares, archetypes = clustered(rng, 3000)
    fitted = fit_mixture(messages, Mixture.single(4 * torch.eye(2).double()), 3, seed=seed)
    order = [int(np.argmin(np.linalg.norm(fitted.means.numpy() - centre, axis=1))) for centre in centres]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(fitted.means.numpy()[order], centres, atol=0.1)
    np.testing.assert_allclose(fitted.weights.numpy()[order], shares, atol=0.03)
    for cov in fitted.covs.numpy()[order]:  # the smallest is widened by shrinkage, by .06
        np.testing.assert_allclose(cov, 0.25 * np.eye(2), atol=0.1)
    assigned = fitted.compute_posteriors(messages).responsibilities.numpy()[:, order].argmax(1)
    assert (assigned == archetypes).mean() > 0.95


def test_split_is_determined_by_its_seed(rng):
    messages, *_ = clustered(rng, 200)
    single = Mixture.single(torch.eye(2).double())
    before = torch.random.get_rng_state()
    first, second = (fit_mixture(messages, single, 3, seed=4) for _ in range(2))
    assert torch.equal(first.means, second.means)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_there_are_no_more_archetypes_than_users(rng):
    mixture = fit_mixture(messages_of(rng, 2), Mixture.single(torch.eye(F).double()), 5, seed=0)
    assert mixture.weights.shape == (2,)
    assert float(mixture.weights.sum()) == pytest.approx(1)


def test_identical_users_can_be_split(rng):
    """The archetypes are identical. Numbers stay finite and every user is placed as by a single archetype."""
    precision = torch.eye(F).double().repeat(10, 1, 1)
    same = Messages(precision, torch.ones(10, F).double())
    single = Mixture.single(torch.eye(F).double())
    mixture = fit_mixture(same, single, 3, seed=0)
    posteriors = mixture.compute_posteriors(same)
    assert isinstance(posteriors, UserPosteriors)
    mean, cov = posteriors.moments
    assert torch.isfinite(mean).all()
    assert torch.linalg.eigvalsh(cov).min() > 0
    torch.testing.assert_close(mean, mean[:1].expand_as(mean))
    assert torch.linalg.eigvalsh(mixture.covs).min() > 0
