"""Many users × many items at once: what one user and one function at a time give."""

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
    """Somebody with evidence of full rank."""
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


def test_they_are_what_one_user_at_a_time_gives(reward, population):
    candidates = items(7)
    users = [UserPosterior.at_prior(population), *[user(population, seed) for seed in range(3)]]
    found = scores(reward, users, candidates)
    assert found.mean.shape == found.std.shape == found.relevance.shape == (4, 7)
    for row, posterior in enumerate(users):
        alone = posterior.utility(candidates)
        np.testing.assert_allclose(found.mean[row], alone.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.std[row], alone.std, rtol=1e-12)
        np.testing.assert_allclose(
            found.relevance[row], relevance(reward, posterior, candidates), rtol=0, atol=1e-12
        )


def test_the_reference_itself_is_neither_better_nor_worse(reward, population):
    candidates = items(3, key=lambda i: REFERENCE_KEY if i == 1 else bytes([i]))
    found = scores(reward, [user(population, 1)], candidates)
    assert found.relevance[0, 1] == pytest.approx(0.5, abs=1e-15)
    assert (found.relevance[0, [0, 2]] != 0.5).all()


@pytest.mark.parametrize("n", [4, 9, 33, 70])
def test_equal_texts_score_alike(reward, population, n):
    twice = [*range(n), *reversed(range(n))]
    found = scores(reward, [user(population, 2), user(population, 3)], items(n)[twice])
    for values in found:
        assert values.shape == (2, 2 * n)
        np.testing.assert_array_equal(values, values[:, ::-1])
        assert len(np.unique(values[0])) == n


def test_what_is_kept_of_a_user_is_for_one_model(reward, population):
    candidates, somebody = items(5), user(population, 4)
    other = replace(reward, reference=items(1, seed=9, key=lambda _: b"another"), temperature=2.0)
    for model in (reward, other, reward):
        found = scores(model, [somebody], candidates)
        np.testing.assert_allclose(
            found.relevance[0], relevance(model, somebody, candidates), rtol=0, atol=1e-12
        )


def test_rows_are_the_items(reward, population):
    candidates = items(6)
    again = Items.from_rows(candidates.rows, candidates.keys)
    for one, other in zip(
        scores(reward, [user(population, 1)], candidates),
        scores(reward, [user(population, 1)], again),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again.features, candidates.features)
    np.testing.assert_array_equal(again.direction_variance, candidates.direction_variance)
