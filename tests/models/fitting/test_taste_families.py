"""Tastes besides the learned directions: named attributes and principal components of the embeddings."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.extract import extract_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.gates import GATED_FAMILIES
from penchant.models.fitting.relevance import fit_relevance
from penchant.models.fitting.taste_families import ATTRIBUTES, COMPONENTS, FAMILIES, compute_directions
from penchant.models.fitting.tuning import Choice
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.observations import Pair, Vote
from penchant.models.taste.posterior import UserPosterior

EMBEDDED = 12
TOPICS = 5


def topical(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors `[n, dim]` of texts about one of five topics each, and the topics."""
    centres = (
        5 * np.linalg.qr(rng.normal(size=(EMBEDDED, EMBEDDED)))[0][:TOPICS]
    )  # equally far from each other
    topic = np.arange(n) % TOPICS
    embedding = centres[topic] + 0.4 * rng.normal(size=(n, EMBEDDED))
    return np.concatenate([embedding, rng.normal(size=(n, len(ATTRIBUTE_NAMES)))], axis=1).astype(
        np.float16
    ), topic


@pytest.fixture
def written(rng) -> tuple[Fit, np.ndarray, np.ndarray]:
    """Fit with a radial basis of users who agree on nothing about 100 texts, with the vectors and topics."""
    vectors, topic = topical(rng, 100)
    texts = [f"text {i}" for i in range(100)]
    rows = []
    for number in range(300):
        a, b = rng.choice(texts, 2, replace=False)
        rows.append(Judgement(f"u{number % 20}", "", "pair", (str(a), str(b))))
    # In the order of the vectors, so that item i is text i.
    rows = [
        Judgement("u0", "", "vote", (text,), 1.0 if i % 2 else -1.0) for i, text in enumerate(texts)
    ] + rows
    vector_of = {("", text): vector for text, vector in zip(texts, vectors, strict=True)}
    return Fit(Dataset.from_judgements(rows, vector_of), FitOptions(rank=0, rounds=2)).run(), vectors, topic


def test_components_have_unit_variance_and_share_the_prior_variance(written):
    """The reference uses eigenvectors of the covariance of the embedding as standardised by the fit."""
    fit, vectors, _ = written
    loadings, shares = fit.compute_content_directions(8)
    assert loadings.shape == (fit.standardiser.width, 8)
    assert shares.sum() == pytest.approx(1.0)
    x = fit.standardiser(vectors)
    scores = x @ loadings
    np.testing.assert_allclose(np.cov(scores.T, bias=True), np.eye(8), atol=1e-4)
    variances = np.linalg.eigvalsh(np.cov(x[:, :EMBEDDED].T, bias=True))[::-1]
    np.testing.assert_allclose(shares, variances[:8] / variances[:8].sum(), atol=1e-5)
    assert (np.diff(shares) <= 0).all()
    np.testing.assert_array_equal(
        loadings[EMBEDDED:], 0
    )  # neither attributes nor radial features nor the constant


def test_components_do_not_exceed_the_rank_of_the_embedding(written):
    fit, vectors, _ = written
    loadings, shares = fit.compute_content_directions(64)
    assert loadings.shape[1] == len(shares) == EMBEDDED
    # All components with their shares are the linear kernel itself, up to its scale.
    x = fit.standardiser(vectors)[:, :EMBEDDED]
    x = x - x.mean(axis=0)
    total = x.var(axis=0).sum()
    wide = fit.standardiser(vectors) @ loadings
    wide -= wide.mean(axis=0)
    np.testing.assert_allclose((wide * shares) @ wide.T, x @ x.T / total, atol=1e-4)


def test_identical_texts_have_no_components(rng):
    row = rng.normal(size=4 + len(ATTRIBUTE_NAMES)).astype(np.float16)
    rows = [Judgement("u", "", "vote", (text,), 1.0) for text in "abc"]
    fit = Fit(
        Dataset.from_judgements(rows, {("", text): row for text in "abc"}), FitOptions(rank=0, rounds=1)
    ).run()
    loadings, shares = fit.compute_content_directions(32)
    assert (loadings.shape, shares.shape) == ((fit.standardiser.width, 0), (0,))
    reward = Choice(tastes="content-32", taste_variance=1.0).apply(fit.build_reward_model(), fit)
    assert reward.q == 1


@pytest.mark.parametrize("kind", ["pair", "vote"])
def test_a_content_taste_raises_texts_near_a_liked_text(written, kind):
    """If an unknown user likes one text of a topic, the other texts of that topic rise most."""
    fit, vectors, topic = written
    reward = Choice(tastes="content-32", taste_variance=1.0).apply(
        fit.build_reward_model(with_memory=False), fit
    )
    items = reward.describe(vectors)
    nobody = UserPosterior.at_prior(reward.population)
    for liked in range(TOPICS):
        observation = (
            Vote(items[liked], 1) if kind == "vote" else Pair(items[liked], items[(liked + 1) % TOPICS])
        )
        gain = nobody.learn(observation).utility(items).mean - nobody.utility(items).mean
        gain = gain[TOPICS:]  # of texts without judgements
        of_topic = [gain[topic[TOPICS:] == (liked + step) % TOPICS] for step in range(TOPICS)]
        near, contrary, others = of_topic[0], of_topic[1], of_topic[2:]
        if kind == "vote":
            assert near.min() > max(contrary.max(), *(other.max() for other in others))
        else:
            assert near.min() > 0 > contrary.max()
            assert near.mean() > max(other.mean() for other in others)
            assert contrary.mean() < min(other.mean() for other in others)


def test_without_content_tastes_rank_0_learns_no_topic(written):
    fit, vectors, _ = written
    reward = fit.build_reward_model(with_memory=False)
    items = reward.describe(vectors)
    nobody = UserPosterior.at_prior(reward.population)
    gain = nobody.learn(Vote(items[0], 1)).utility(items).mean - nobody.utility(items).mean
    np.testing.assert_allclose(gain, gain[0], atol=1e-12)


def test_named_attributes_are_columns_after_the_embedding(written):
    fit, _, _ = written
    for name, relative in ATTRIBUTES.items():
        loadings, shares = compute_directions(name, fit)
        assert loadings.shape == (fit.standardiser.width, len(relative))
        np.testing.assert_array_equal(shares, list(relative.values()))
        for column, attribute in zip(loadings.T, relative, strict=True):
            (at,) = np.flatnonzero(column)
            assert (at, column[at]) == (EMBEDDED + ATTRIBUTE_NAMES.index(attribute), 1.0)


def test_families_are_joined_by_a_plus(written):
    fit, _, _ = written
    length, content = compute_directions("length", fit), compute_directions("content-64", fit)
    both = compute_directions("length+content-64", fit)
    for found, parts in zip(both, zip(length, content, strict=True), strict=True):
        np.testing.assert_array_equal(found, np.concatenate(parts, axis=-1))
    loadings, shares = compute_directions("none", fit)
    assert (loadings.shape, shares.shape) == ((fit.standardiser.width, 0), (0,))
    with pytest.raises(KeyError):
        compute_directions("astrology", fit)


def test_every_tried_family_exists(written):
    fit, _, _ = written
    declared = {"answer-style"}
    assert FAMILIES.keys() | set(GATED_FAMILIES) | declared == ATTRIBUTES.keys() | COMPONENTS.keys()
    for name, sizes in FAMILIES.items():
        for size in sizes:
            reward = Choice(tastes=name, taste_variance=size).apply(fit.build_reward_model(), fit)
            assert reward.q == 1 + len(compute_directions(name, fit)[1])
            assert np.linalg.eigvalsh(reward.population.precisions[0]).min() > 0


def test_a_factor_multiplies_the_shares(written):
    fit, _, _ = written
    length, content = compute_directions("length", fit), compute_directions("content-32", fit)
    loadings, shares = compute_directions("length*0.25+content-32*3", fit)
    np.testing.assert_array_equal(loadings, np.concatenate([length[0], content[0]], axis=1))
    np.testing.assert_array_equal(shares, np.concatenate([0.25 * length[1], 3.0 * content[1]]))
    with pytest.raises(ValueError, match="could not convert"):
        compute_directions("length*much", fit)


def test_relevance_is_the_shared_worth_of_an_answer(asked):
    relevance = fit_relevance(asked.judgements, asked.table)
    data = Dataset.from_judgements(asked.judgements, asked.table, relevance)
    fit = Fit(data, FitOptions(rank=0, rounds=2)).run()
    loadings, shares = compute_directions("relevance*2", fit)
    assert loadings.shape == (fit.standardiser.width, 1)
    assert shares.tolist() == [2.0]
    x = fit.standardiser(data.vectors)
    np.testing.assert_allclose((x @ loadings)[:, 0], fit.known_base.numpy())
    both, _ = compute_directions("length+relevance", fit)
    np.testing.assert_array_equal(both[:, [1]], loadings)
    assert (both[:, 0] != 0).sum() == 1
    reward = Choice(tastes="length+relevance", taste_variance=0.5).apply(fit.build_reward_model(), fit)
    assert reward.q == 3
    np.testing.assert_array_equal(reward.reference.directions, 0.0)


def test_relevance_has_no_direction_if_nothing_is_known_of_it(written, asked):
    """The model reads no prompts, or no judgement had one."""
    fit, _, _ = written
    rows = [replace(j, context="") for j in asked.judgements[:50]]
    table = extract_features(rows, FeatureExtractor(HashingEncoder(16)))
    data = Dataset.from_judgements(rows, table, fit_relevance(rows, table))
    assert data.relevance is not None
    unknown = Fit(data, FitOptions(rank=0, rounds=1)).run()
    for without in (fit, unknown):
        loadings, shares = compute_directions("relevance", without)
        assert loadings.shape == (without.standardiser.width, 0)
        assert shares.tolist() == []
