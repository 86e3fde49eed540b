"""`RewardModel` turns feature vectors into items: item memory, rating scales, flip rates and tastes."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.ranking.selection import relevance
from penchant.models.taste.items import Items, item_key
from penchant.models.taste.observations import Pair, RatingScale
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior
from penchant.models.testing import tiny_bundle

LENGTH = 64 + ATTRIBUTE_NAMES.index("length")  # column behind a HashingEncoder of 64


# ---------------------------------------------------------------- items


def test_items_are_sliced_in_the_requested_order(rng, make_items):
    items = make_items(rng, 4)
    assert len(items) == 4
    picked = items[[3, 0, 0]]
    np.testing.assert_array_equal(picked.base, items.base[[3, 0, 0]])
    np.testing.assert_array_equal(picked.direction_variance, items.direction_variance[[3, 0, 0]])
    assert picked.keys == (items.keys[3], items.keys[0], items.keys[0])
    assert len(items[2]) == 1
    assert items[2].keys == (items.keys[2],)
    np.testing.assert_array_equal(items.features, np.column_stack([np.ones(4), items.directions]))


def test_item_keys_distinguish_context_and_text():
    assert len(item_key("context", "text")) == 16
    keys = {item_key(*pair) for pair in [("a", "b"), ("b", "a"), ("ab", ""), ("", "ab"), ("\ud800", "b")]}
    assert len(keys) == 5


# ---------------------------------------------------------------- reward model


@pytest.fixture
def reward(extractor) -> RewardModel:
    return tiny_bundle(extractor, rank=2).reward


def test_describe_splits_base_directions_and_loadings(extractor, reward):
    vectors = extractor.extract(["one two three", "a longer text about something else"]).vectors
    items = reward.describe(vectors)
    mean, variance = reward.text_prior.predict(reward.text_prior.standardiser(vectors))
    np.testing.assert_array_equal(items.base, mean[:, 0])
    np.testing.assert_array_equal(items.base_variance, variance[:, 0])
    np.testing.assert_array_equal(items.directions[:, :2], mean[:, 1:])
    np.testing.assert_allclose(items.directions[:, 2], vectors[:, LENGTH].astype(float) - 3.0)
    np.testing.assert_array_equal(items.direction_variance[:, 2], 0)  # attributes are known without error
    assert (reward.q, reward.rank) == (4, 2)


def test_without_keys_texts_are_distinguished_by_their_vectors(extractor, reward):
    items = reward.describe(extractor.extract(["one", "two", "one"]).vectors)
    assert items.keys[0] == items.keys[2] != items.keys[1]


def test_a_judged_text_is_remembered(extractor, reward):
    vectors = extractor.extract(["known text", "new text"]).vectors
    keys = [item_key("here", "known text"), item_key("here", "new text")]
    memory = ItemMemory({keys[0]: 0}, np.array([[2.5, -1.0, 0.5]]), np.array([[0.01, 0.02, 0.03]]))
    model = replace(reward, memory=memory)
    items, plain = model.describe(vectors, keys), reward.describe(vectors, keys)
    assert items.base[0] == 2.5
    np.testing.assert_array_equal(items.directions[0, :2], [-1.0, 0.5])
    assert items.directions[0, 2] == plain.directions[0, 2]  # attributes still come from the text
    np.testing.assert_array_equal(items.direction_variance[0], [0.02, 0.03, 0.0])
    np.testing.assert_array_equal(items.directions[1], plain.directions[1])
    assert items.base[1] == plain.base[1]
    assert items.keys == tuple(keys)
    # The same text in another context is another item. Without keys nothing is looked up.
    assert model.describe(vectors, [item_key("there", "known text"), keys[1]]).base[0] == plain.base[0]
    assert model.describe(vectors).base[0] == plain.base[0]


def test_every_source_has_a_rating_scale(reward):
    scales = {"default": RatingScale(0.0, 0.4, 0.5), "stars": RatingScale(0.2, 0.3, 0.1)}
    model = replace(reward, scales=scales)
    assert model.rating_scale("stars").slope == 0.3
    assert (
        model.rating_scale("unheard of")
        == model.rating_scale()
        == model.rating_scale("")
        == scales["default"]
    )


def test_every_source_has_a_rate_of_wrong_labels(reward):
    assert reward.flip("stars") == reward.flip() == 0.0  # a model without wrong labels
    model = replace(reward, flips={"default": 0.05, "stars": 0.2})
    assert model.flip("stars") == 0.2
    assert model.flip("unheard of") == model.flip() == model.flip("") == 0.05


def test_tastes_are_directions_of_features_known_without_error(rng, extractor, reward):
    """Any direction of x can be added. Its prior variance is appended under every archetype."""
    population = reward.population
    two = replace(
        reward,
        population=replace(
            population,
            weights=np.array([0.4, 0.6]),
            means=rng.normal(size=(2, reward.q)),
            precisions=np.stack([np.eye(reward.q), 3 * np.eye(reward.q)]),
        ),
    )
    directions = rng.normal(size=(reward.text_prior.standardiser.width, 3))
    wider = two.with_tastes(directions, np.array([0.5, 0.2, 0.1]))
    assert (wider.q, wider.rank) == (reward.q + 3, reward.rank)
    before, prior = two.population.prior, wider.population.prior
    np.testing.assert_array_equal(prior.weights, before.weights)
    np.testing.assert_allclose(prior.means[:, : reward.q], before.means)
    np.testing.assert_array_equal(prior.means[:, reward.q :], 0)
    for old, new in zip(before.covariances, prior.covariances, strict=True):
        np.testing.assert_allclose(new[: reward.q, : reward.q], old, atol=1e-12)
        np.testing.assert_allclose(new[reward.q :, reward.q :], np.diag([0.5, 0.2, 0.1]), atol=1e-12)
        np.testing.assert_array_equal(new[: reward.q, reward.q :], 0)
    vectors = extractor.extract(["one text", "and another"]).vectors
    items = wider.describe(vectors)
    x = wider.text_prior.standardiser(vectors)
    np.testing.assert_allclose(items.directions[:, -3:], x @ directions)
    np.testing.assert_array_equal(items.direction_variance[:, -3:], 0)


def test_declared_tastes_are_coordinates_of_the_user(extractor, reward):
    questions = 64 + ATTRIBUTE_NAMES.index("questions")
    wider = reward.with_tastes(
        np.eye(reward.text_prior.standardiser.width)[:, [LENGTH, questions]], np.array([0.5, 0.1])
    )
    assert (wider.q, wider.rank) == (6, 2)
    prior = wider.population.prior.covariances[0]
    np.testing.assert_allclose(prior, np.diag([1, 1, 1, 1, 0.5, 0.1]))
    vectors = extractor.extract(
        ["Why? How? What?", "Because it is so, and that is all there is to say."]
    ).vectors
    x, items = wider.text_prior.standardiser(vectors), wider.describe(vectors)
    np.testing.assert_array_equal(items.directions[:, 3:], x[:, [LENGTH, questions]])
    np.testing.assert_array_equal(items.direction_variance[:, 3:], 0)
    np.testing.assert_array_equal(items.directions[:, :3], reward.describe(vectors).directions)
    assert wider.reference.directions.shape == (1, 5)


def test_three_choices_of_longer_texts_generalise_to_unseen_texts(extractor, reward):
    """The opposite user prefers the shorter text. The attribute, not the words, carries the taste."""
    prior = reward.text_prior
    assert isinstance(prior, LinearTextPrior)
    reward = replace(
        reward, text_prior=replace(prior, weights=np.zeros_like(prior.weights))
    )  # no shared words
    short = ["Yes.", "It works.", "Try it again."]
    long = [
        "There are several reasons for this, and the first of them has to do with how the whole thing was made.",
        "You may begin by opening the window, then wait for a few minutes, and only then close the door again.",
        "Nobody can say for certain, yet most people who looked into the matter came to much the same conclusion.",
    ]
    unseen = extractor.extract(
        [
            "Bread rises because yeast turns sugar into gas, which stays in the dough as bubbles until it bakes.",
            "Yeast makes gas.",
        ]
    ).vectors

    def items(texts: list[str]) -> Items:
        return reward.describe(extractor.extract(texts).vectors)

    lengthy = laconic = UserPosterior.at_prior(reward.population)
    for a, b in zip(long, short, strict=True):
        lengthy = lengthy.learn(Pair(items([a]), items([b])))
        laconic = laconic.learn(Pair(items([b]), items([a])))
    candidates = reward.describe(unseen)
    for user, longer_wins in ((lengthy, True), (laconic, False)):
        longer, shorter = relevance(reward, user, candidates)
        assert (longer > shorter) == longer_wins
