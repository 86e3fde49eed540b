"""Judgements become observations of the user model."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.likelihood import compute_site
from penchant.models.taste.observations import Pair, Ranking, Rating, RatingScale, Vote
from penchant.models.taste.observing import build_observation
from penchant.models.testing import tiny_bundle


@pytest.fixture(scope="module")
def reward():
    reward = tiny_bundle(FeatureExtractor(HashingEncoder())).reward
    return replace(reward, scales={**reward.scales, "stars": RatingScale(0.1, 0.2, 0.3)})


def described(reward, n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    dim = len(reward.text_prior.standardiser.centre)
    return reward.describe(rng.normal(size=(n, dim)).astype(np.float16))


def test_every_kind_in_its_native_form(reward):
    items = described(reward, 4)
    vote = build_observation(reward, items[0], kind="vote", value=-1.0, weight=0.5)
    assert isinstance(vote, Vote)
    assert (vote.item.keys, vote.value, vote.weight) == (items.keys[:1], -1, 0.5)
    rating = build_observation(reward, items[1], kind="rating", value=0.25, source="stars")
    assert isinstance(rating, Rating)
    assert (rating.value, rating.scale) == (0.25, RatingScale(0.1, 0.2, 0.3))
    for kind in ("pair", "edit"):
        pair = build_observation(reward, items[[2, 0]], kind=kind, weight=0.25)
        assert isinstance(pair, Pair)
        assert (pair.winner.keys, pair.loser.keys) == (items.keys[2:3], items.keys[:1])
        assert pair.weight == 0.25
    choice = build_observation(reward, items, kind="choice")
    assert isinstance(choice, Ranking)
    assert (choice.items.keys, choice.groups) == (items.keys, (1, 3))
    ranking = build_observation(reward, items, kind="ranking")
    assert isinstance(ranking, Ranking)
    assert ranking.groups == (1, 1, 1, 1)
    tied = build_observation(reward, items, kind="ranking", groups=(2, 2), weight=0.1)
    assert isinstance(tied, Ranking)
    assert (tied.groups, tied.weight) == ((2, 2), 0.1)
    prior = reward.population.prior
    for observation in (vote, rating, pair, choice, ranking, tied):
        assert observation.flip == reward.flip(None)
        assert np.isfinite(compute_site(observation, prior, prior).linear).all()


def test_two_texts_of_any_kind_are_a_pair(reward):
    items = described(reward, 2)
    assert isinstance(build_observation(reward, items, kind="choice"), Pair)
    assert isinstance(build_observation(reward, items, kind="ranking"), Pair)
    # If the two are tied, they form no pair and carry no information.
    tied = build_observation(reward, items, kind="ranking", groups=(2,))
    assert tied is None


def test_judgements_without_information_give_none(reward):
    items = described(reward, 3)
    for kind in ("pair", "edit"):
        assert build_observation(reward, items[[0, 1]], kind=kind, weight=0.0) is None
        assert build_observation(reward, items[[1, 1]], kind=kind) is None
    assert build_observation(reward, items[0], kind="vote", value=1.0, weight=0.0) is None
    assert build_observation(reward, items[0], kind="rating", value=1.0, weight=0.0) is None
    assert build_observation(reward, items[[2, 2, 2]], kind="choice") is None
    assert build_observation(reward, items, kind="ranking", groups=(3,)) is None


@pytest.mark.parametrize(
    ("kind", "n", "value"),
    [
        ("vote", 2, 1.0),
        ("vote", 1, None),
        ("rating", 3, 0.0),
        ("rating", 1, None),
        ("pair", 1, None),
        ("pair", 3, None),
        ("edit", 3, None),
        ("choice", 1, None),
        ("ranking", 1, None),
        ("retract", 2, None),
    ],
)
def test_invalid_judgements_are_refused(reward, kind, n, value):
    with pytest.raises(ValueError, match=f"{kind!r} of {n} items"):
        build_observation(reward, described(reward, n), kind=kind, value=value)
