"""Rankings between the population's and the user's: exact ends, and the stated scale in between."""

import numpy as np
import pytest
from scipy.special import logit

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.ranking.personalization import (
    PersonalizationError,
    blend_choice,
    blend_means,
    blend_probabilities,
    blend_stds,
    personalized_choice,
    personalized_scores,
)
from penchant.models.ranking.scores import Scores, scores
from penchant.models.ranking.selection import order, probability_acceptable, probability_best
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import REFERENCE_KEY
from penchant.models.testing import tiny_bundle

Q = 4
STRENGTHS = np.linspace(0, 1, 21).tolist()
BLENDS = (blend_means, blend_stds, blend_probabilities, blend_choice)


@pytest.fixture(scope="module")
def reward():
    return tiny_bundle(FeatureExtractor(HashingEncoder())).reward


@pytest.fixture(params=[1, 3], ids=["gaussian", "mixture"])
def prior(rng, make_population, request):
    return UserPosterior.at_prior(make_population(rng, q=Q, archetypes=request.param))


@pytest.fixture
def users(rng, prior):
    """Two users with evidence of full rank."""

    def make():
        root = rng.normal(size=(Q, Q))
        return UserPosterior(prior.population, root @ root.T, 3 * rng.normal(size=Q), 5)

    return [make(), make()]


@pytest.fixture
def candidates(rng, make_items):
    return make_items(rng, 7, k=Q - 1)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("blend", BLENDS)
def test_the_ends_are_exact(rng, blend):
    population, user = rng.dirichlet(np.full(9, 0.1)), rng.dirichlet(np.full(9, 0.1))
    np.testing.assert_array_equal(blend(population, user, 0.0), population)
    np.testing.assert_array_equal(blend(population, user, 1.0), user)


def test_means_variances_and_logits_are_linear(rng):
    population, user = rng.uniform(0.01, 0.99, (2, 30))
    for strength in STRENGTHS:
        expected = (1 - strength) * population + strength * user
        np.testing.assert_allclose(blend_means(population, user, strength), expected, rtol=1e-14)
        variance = (1 - strength) * population**2 + strength * user**2
        np.testing.assert_allclose(blend_stds(population, user, strength) ** 2, variance, rtol=1e-14)
        logits = (1 - strength) * logit(population) + strength * logit(user)
        probabilities = blend_probabilities(population, user, strength)
        np.testing.assert_allclose(logit(probabilities), logits, rtol=1e-12, atol=1e-12)


def test_a_choice_is_the_normalised_geometric_mean(rng):
    population, user = rng.dirichlet(np.ones(6), 2)
    for strength in STRENGTHS:
        product = population ** (1 - strength) * user**strength
        np.testing.assert_allclose(
            blend_choice(population, user, strength), product / product.sum(), rtol=1e-12
        )


def test_a_choice_between_two_is_blended_like_a_probability(rng):
    (p, q), strength = rng.uniform(size=2), 0.3
    first, second = blend_choice(np.array([p, 1 - p]), np.array([q, 1 - q]), strength)
    assert first == pytest.approx(float(blend_probabilities(np.array(p), np.array(q), strength)), rel=1e-12)
    assert first + second == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("blend", [blend_means, blend_stds, blend_probabilities])
def test_numbers_move_monotonically(rng, blend):
    population, user = rng.uniform(size=(2, 200))
    path = np.array([blend(population, user, strength) for strength in STRENGTHS])
    assert (np.sign(user - population) * np.diff(path, axis=0) > 0).all()


def test_equal_numbers_stay_equal(rng):
    numbers = np.concatenate([rng.uniform(size=50), [0.0, 0.5, 1.0]])
    for blend in (blend_means, blend_stds, blend_probabilities):
        np.testing.assert_array_equal(blend(numbers, numbers.copy(), 0.37), numbers)


def test_certainty_is_blended_without_nan():
    none, certain = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.25, 0.5])
    probabilities = blend_probabilities(none, certain, 0.5)
    assert np.isfinite(probabilities).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    # Supports that have no item in common.
    np.testing.assert_allclose(blend_choice(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.5), [0.5, 0.5])


@pytest.mark.parametrize("strength", [-1e-9, 1.0000001, np.nan, np.inf, -np.inf])
def test_a_strength_outside_the_unit_interval_is_refused(reward, prior, users, candidates, strength):
    numbers = np.full(3, 0.5)
    for blend in BLENDS:
        with pytest.raises(PersonalizationError, match="from 0 to 1"):
            blend(numbers, numbers, strength)
    with pytest.raises(PersonalizationError, match="from 0 to 1"):
        personalized_scores(reward, prior, users, candidates, strength)
    with pytest.raises(PersonalizationError, match="from 0 to 1"):
        personalized_choice(reward, prior, users[0], candidates, strength)


# ---------------------------------------------------------------- scores and choices


def check_equal(actual: Scores, expected: Scores):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scores_at_the_ends_are_those_of_the_population_and_of_the_users(reward, prior, users, candidates):
    check_equal(personalized_scores(reward, prior, users, candidates, 1.0), scores(reward, users, candidates))
    shared = scores(reward, [prior], candidates)
    for n in (1, 2):
        table = personalized_scores(reward, prior, users[:n], candidates, 0.0)
        check_equal(table, Scores(*(np.concatenate([values] * n) for values in shared)))


def test_scores_follow_the_formulas(reward, prior, users, candidates):
    strength = 0.35
    table = personalized_scores(reward, prior, users, candidates, strength)
    shared, own = prior.utility(candidates), [user.utility(candidates) for user in users]
    relevances = scores(reward, [prior, *users], candidates).relevance
    for row, personal in enumerate(own):
        mean = shared.mean + strength * (personal.mean - shared.mean)
        np.testing.assert_allclose(table.mean[row], mean, atol=1e-12)
        variance = shared.std**2 + strength * (personal.std**2 - shared.std**2)
        np.testing.assert_allclose(table.std[row] ** 2, variance, rtol=1e-10)
        logits = (1 - strength) * logit(relevances[0]) + strength * logit(relevances[row + 1])
        np.testing.assert_allclose(logit(table.relevance[row]), logits, atol=1e-9)


def test_a_user_at_the_prior_gets_the_populations_scores_at_any_strength(reward, prior, candidates):
    somebody = UserPosterior.at_prior(prior.population)
    expected = scores(reward, [prior], candidates)
    for strength in STRENGTHS:
        check_equal(personalized_scores(reward, prior, [somebody], candidates, strength), expected)


def test_the_order_changes_from_the_populations_to_the_users(reward, prior, users, candidates):
    """Two candidates swap at most once: the difference of their mean utilities is linear in the strength."""
    means = np.array(
        [
            personalized_scores(reward, prior, users[:1], candidates, strength).mean[0]
            for strength in STRENGTHS
        ]
    )
    assert order(means[0]).tolist() == order(prior.utility(candidates).mean).tolist()
    assert order(means[-1]).tolist() == order(users[0].utility(candidates).mean).tolist()
    assert order(means[0]).tolist() != order(means[-1]).tolist()
    is_before = means[:, :, None] > means[:, None, :]
    assert (np.abs(np.diff(is_before.astype(int), axis=0)).sum(axis=0) <= 1).all()


def test_the_reference_is_as_good_as_itself_at_any_strength(rng, make_items, reward, prior, users):
    items = make_items(rng, 2, k=Q - 1, keys=(REFERENCE_KEY, b"other"))
    for strength in STRENGTHS:
        relevance = personalized_scores(reward, prior, users, items, strength).relevance[:, 0]
        assert relevance == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_choices_at_the_ends_and_in_between(rng, make_items, reward, prior, users, n):
    items = make_items(rng, n, k=Q - 1)
    ends = [
        (probability_best(reward, posterior, items), probability_acceptable(reward, posterior, items))
        for posterior in (prior, users[0])
    ]
    for strength, expected in ((0.0, ends[0]), (1.0, ends[1])):
        for one, other in zip(
            personalized_choice(reward, prior, users[0], items, strength), expected, strict=True
        ):
            np.testing.assert_array_equal(one, other)
    best, acceptable = personalized_choice(reward, prior, users[0], items, 0.5)
    assert best.sum() == pytest.approx(1, abs=1e-12)
    product = np.sqrt(ends[0][0] * ends[1][0])
    np.testing.assert_allclose(best, product / product.sum(), rtol=1e-12)
    np.testing.assert_allclose(logit(acceptable), (logit(ends[0][1]) + logit(ends[1][1])) / 2, atol=1e-9)
