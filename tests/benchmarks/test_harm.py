"""The two tests for harmed users detect real harm and allow for chance."""

import itertools

import numpy as np
import pytest

from benchmarks.personalization.harm import LEVEL, changed_users, harmed_users


def all_pairs(users: int, texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return users and text pairs in which each user judges all pairs of the texts."""
    pairs = np.array(list(itertools.combinations(range(texts), 2)))
    return np.repeat(np.arange(users), len(pairs)), np.tile(pairs, (users, 1))


def test_harm_is_detected_and_chance_is_not() -> None:
    rng = np.random.default_rng(5)
    users = np.repeat([0, 1, 2], 20)
    change = np.concatenate([np.full(20, 0.1), np.full(20, -0.1), rng.choice([-0.1, 0.1], 20)])
    change[40:] -= change[40:].mean()
    assert harmed_users(users, change).tolist() == [True, False, False]


def test_few_pairs_cannot_show_harm() -> None:
    users = np.repeat([0, 1], [4, 20])
    assert harmed_users(users, np.full(24, 1.0)).tolist() == [False, True]


def test_harm_and_benefit_are_distinguished() -> None:
    users, texts = all_pairs(3, 9)
    noise = np.random.default_rng(0).normal(0, 0.1, len(users))
    worse, better = changed_users(users, texts, noise + np.array([1.0, -1.0, 0.0])[users])
    assert worse.tolist() == [True, False, False]
    assert better.tolist() == [False, True, False]


def test_no_change_is_none_and_the_same_change_of_every_pair_is_one() -> None:
    users, texts = all_pairs(2, 5)
    worse, better = changed_users(users, texts, np.where(users == 0, 0.0, 0.25))
    assert worse.tolist() == [False, True]
    assert not better.any()


def test_two_texts_cannot_show_anything() -> None:
    worse, better = changed_users(np.zeros(4, int), np.array([[0, 1]] * 4), np.array([1.0, 1.1, 0.9, 1.0]))
    assert not worse.any()
    assert not better.any()


@pytest.mark.parametrize("texts", [5, 9, 20])
def test_effects_of_single_texts_fool_only_the_permutation_test(texts) -> None:
    people = 400
    users, pairs = all_pairs(people, texts)
    rng = np.random.default_rng(texts)
    text_effects = rng.normal(size=(people, texts))
    change = text_effects[users, pairs[:, 0]] + text_effects[users, pairs[:, 1]] + rng.normal(size=len(users))
    assert harmed_users(users, change).mean() > 7 * LEVEL
    worse, better = changed_users(users, pairs, change)
    assert worse.mean() < 4 * LEVEL
    assert better.mean() < 4 * LEVEL
