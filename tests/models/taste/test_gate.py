"""A gate multiplies directions of taste by the kind of prompt, and is exactly neutral without one."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.bundle import Bundle, BundleError, EncoderCard, round_trip
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.match import MATCH_NAMES
from penchant.models.explain.inspection import inspect
from penchant.models.explain.reasons import explain_items, explain_user
from penchant.models.export import export_model
from penchant.models.taste.gate import LARGEST_GATE, Gate
from penchant.models.taste.match_basis import MatchBasis
from penchant.models.taste.observations import Pair
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.models.testing import tiny_bundle

TEXTS = [
    "A short answer.",
    "A longer answer: first this, then that, and so on until the end.",
    "Why not?",
    "No!",
]
PROMPTS = ["How do I sort a list?", "How do I sort a list?", "Should I call my sister?", ""]
SIZE, DIRECTIONS = 2, 3


@pytest.fixture
def extractor() -> FeatureExtractor:
    return FeatureExtractor(HashingEncoder(), reads_prompt_embedding=True)


def add_match(reward: RewardModel, rng: np.random.Generator) -> RewardModel:
    """Adds functions of the match features to a model that reads the text alone."""
    match = MatchBasis(
        np.array([0, 1]), np.zeros(2), np.ones(2), np.array([0.5, 0.5]), np.full(2, -1), 2, len(MATCH_NAMES)
    )
    prior, at = reward.text_prior, len(reward.text_prior.standardiser.centre)

    def insert(array: np.ndarray, axis: int, scale: float) -> np.ndarray:
        shape = [*array.shape]
        shape[axis] = 2
        before, after = np.split(array, [at], axis=axis)
        return np.concatenate([before, scale * rng.normal(size=shape) ** 2, after], axis=axis)

    text_prior = replace(
        prior,
        standardiser=replace(prior.standardiser, match=match),
        weights=insert(prior.weights, 0, 1.0),
        prior_variance=insert(prior.prior_variance, 0, 0.01),
        learned=insert(prior.learned, 1, 0.0).astype(np.float32),
    )
    return replace(reward, text_prior=text_prior, loadings=insert(reward.loadings, 0, 0.0))


@pytest.fixture
def ungated(extractor, rng) -> RewardModel:
    return round_trip(add_match(tiny_bundle(extractor, rank=2).reward, rng))


@pytest.fixture
def gated(ungated, extractor, rng) -> RewardModel:
    dim, d = extractor.encoder.dim, ungated.text_prior.standardiser.width
    gate = Gate(
        0.1 * rng.normal(size=dim),
        5 * rng.normal(size=(dim, SIZE)) / dim**0.5,
        rng.normal(size=(d, DIRECTIONS)),
    )
    products = gate.products
    return round_trip(
        ungated.with_gate(gate, 0.2 * rng.normal(size=products), rng.uniform(0.5, 1.5, products))
    )


@pytest.fixture
def vectors(extractor) -> np.ndarray:
    features, prompts = extractor.extract(TEXTS), extractor.extract(PROMPTS)
    return extractor.add_match(features.vectors, PROMPTS, TEXTS, prompts.vectors, features.windows)


def learn(reward: RewardModel, vectors: np.ndarray) -> UserPosterior:
    items = reward.describe(vectors)
    return UserPosterior.at_prior(reward.population).fold(
        [Pair(items[0], items[1], 1.0, 0.0), Pair(items[2], items[1], 1.0, 0.1)]
    )


# ---------------------------------------------------------------- features


def test_vectors_end_with_the_embedding_of_the_prompt(extractor, vectors):
    assert vectors.shape == (len(TEXTS), extractor.width)
    assert extractor.width == extractor.dim + len(MATCH_NAMES) + extractor.encoder.dim
    expected = extractor.extract(PROMPTS).vectors[:, : extractor.encoder.dim]
    np.testing.assert_array_equal(vectors[:3, -extractor.prompt_dim :], expected[:3])
    assert np.isnan(vectors[3, -extractor.prompt_dim :]).all()  # a blank prompt
    plain = FeatureExtractor(extractor.encoder)
    assert plain.identity == extractor.identity
    assert plain.width == extractor.width - extractor.prompt_dim


def test_prompts_that_are_not_read_have_no_embedding(extractor):
    unread = FeatureExtractor(extractor.encoder, reads_prompts=False, reads_prompt_embedding=True)
    assert (unread.prompt_dim, unread.width) == (0, unread.dim)


# ---------------------------------------------------------------- the gate


def test_products_are_directions_times_gate_values(gated, vectors):
    x, gate = gated.text_prior.standardiser(vectors), gated.gate
    deviations = vectors[:, -gate.prompt_dim :].astype(float) - gate.centre
    values = np.clip(deviations @ gate.projection, -LARGEST_GATE, LARGEST_GATE)
    directions = gated.describe(vectors).directions
    for row in range(3):
        products = np.outer(x[row] @ gate.loadings, values[row]).ravel()
        np.testing.assert_allclose(directions[row, -gate.products :], products)
    assert gated.q == 1 + 2 + 1 + SIZE * DIRECTIONS
    assert gated.rank == 2
    assert gated.products == SIZE * DIRECTIONS
    assert not gated.describe(vectors).direction_variance[:, -gate.products :].any()


def test_gate_values_are_bounded(gated):
    gate = gated.gate
    far = np.full((1, gate.prompt_dim), 100.0, np.float16) * np.sign(gate.projection[:, 0]).astype(np.float16)
    assert gate(far)[0, 0] == LARGEST_GATE
    assert np.abs(gate(far)).max() <= LARGEST_GATE


@pytest.mark.parametrize("unknown", ["blank", "zero", "no embedding", "text alone"])
def test_without_a_prompt_the_gate_is_exactly_neutral(gated, ungated, vectors, extractor, unknown):
    if unknown == "blank":
        raw = vectors.copy()
        raw[:, -extractor.prompt_dim :] = np.nan
    elif unknown == "zero":
        raw = vectors.copy()
        raw[:, -extractor.prompt_dim :] = 0
    else:
        raw = vectors[:, : extractor.dim + (len(MATCH_NAMES) if unknown == "no embedding" else 0)]
    items, plain = gated.describe(raw), ungated.describe(raw)
    assert not items.directions[:, -gated.products :].any()
    np.testing.assert_array_equal(items.base, plain.base)
    np.testing.assert_array_equal(items.directions[:, : -gated.products], plain.directions)
    np.testing.assert_array_equal(items.direction_variance[:, : -gated.products], plain.direction_variance)
    user, other = (
        UserPosterior.at_prior(reward.population).fold([Pair(described[0], described[1], 1.0, 0.0)])
        for reward, described in ((gated, items), (ungated, plain))
    )
    np.testing.assert_allclose(user.utility(items).mean, other.utility(plain).mean, rtol=1e-9)
    np.testing.assert_allclose(user.utility(items).std, other.utility(plain).std, rtol=1e-9)


def test_stored_vectors_are_described_bit_for_bit(gated, vectors):
    again = np.frombuffer(vectors.tobytes(), np.float16).reshape(vectors.shape)
    np.testing.assert_array_equal(gated.describe(again).rows, gated.describe(vectors).rows)


def test_a_gate_is_added_last_and_only_once(gated):
    d = gated.text_prior.standardiser.width
    with pytest.raises(ValueError, match="before a gate"):
        gated.with_tastes(np.zeros((d, 1)), np.ones(1))
    with pytest.raises(ValueError, match="already has a gate"):
        gated.with_gate(gated.gate, np.zeros(6), np.ones(6))


# ---------------------------------------------------------------- bundle, explanation, export


@pytest.fixture
def bundle(gated, extractor) -> Bundle:
    card = EncoderCard.from_extractor(extractor)
    return Bundle(gated, replace(tiny_bundle(extractor).manifest, encoder=card))


def test_a_gated_bundle_survives_saving(bundle, vectors, tmp_path):
    bundle.save(tmp_path)
    loaded = Bundle.load(tmp_path)
    assert loaded.version == bundle.version
    assert loaded.manifest.encoder.prompt_embedding
    np.testing.assert_array_equal(loaded.reward.describe(vectors).rows, bundle.reward.describe(vectors).rows)
    np.testing.assert_array_equal(loaded.reward.population.means, bundle.reward.population.means)


@pytest.mark.parametrize("name", ["centre", "projection", "loadings"])
def test_a_gate_whose_arrays_do_not_fit_is_refused(bundle, tmp_path, name):
    broken = replace(bundle.reward.gate, **{name: getattr(bundle.reward.gate, name)[:-1]})
    replace(bundle, reward=replace(bundle.reward, gate=broken)).save(tmp_path)
    with pytest.raises(BundleError, match="gate"):
        Bundle.load(tmp_path)


def test_parts_of_an_explanation_add_up(gated, vectors):
    user = learn(gated, vectors)
    utility = user.utility(gated.describe(vectors))
    explanations = explain_items(gated, user, vectors)
    for i, explanation in enumerate(explanations):
        assert sum(part.value for part in explanation.parts) == pytest.approx(utility.mean[i], abs=1e-9)
        assert sum(part.value for part in explanation.moved) == pytest.approx(explanation.shift, abs=1e-9)


def test_a_gated_attribute_is_part_of_that_attribute(ungated, extractor, vectors):
    """One text under two prompts differs in the personal part of its length by the gate alone."""
    length = extractor.encoder.dim + ATTRIBUTE_NAMES.index("length")
    loadings = np.zeros((ungated.text_prior.standardiser.width, 1))
    loadings[length] = 1.0
    projection = np.zeros((extractor.encoder.dim, 1))
    projection[0] = 10.0
    reward = ungated.with_gate(
        Gate(np.zeros(len(projection)), projection, loadings), np.array([0.3]), np.ones(1)
    )
    raw = np.repeat(vectors[1:2], 2, axis=0)
    raw[:, -extractor.prompt_dim :] = 0.0
    raw[0, -extractor.prompt_dim], raw[1, -extractor.prompt_dim] = 0.1, -0.1
    items = reward.describe(raw)
    user = UserPosterior.at_prior(reward.population).fold([Pair(items[0], items[1], 1.0, 0.0)])
    parts = [
        {(p.name, p.personal): p.value for p in explanation.parts}
        for explanation in explain_items(reward, user, raw)
    ]
    x = reward.text_prior.standardiser(raw)[0, length]
    gap = float(reward.compute_gates(raw)[0, 0] - reward.compute_gates(raw)[1, 0])
    weight = user.beliefs.mean[-1]
    shared, personal = (parts[0][key] - parts[1][key] for key in (("length", False), ("length", True)))
    assert shared == pytest.approx(0.3 * gap * x)
    assert personal == pytest.approx((weight - 0.3) * gap * x)
    same = [{k: v for k, v in row.items() if k[0] != "length"} for row in parts]
    assert same[0] == pytest.approx(same[1])


def test_users_and_models_are_described(gated, vectors):
    reasons = explain_user(gated, learn(gated, vectors), vectors)
    assert 0 <= reasons.named_share <= 1
    found = inspect(gated, vectors)
    assert found.consensus.share + sum(t.share for t in found.tastes) + found.smaller_share == pytest.approx(
        1 - found.unexplained - found.chance
    )


def test_an_export_computes_the_same_utilities(bundle, vectors, extractor):
    """The exported formulas with the exported arrays give the model's own base utility and tastes."""
    reward, arrays = bundle.reward, export_model(bundle).arrays
    x = reward.text_prior.standardiser(vectors)
    prompts = np.nan_to_num(vectors[:, -extractor.prompt_dim :].astype(float))
    gates = np.clip(
        (prompts - arrays["gate_centre"]) @ arrays["gate_projection"], -LARGEST_GATE, LARGEST_GATE
    )
    gates[3] = 0  # no prompt
    computed = x @ arrays["weights"] + np.einsum("ng,nd,gdt->nt", gates, x, arrays["gated_weights"])
    prior = reward.population.prior
    utility = UserPosterior.at_prior(reward.population).utility(reward.describe(vectors)).mean
    np.testing.assert_allclose(computed[:, 0] + prior.mean[0], utility, rtol=1e-6)
