"""The mixture's closed form agrees with quadrature of the evidence and direct linear algebra."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from penchant.models.taste.population import FactoredBeliefs, Population


def test_one_gaussian_times_a_site_is_a_linear_solve(rng, make_population):
    for q in (1, 3, 17):
        population = make_population(rng, q=q)
        root = rng.normal(0, 1, (q, 2))
        precision, linear = root @ root.T, rng.normal(0, 1, q)
        posterior = population.update(precision, linear)
        total = population.precisions[0] + precision
        target = population.precisions[0] @ population.means[0] + linear
        np.testing.assert_allclose(posterior.means[0], np.linalg.solve(total, target), atol=1e-9)
        np.testing.assert_allclose(posterior.covariances[0] @ total, np.eye(q), atol=1e-9)
        np.testing.assert_array_equal(posterior.weights, [1.0])


def test_no_evidence_is_the_prior(rng, make_population):
    population = make_population(rng, archetypes=3)
    posterior = population.update(np.zeros((3, 3)), np.zeros(3))
    np.testing.assert_allclose(posterior.weights, population.weights, rtol=1e-12)
    np.testing.assert_allclose(posterior.means, population.means, atol=1e-12)
    np.testing.assert_allclose(posterior.covariances, population.prior.covariances, atol=1e-12)
    assert population.q == 3


def test_archetype_weights_are_evidence_in_one_dimension(rng, make_population):
    y = np.linspace(-30, 30, 60_001)
    for _ in range(8):
        population = make_population(rng, q=1, archetypes=2)
        precision, linear = rng.uniform(0, 3), rng.normal(0, 2)
        posterior = population.update(np.full((1, 1), precision), np.full(1, linear))
        prior = norm.pdf(y, population.means, population.precisions[:, 0] ** -0.5)  # [2, grid]
        density = population.weights[:, None] * prior * np.exp(-0.5 * precision * y**2 + linear * y)
        evidence = density.sum(axis=1)
        np.testing.assert_allclose(posterior.weights, evidence / evidence.sum(), rtol=1e-9)
        np.testing.assert_allclose(posterior.means[:, 0], density @ y / evidence, atol=1e-9)


def test_archetype_weights_are_evidence_in_two_dimensions(rng, make_population):
    population = make_population(rng, q=2, archetypes=2)
    direction = np.array([1.0, -0.7])
    precision, linear = 0.8 * np.outer(direction, direction), 1.3 * direction
    posterior = population.update(precision, linear)
    y = np.stack(np.meshgrid(*[np.linspace(-12, 12, 401)] * 2), axis=-1)  # [401, 401, 2]
    likelihood = np.exp(-0.5 * ((y @ precision) * y).sum(-1) + y @ linear)
    evidence = np.array(
        [
            weight * (multivariate_normal.pdf(y, mean, np.linalg.inv(p)) * likelihood).sum()
            for weight, mean, p in zip(
                population.weights, population.means, population.precisions, strict=True
            )
        ]
    )
    np.testing.assert_allclose(posterior.weights, evidence / evidence.sum(), rtol=1e-8)


@pytest.mark.parametrize("archetypes", [1, 4])
@pytest.mark.parametrize("q", [1, 2, 17])
def test_factors_give_the_distribution_of_linear_functions(rng, make_population, archetypes, q):
    """The reference is the whole covariance, by inversion."""
    population = make_population(rng, q=q, archetypes=archetypes)
    root = rng.normal(size=(q, 3))
    precision, linear = root @ root.T, rng.normal(size=q)
    covariances = np.linalg.inv(population.precisions + precision)
    means = (covariances @ (population.linear + linear)[:, :, None])[:, :, 0]
    factored, coordinates = FactoredBeliefs(population, precision, linear), (0, q - 1)
    weights = population.update(precision, linear).weights
    squares = (weights @ (means**2 + covariances.diagonal(0, 1, 2)))[[0, q - 1]]

    directions = rng.normal(size=(3, q))
    beliefs, expected_squares = factored.project(directions, coordinates)
    np.testing.assert_allclose(beliefs.weights, weights, rtol=1e-12)
    np.testing.assert_allclose(beliefs.means, means @ directions.T, atol=1e-10)
    np.testing.assert_allclose(beliefs.covariances, directions @ covariances @ directions.T, atol=1e-10)
    np.testing.assert_allclose(expected_squares, squares, rtol=1e-10)

    mixture, squares_along = factored.along(directions[0], coordinates)
    np.testing.assert_allclose([weight for weight, _, _ in mixture], weights, rtol=1e-12)
    np.testing.assert_allclose([mean for _, mean, _ in mixture], means @ directions[0], atol=1e-10)
    variances = [directions[0] @ covariance @ directions[0] for covariance in covariances]
    np.testing.assert_allclose([variance for _, _, variance in mixture], variances, atol=1e-10)
    np.testing.assert_allclose(squares_along, squares, rtol=1e-10)


def test_evidence_that_rounding_made_indefinite_is_repaired():
    """The evidence of a long log has the eigenvalues 2·10⁷ and, after rounding to float32, −2 instead of 0."""
    population = Population(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    precision = np.array([[1e7, 1e7 + 2], [1e7 + 2, 1e7]])
    beliefs = population.update(precision, np.array([1e7, 1e7]))
    assert (np.linalg.eigvalsh(beliefs.covariances[0]) > 0).all()
    np.testing.assert_allclose(beliefs.means[0], [0.5, 0.5], rtol=1e-5)


def test_overwhelming_evidence_neither_overflows_nor_underflows():
    population = Population(np.array([0.5, 0.5]), np.array([[-40.0], [40.0]]), np.array([[[4.0]], [[4.0]]]))
    # A thousand judgements all state y = 40.
    posterior = population.update(np.full((1, 1), 1e4), np.full(1, 4e5))
    np.testing.assert_allclose(posterior.weights, [0.0, 1.0], atol=1e-300)
    assert posterior.weights.sum() == 1.0
    assert posterior.means[1, 0] == pytest.approx(40.0)


def test_second_moments(rng, make_population):
    population = make_population(rng, archetypes=2)
    draws = rng.multivariate_normal(
        population.means[1], np.linalg.inv(population.precisions[1]), size=200_000, method="cholesky"
    )
    np.testing.assert_allclose(population.prior.second_moments[1], (draws**2).mean(0), rtol=0.02)


def test_the_mixtures_own_moments(rng, make_population):
    beliefs = make_population(rng, archetypes=3).prior
    roots, n = np.linalg.cholesky(beliefs.covariances), 200_000
    archetype = rng.choice(3, n, p=beliefs.weights)
    draws = beliefs.means[archetype] + np.einsum("nij,nj->ni", roots[archetype], rng.normal(size=(n, 3)))
    np.testing.assert_allclose(beliefs.mean, draws.mean(0), atol=0.02)
    np.testing.assert_allclose(beliefs.covariance, np.cov(draws.T), atol=0.03)
    np.testing.assert_allclose(beliefs.expected_squares, (draws**2).mean(0), rtol=0.02)
