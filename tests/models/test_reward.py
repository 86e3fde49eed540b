"""From feature vectors to items: standardisation, the text prior's uncertainty, item memory, attribute tastes."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.attributes import ATTRIBUTE_NAMES
from penchant.models.items import Items
from penchant.models.likelihood import Pair, RatingScale
from penchant.models.posterior import UserPosterior
from penchant.models.reward import ItemMemory, RewardModel, item_key
from penchant.models.selection import relevance
from penchant.models.testing import tiny_bundle
from penchant.models.text_prior import CLIP, LinearTextPrior, Standardiser

LENGTH = 64 + ATTRIBUTE_NAMES.index("length")  # column behind a HashingEncoder of 64


# ---------------------------------------------------------------- items


def test_items_are_sliced_in_the_order_asked(rng, make_items):
    items = make_items(rng, 4)
    assert len(items) == 4
    picked = items[[3, 0, 0]]
    np.testing.assert_array_equal(picked.base, items.base[[3, 0, 0]])
    np.testing.assert_array_equal(picked.direction_variance, items.direction_variance[[3, 0, 0]])
    assert picked.keys == (items.keys[3], items.keys[0], items.keys[0])
    assert len(items[2]) == 1
    assert items[2].keys == (items.keys[2],)
    np.testing.assert_array_equal(items.features, np.column_stack([np.ones(4), items.directions]))


def test_item_keys_tell_context_from_text():
    assert len(item_key("context", "text")) == 16
    keys = {item_key(*pair) for pair in [("a", "b"), ("b", "a"), ("ab", ""), ("", "ab"), ("\ud800", "b")]}
    assert len(keys) == 5


# ---------------------------------------------------------------- text prior


def test_standardising_centres_scales_clips_and_adds_a_constant(rng):
    vectors = rng.normal(3, 2, (500, 4)).astype(np.float16)
    vectors[:, 3] = 0.25  # never varies
    standardiser = Standardiser.of(vectors)
    x = standardiser(vectors)
    assert x.shape == (500, 5)
    np.testing.assert_allclose(x[:, :3].mean(0), 0, atol=0.01)
    np.testing.assert_allclose(x[:, :3].std(0), 1, atol=0.01)
    np.testing.assert_array_equal(x[:, 3], 0)
    np.testing.assert_array_equal(x[:, 4], 1)
    far = standardiser(np.array([[1e4, -1e4, 3.0, 99.0]], np.float16))
    np.testing.assert_allclose(
        far, [[CLIP, -CLIP, (3 - standardiser.centre[2]) / standardiser.scale[2], 0, 1]]
    )


def test_a_feature_that_almost_never_varies_is_dropped(rng):
    vectors = np.zeros((1000, 2), np.float16)
    vectors[:4, 0] = 1.0  # in 0.4 % of the texts
    vectors[:60, 1] = 1.0
    x = Standardiser.of(vectors)(vectors)
    assert (x[:, 0] == 0).all()
    assert x[:, 1].std() == pytest.approx(1.0)


@pytest.fixture
def prior(rng) -> LinearTextPrior:
    d, m, r = 5, 3, 4
    return LinearTextPrior(
        Standardiser(rng.normal(size=d - 1), rng.uniform(0.5, 2, d - 1)),
        rng.normal(size=(d, m)),
        rng.uniform(0.5, 1.0, (d, m)),
        rng.normal(0, 0.2, (m, d, r)).astype(np.float32),
        rng.uniform(0.1, 0.3, m),
    )


def test_prediction_is_bayesian_linear_regression(rng, prior):
    vectors = rng.normal(size=(7, 4)).astype(np.float16)
    mean, variance = prior.predict(vectors)
    x = prior.standardiser(vectors)
    for j in range(3):
        low_rank = prior.learned[j].astype(float)
        cov = np.diag(prior.prior_variance[:, j]) - low_rank @ low_rank.T
        np.testing.assert_allclose(mean[:, j], x @ prior.weights[:, j], rtol=1e-12)
        expected = np.einsum("nd,de,ne->n", x, cov, x) + prior.residual_variance[j]
        np.testing.assert_allclose(variance[:, j], expected, rtol=1e-5)


def test_variance_is_never_below_the_residual(rng, prior):
    overdone = replace(prior, learned=prior.learned * 100)  # as truncation to float16 might, on a small scale
    _, variance = overdone.predict(rng.normal(size=(7, 4)).astype(np.float16))
    np.testing.assert_allclose(variance, np.broadcast_to(prior.residual_variance, (7, 3)))


def test_arrays_keep_the_prior(rng, prior):
    again = LinearTextPrior.from_arrays(prior.arrays())
    vectors = rng.normal(size=(7, 4)).astype(np.float16)
    for before, after in zip(prior.predict(vectors), again.predict(vectors), strict=True):
        np.testing.assert_allclose(after, before, rtol=2e-3)
    third = LinearTextPrior.from_arrays(again.arrays())
    for before, after in zip(again.predict(vectors), third.predict(vectors), strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_dropped_feature_stays_dropped_in_arrays():
    standardiser = Standardiser(np.zeros(2), np.array([1.0, np.inf]))
    shape = (3, 1)
    prior = LinearTextPrior(
        standardiser, np.ones(shape), np.ones(shape), np.zeros((1, 3, 1), np.float32), np.ones(1)
    )
    mean, _ = LinearTextPrior.from_arrays(prior.arrays()).predict(np.array([[2.0, 500.0]], np.float16))
    assert mean[0, 0] == 3.0


# ---------------------------------------------------------------- reward model


@pytest.fixture
def reward(extractor) -> RewardModel:
    return tiny_bundle(extractor, rank=2).reward


def test_describe_splits_base_directions_and_loadings(extractor, reward):
    vectors = extractor.extract(["one two three", "a longer text about something else"]).vectors
    items = reward.describe(vectors)
    mean, variance = reward.text_prior.predict(vectors)
    np.testing.assert_array_equal(items.base, mean[:, 0])
    np.testing.assert_array_equal(items.base_variance, variance[:, 0])
    np.testing.assert_array_equal(items.directions[:, :2], mean[:, 1:])
    np.testing.assert_allclose(items.directions[:, 2], vectors[:, LENGTH].astype(float) - 3.0)
    np.testing.assert_array_equal(
        items.direction_variance[:, 2], 0
    )  # a known attribute is known without error
    assert (reward.q, reward.rank) == (4, 2)


def test_without_keys_texts_are_told_apart_by_their_vectors(extractor, reward):
    items = reward.describe(extractor.extract(["one", "two", "one"]).vectors)
    assert items.keys[0] == items.keys[2] != items.keys[1]


def test_a_text_that_was_judged_is_remembered(extractor, reward):
    vectors = extractor.extract(["known text", "new text"]).vectors
    keys = [item_key("here", "known text"), item_key("here", "new text")]
    memory = ItemMemory({keys[0]: 0}, np.array([[2.5, -1.0, 0.5]]), np.array([[0.01, 0.02, 0.03]]))
    model = replace(reward, memory=memory)
    items, plain = model.describe(vectors, keys), reward.describe(vectors, keys)
    assert items.base[0] == 2.5
    np.testing.assert_array_equal(items.directions[0, :2], [-1.0, 0.5])
    assert items.directions[0, 2] == plain.directions[0, 2]  # attributes come from the text still
    np.testing.assert_array_equal(items.direction_variance[0], [0.02, 0.03, 0.0])
    np.testing.assert_array_equal(items.directions[1], plain.directions[1])
    assert items.base[1] == plain.base[1]
    assert items.keys == tuple(keys)
    # The same text in another context is another item, and without keys nothing is looked up.
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


def test_attribute_tastes_are_coordinates_of_the_user(extractor, reward):
    questions = 64 + ATTRIBUTE_NAMES.index("questions")
    wider = reward.with_attribute_tastes({LENGTH: 0.5, questions: 0.1})
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


def test_three_choices_of_the_longer_text_carry_over_to_unseen_ones(extractor, reward):
    """And the converse for the opposite user: the attribute, not the words, carries the taste."""
    prior = reward.text_prior
    assert isinstance(prior, LinearTextPrior)
    reward = replace(
        reward, text_prior=replace(prior, weights=np.zeros_like(prior.weights))
    )  # nothing shared
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
