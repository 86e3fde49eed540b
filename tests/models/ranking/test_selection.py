"""Preferences, relevance and choice probabilities agree with Monte Carlo."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax

from penchant.models.ranking.selection import (
    NonFiniteScoreError,
    order,
    preference_probability,
    probability_acceptable,
    probability_best,
    relevance,
)
from penchant.models.taste.items import Items
from penchant.models.taste.observations import Pair, Vote
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.models.testing import tiny_bundle

DRAWS = 60_000


@pytest.fixture
def user(rng, extractor, make_items, make_population):
    """Reward model and posterior after six judgements, with two archetypes and two directions of taste."""
    population = make_population(rng, archetypes=2)
    reward = replace(tiny_bundle(extractor, rank=1).reward, population=population)
    posterior = UserPosterior.at_prior(population)
    for _ in range(3):
        posterior = posterior.learn(Pair(make_items(rng), make_items(rng))).learn(Vote(make_items(rng), 1))
    return reward, posterior


def sampled_utilities(rng: np.random.Generator, posterior: UserPosterior, items: Items) -> np.ndarray:
    """Return utilities `[DRAWS, n]` sampled over archetype, user and residuals. Equal keys share their residuals."""
    beliefs = posterior.beliefs
    archetype = rng.choice(len(beliefs.weights), DRAWS, p=beliefs.weights)
    roots = np.linalg.cholesky(beliefs.covariances)
    q = beliefs.means.shape[1]
    y = beliefs.means[archetype] + np.einsum("nij,nj->ni", roots[archetype], rng.normal(size=(DRAWS, q)))
    drawn: dict[bytes, np.ndarray] = {}
    columns = []
    for i, key in enumerate(items.keys):
        if key not in drawn:
            base = items.base[i] + np.sqrt(items.base_variance[i]) * rng.normal(size=DRAWS)
            noise = np.sqrt(items.direction_variance[i]) * rng.normal(size=(DRAWS, q - 1))
            drawn[key] = base + y[:, 0] + (y[:, 1:] * (items.directions[i] + noise)).sum(1)
        columns.append(drawn[key])
    return np.column_stack(columns)


def joined(*parts: Items) -> Items:
    return Items(
        np.concatenate([p.base for p in parts]),
        np.concatenate([p.base_variance for p in parts]),
        np.concatenate([p.directions for p in parts]),
        np.concatenate([p.direction_variance for p in parts]),
        tuple(key for p in parts for key in p.keys),
    )


# ---------------------------------------------------------------- against Monte Carlo


def test_preferences_and_votes_against_monte_carlo(rng, make_items, user):
    """MacKay's σ(m/√(1 + πv/8)) is within 0.02 of the integral it stands for, whatever the uncertainty."""
    reward, posterior = user
    items = make_items(rng, 6, residual=0.3)
    drawn = sampled_utilities(rng, posterior, items)
    np.testing.assert_allclose(
        probability_acceptable(reward, posterior, items), expit(drawn).mean(0), atol=0.02
    )
    np.testing.assert_allclose(
        preference_probability(reward, posterior, items[[0, 1, 2]], items[[3, 4, 5]]),
        expit(drawn[:, :3] - drawn[:, 3:]).mean(0),
        atol=0.02,
    )


@pytest.mark.parametrize("n", [3, 8])
def test_choice_probabilities_against_monte_carlo(rng, make_items, user, n):
    reward, posterior = user
    errors = []
    for _ in range(6):
        items = make_items(rng, n, residual=0.3)
        expected = softmax(sampled_utilities(rng, posterior, items), axis=1).mean(0)
        errors.append(np.abs(probability_best(reward, posterior, items) - expected).max())
    assert max(errors) < 0.015
    assert np.mean(errors) < 0.007


def test_relevance_is_preference_over_the_reference(rng, make_items, user):
    reward, posterior = user
    items = make_items(rng, 5)
    one_by_one = [preference_probability(reward, posterior, items[i], reward.reference)[0] for i in range(5)]
    np.testing.assert_allclose(relevance(reward, posterior, items), one_by_one, rtol=1e-12)
    np.testing.assert_allclose(relevance(reward, posterior, reward.reference), 0.5, atol=1e-15)


# ---------------------------------------------------------------- exact properties


def test_the_two_sides_of_a_comparison_sum_to_one(rng, make_items, user):
    reward, posterior = user
    a, b = make_items(rng, 8), make_items(rng, 8)
    np.testing.assert_allclose(
        preference_probability(reward, posterior, a, b) + preference_probability(reward, posterior, b, a),
        1.0,
        atol=1e-12,
    )


def test_best_of_two_is_the_preference(rng, make_items, user):
    reward, posterior = user
    for temperature in (0.5, 1.0, 2.5):
        model = replace(reward, temperature=temperature)
        items = make_items(rng, 2)
        actual = probability_best(model, posterior, items)
        assert actual[0] == preference_probability(model, posterior, items[0], items[1])[0]
        assert actual.sum() == 1.0


def test_best_of_one_is_certain(rng, make_items, user):
    np.testing.assert_array_equal(probability_best(*user, make_items(rng, 1)), [1.0])


@pytest.mark.parametrize("n", [2, 3, 9, 40])
def test_choice_probabilities_sum_to_one_and_repeat(rng, make_items, user, n):
    items = make_items(rng, n, residual=2.0)
    actual = probability_best(*user, items)
    assert actual.sum() == pytest.approx(1.0, abs=1e-12)
    assert (actual > 0).all()
    np.testing.assert_array_equal(actual, probability_best(*user, items))


@pytest.mark.parametrize("n", [2, 3, 9])
def test_the_order_of_candidates_does_not_matter(rng, make_items, user, n):
    items = make_items(rng, n, residual=0.5)
    actual = probability_best(*user, items)
    for _ in range(3):
        shuffled = rng.permutation(n).tolist()
        np.testing.assert_allclose(
            probability_best(*user, items[shuffled]), actual[shuffled], rtol=0, atol=1e-12
        )


def test_copies_of_a_text_share_its_probability_equally(rng, make_items, user):
    items = make_items(rng, 3)
    actual = probability_best(*user, items[[0, 1, 1, 2]])
    assert actual[1] == pytest.approx(actual[2], abs=1e-12)
    assert actual.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(probability_best(*user, items[[0, 0]]), 0.5, atol=1e-15)
    np.testing.assert_allclose(probability_best(*user, items[[2, 2, 2]]), 1 / 3, atol=1e-12)


def test_equal_candidates_are_equally_likely(rng, make_items, user):
    """Texts with the same beliefs differ only in their keys, so none is more likely than another."""
    item = make_items(rng, residual=1.0)
    for _ in range(5):
        keys = (rng.bytes(16), rng.bytes(16), rng.bytes(16))
        np.testing.assert_allclose(
            probability_best(*user, replace(item[[0, 0, 0]], keys=keys)), 1 / 3, atol=0.005
        )


def test_the_same_text_is_neither_better_nor_worse(rng, make_items, user):
    reward, posterior = user
    items = make_items(rng, 3)
    drifted = replace(items, base=items.base + 1.0)  # the same keys mean the same texts
    np.testing.assert_allclose(preference_probability(reward, posterior, items, drifted), 0.5, atol=1e-15)


def test_a_hopeless_third_candidate_does_not_affect_the_others(rng, make_items, user):
    reward, posterior = user
    pair, hopeless = make_items(rng, 2), make_items(rng, 1, base=[-80.0])
    three = probability_best(reward, posterior, joined(pair, hopeless))
    assert three[2] < 1e-6
    np.testing.assert_allclose(three[:2], probability_best(reward, posterior, pair), atol=0.025)


def test_extreme_utilities_give_probabilities(rng, make_items, user):
    reward, posterior = user
    items = make_items(rng, 4, base=[1e6, 0.0, -1e6, 1e6])
    for actual in (
        probability_best(reward, posterior, items),
        probability_acceptable(reward, posterior, items),
        relevance(reward, posterior, items),
    ):
        assert np.isfinite(actual).all()
        assert ((actual >= 0) & (actual <= 1)).all()


def test_temperature_sharpens_probabilities(rng, make_items, user):
    reward, posterior = user
    items = make_items(rng, 6)
    mild, sharp = replace(reward, temperature=0.5), replace(reward, temperature=2.0)
    for decide in (relevance, probability_acceptable):
        soft, hard = decide(mild, posterior, items), decide(sharp, posterior, items)
        assert np.abs(hard - 0.5).sum() > np.abs(soft - 0.5).sum()
    assert probability_best(sharp, posterior, items).max() > probability_best(mild, posterior, items).max()


def test_a_user_gets_the_preferred_direction(rng, make_items, user):
    """After preferences for one direction of taste that direction wins. For the opposite user the other one wins."""
    reward, _ = user
    plain = make_items(rng, 1, base=[0.0], directions=[[0.0, 0.0]])
    liked = make_items(rng, 1, base=[0.0], directions=[[2.0, 0.0]])
    unseen = make_items(rng, 2, base=[0.0, 0.0], directions=[[1.5, 0.0], [-1.5, 0.0]])
    for winner, loser, best in ((liked, plain, 0), (plain, liked, 1)):
        posterior = UserPosterior.at_prior(reward.population)
        chances = []
        for _ in range(6):
            posterior = posterior.learn(Pair(winner, loser))
            chances.append(probability_best(reward, posterior, unseen)[best])
        assert (np.diff(chances) > 0).all()
        assert chances[-1] > 0.7


# ---------------------------------------------------------------- order


def test_order_is_descending_with_ties_by_index():
    np.testing.assert_array_equal(order(np.array([0.2, 0.9, 0.2, 0.9, -0.0, 0.0])), [1, 3, 0, 2, 4, 5])
    np.testing.assert_array_equal(order(np.full(5, 0.5)), np.arange(5))
    assert order(np.zeros(0)).tolist() == []
    assert order(np.array([0.1])).dtype == np.int64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(NonFiniteScoreError, match="2 of 4 scores are not finite"):
        order(np.array([0.1, bad, 0.3, bad]))


def test_a_model_without_directions_can_decide(rng, extractor, make_items, make_population):
    population = make_population(rng, q=1)
    bundle = tiny_bundle(extractor, rank=0)
    reward: RewardModel = replace(bundle.reward, population=population, reference=make_items(rng, 1, k=0))
    posterior = UserPosterior.at_prior(population)
    items = make_items(rng, 4, k=0, residual=0.0)
    for actual in (relevance(reward, posterior, items), probability_acceptable(reward, posterior, items)):
        np.testing.assert_array_equal(order(actual), order(items.base))
    np.testing.assert_allclose(probability_best(reward, posterior, items), softmax(items.base), atol=1e-9)
