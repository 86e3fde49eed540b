"""A declared signal adds to base utility exactly what it declares, whatever else is known of a text."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.bundle import Bundle
from penchant.models.encoding.match import BRIEF, COSINE, MATCH_NAMES, RELEVANCE
from penchant.models.explain.reasons import explain_items
from penchant.models.taste.match_basis import MatchBasis
from penchant.models.taste.observations import Pair
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import ItemMemory, RewardModel, SignalError
from penchant.models.testing import tiny_bundle

SIGNAL = {"mean": 2.0, "std": 1.5, "weight": 0.8}
TEXTS = ["one two three", "a longer text about something else", "a third one", "four"]
SCORES = np.array([2.0, 5.0, -1.0, 90.0])
EXPECTED = 0.8 * np.clip((SCORES - 2.0) / 1.5, -4, 4)


def read_prompts(reward: RewardModel) -> RewardModel:
    """Extend a model by one function of the cosine, with a weight of 3."""
    basis = MatchBasis(
        np.array([COSINE]),
        np.array([0.0]),
        np.array([1.0]),
        np.array([0.5]),
        np.array([-1]),
        BRIEF,
        len(MATCH_NAMES),
    )
    prior, at = reward.text_prior, reward.text_prior.standardiser.matched.stop
    row = np.zeros((1, prior.weights.shape[1]))
    row[0, 0] = 3.0
    return replace(
        reward,
        text_prior=prior.insert_rows(replace(prior.standardiser, match=basis), at, row),
        loadings=np.insert(reward.loadings, at, 0.0, axis=0),
    )


@pytest.fixture
def bundle(extractor) -> Bundle:
    tiny = tiny_bundle(extractor)
    return Bundle(read_prompts(tiny.reward), tiny.manifest)


@pytest.fixture
def vectors(extractor):
    """Returns a function from scores to vectors of the texts, with a known cosine."""
    texts = extractor.extract(TEXTS).vectors

    def make(scores):
        match = np.full((len(texts), len(MATCH_NAMES)), np.nan, np.float16)
        match[:, COSINE], match[:, BRIEF], match[:, RELEVANCE] = 0.75, 0.0, scores
        return np.concatenate([texts, match], axis=1)

    return make


def test_a_signal_adds_what_it_declares_to_base_utility_alone(bundle, vectors):
    plain, signalled = bundle.reward, bundle.reward.with_signal(RELEVANCE, **SIGNAL)
    before, after = plain.describe(vectors(SCORES)), signalled.describe(vectors(SCORES))
    np.testing.assert_allclose(after.base - before.base, EXPECTED, atol=1e-12)
    np.testing.assert_allclose(after.base_variance, before.base_variance, atol=1e-12)
    np.testing.assert_allclose(after.directions, before.directions, atol=1e-12)
    np.testing.assert_allclose(after.direction_variance, before.direction_variance, atol=1e-12)
    assert (signalled.q, signalled.reference) == (plain.q, plain.reference)


def test_an_unknown_score_is_neutral(bundle, vectors, extractor):
    plain, signalled = bundle.reward, bundle.reward.with_signal(RELEVANCE, **SIGNAL)
    for scores in (np.nan, SIGNAL["mean"]):
        np.testing.assert_allclose(
            signalled.describe(vectors(scores)).base, plain.describe(vectors(scores)).base, atol=1e-12
        )
    alone = extractor.extract(TEXTS).vectors  # without a match
    np.testing.assert_allclose(signalled.describe(alone).rows, plain.describe(alone).rows, atol=1e-12)


def test_a_remembered_text_has_the_signal_too(bundle, vectors):
    keys = [b"a", b"b", b"c", b"d"]
    m = 1 + bundle.reward.rank
    memory = ItemMemory({b"b": 0}, np.full((1, m), 0.3), np.full((1, m), 0.01))
    plain = replace(bundle.reward, memory=memory)
    signalled = plain.with_signal(RELEVANCE, **SIGNAL)
    before, after = plain.describe(vectors(SCORES), keys), signalled.describe(vectors(SCORES), keys)
    assert before.base[1] == pytest.approx(0.3)
    np.testing.assert_allclose(after.base - before.base, EXPECTED, atol=1e-12)


def test_the_parts_of_an_explanation_add_up(bundle, vectors):
    keys = [b"a", b"b", b"c", b"d"]
    m = 1 + bundle.reward.rank
    memory = ItemMemory({b"b": 0}, np.full((1, m), 0.3), np.full((1, m), 0.01))
    reward = replace(bundle.reward, memory=memory).with_signal(RELEVANCE, **SIGNAL)
    posterior = UserPosterior.at_prior(reward.population)
    items = reward.describe(vectors(SCORES), keys)
    mean = posterior.beliefs.mean
    utility = items.base + items.features @ mean
    explained = explain_items(reward, posterior, vectors(SCORES), keys)
    assert [sum(part.value for part in e.parts) for e in explained] == pytest.approx(
        utility.tolist(), abs=1e-9
    )
    assert [e.utility for e in explained] == pytest.approx(utility.tolist(), abs=1e-9)


def test_users_learn_what_the_signal_does_not_explain(bundle, vectors):
    """Choosing against the signal changes a posterior more than choosing with it."""
    reward = bundle.reward.with_signal(RELEVANCE, mean=0.0, std=1.0, weight=3.0)
    items = reward.describe(vectors(np.array([-2.0, 2.0, 0.0, 0.0])))
    prior = UserPosterior.at_prior(reward.population)

    def learned(better: int, worse: int) -> float:
        posterior = prior.fold([Pair(items[better], items[worse], 1.0, 0.0)])
        return float(np.abs(posterior.beliefs.mean - prior.beliefs.mean).max())

    assert learned(0, 1) > 3 * learned(1, 0)


def test_a_bundle_with_a_signal_keeps_its_version_and_saves_the_bundle(bundle, vectors, tmp_path):
    signalled = bundle.with_signal(RELEVANCE, **SIGNAL)
    assert signalled.version == bundle.version
    assert signalled.reward.signal is not None
    signalled.save(tmp_path)
    loaded = Bundle.load(tmp_path)
    assert (loaded.version, loaded.reward.signal) == (bundle.version, None)
    np.testing.assert_allclose(
        loaded.reward.describe(vectors(SCORES)).base, bundle.reward.describe(vectors(SCORES)).base, atol=1e-6
    )


def test_tastes_and_a_second_signal_can_be_added(bundle, vectors):
    reward = bundle.reward.with_signal(RELEVANCE, **SIGNAL).with_signal(
        COSINE, mean=0.5, std=0.25, weight=0.1
    )
    d = reward.text_prior.standardiser.width
    wider = reward.with_tastes(np.eye(d)[:, [3]], np.array([0.2]))
    before, after = bundle.reward.describe(vectors(SCORES)), wider.describe(vectors(SCORES))
    np.testing.assert_allclose(after.base - before.base, EXPECTED + 0.1, atol=1e-9)
    assert wider.q == bundle.reward.q + 1


def test_a_model_that_does_not_read_prompts_takes_no_signal(extractor, bundle):
    with pytest.raises(SignalError, match="does not read prompts"):
        tiny_bundle(extractor).reward.with_signal(RELEVANCE, **SIGNAL)
    with pytest.raises(SignalError, match="4 match features, and no column 4"):
        bundle.reward.with_signal(4, **SIGNAL)
