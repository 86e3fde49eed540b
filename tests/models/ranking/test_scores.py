"""Scores of many users and items at once equal those of one user and one function at a time."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.ranking.scores import scores
from penchant.models.ranking.selection import relevance
from penchant.models.taste.items import Items
from penchant.models.taste.population import Population
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import REFERENCE_KEY
from penchant.models.testing import tiny_bundle

Q = 4


@pytest.fixture(scope="module")
def reward():
    return tiny_bundle(FeatureExtractor(HashingEncoder())).reward


def items(n, seed=0, key=lambda i: f"k{i}".encode()):
    rng = np.random.default_rng(seed)
    return Items(
        rng.normal(size=n),
        rng.uniform(0, 1, n),
        rng.normal(size=(n, Q - 1)),
        rng.uniform(0, 1, (n, Q - 1)),
        tuple(key(i) for i in range(n)),
    )


def user(population, seed):
    """Return a user with evidence of full rank."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(Q, Q))
    return UserPosterior(population, root @ root.T, rng.normal(size=Q), 5)


@pytest.fixture(scope="module", params=[1, 3])
def population(request):
    rng = np.random.default_rng(7)
    k = request.param
    roots = rng.normal(size=(k, Q, Q))
    return Population(
        rng.dirichlet(np.ones(k)), rng.normal(size=(k, Q)), roots @ roots.transpose(0, 2, 1) + np.eye(Q)
    )


def test_scores_agree_with_one_user_at_a_time(reward, population):
    candidates = items(7)
    users = [UserPosterior.at_prior(population), *[user(population, seed) for seed in range(3)]]
    table = scores(reward, users, candidates)
    assert table.mean.shape == table.std.shape == table.relevance.shape == (4, 7)
    for row, posterior in enumerate(users):
        expected = posterior.utility(candidates)
        np.testing.assert_allclose(table.mean[row], expected.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(table.std[row], expected.std, rtol=1e-12)
        np.testing.assert_allclose(
            table.relevance[row], relevance(reward, posterior, candidates), rtol=0, atol=1e-12
        )


def test_the_reference_equals_itself(reward, population):
    candidates = items(3, key=lambda i: REFERENCE_KEY if i == 1 else bytes([i]))
    table = scores(reward, [user(population, 1)], candidates)
    assert table.relevance[0, 1] == pytest.approx(0.5, abs=1e-15)
    assert (table.relevance[0, [0, 2]] != 0.5).all()


@pytest.mark.parametrize("n", [4, 9, 33, 70])
def test_equal_texts_score_alike(reward, population, n):
    twice = [*range(n), *reversed(range(n))]
    table = scores(reward, [user(population, 2), user(population, 3)], items(n)[twice])
    for values in table:
        assert values.shape == (2, 2 * n)
        np.testing.assert_array_equal(values, values[:, ::-1])
        assert len(np.unique(values[0])) == n


def test_cached_values_of_a_user_are_for_one_model(reward, population):
    candidates, somebody = items(5), user(population, 4)
    other = replace(reward, reference=items(1, seed=9, key=lambda _: b"another"), temperature=2.0)
    for model in (reward, other, reward):
        table = scores(model, [somebody], candidates)
        np.testing.assert_allclose(
            table.relevance[0], relevance(model, somebody, candidates), rtol=0, atol=1e-12
        )


def test_rows_correspond_to_items(reward, population):
    candidates = items(6)
    again = Items.from_rows(candidates.rows, candidates.keys)
    for actual, expected in zip(
        scores(reward, [user(population, 1)], candidates),
        scores(reward, [user(population, 1)], again),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(again.features, candidates.features)
    np.testing.assert_array_equal(again.direction_variance, candidates.direction_variance)
