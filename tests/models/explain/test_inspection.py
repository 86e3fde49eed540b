"""Inspection: shares agree with brute force, planted meanings are found, and unknown meanings are not claimed."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.explain.inspection import MAX_TEXTS, NOISE, Inspection, inspect
from penchant.models.explain.tastes import Tastes
from penchant.models.explain.text_map import ExplanationError
from penchant.models.taste.items import Items
from penchant.models.taste.observations import RatingScale
from penchant.models.taste.population import Population
from penchant.models.taste.reward import REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior, Standardiser

DIM = 4 + len(ATTRIBUTE_NAMES)
LENGTH, COURTESY, CODE = (4 + ATTRIBUTE_NAMES.index(name) for name in ("length", "courtesy", "code"))


def model(
    weights: dict[tuple[int, int], float],
    population: Population,
    *,
    doubt: float = 0.0,
    residual: float = 0.0,
    temperature: float = 1.0,
) -> RewardModel:
    """Return a model whose standardised features equal the raw ones. Weights are by (feature, coordinate of [b; v])."""
    m = population.q
    table = np.zeros((DIM + 1, m))
    for place, weight in weights.items():
        table[place] = weight
    return RewardModel(
        LinearTextPrior(
            Standardiser(np.zeros(DIM), np.ones(DIM)),
            table,
            np.full((DIM + 1, m), doubt),
            np.zeros((m, DIM + 1, 1), np.float32),
            np.full(m, residual),
        ),
        population,
        temperature,
        Items(np.zeros(1), np.zeros(1), np.zeros((1, m - 1)), np.zeros((1, m - 1)), (REFERENCE_KEY,)),
        {"default": RatingScale(0.0, 0.5, 0.5)},
        np.zeros((DIM + 1, 0)),
        ItemMemory.empty(m),
    )


def gaussian(q: int) -> Population:
    return Population(np.ones(1), np.zeros((1, q)), np.eye(q)[None])


@pytest.fixture
def vectors(rng):
    return np.clip(rng.normal(size=(400, DIM)), -3.9, 3.9).astype(np.float16)


def shares(inspection: Inspection) -> list[float]:
    tastes = [*(t.share for t in inspection.tastes), inspection.smaller_share]
    return [inspection.consensus.share, *tastes, inspection.unexplained, inspection.chance]


def test_shares_agree_with_simulated_comparisons(rng, vectors, make_population):
    """The reference draws users, texts and judgements one by one."""
    population = make_population(rng, q=3, archetypes=2)
    places = [(int(f), c) for c in range(3) for f in rng.integers(0, DIM, 6)]
    reward = model({place: rng.normal() for place in places}, population, residual=0.3, temperature=0.8)
    inspection = inspect(reward, vectors)
    assert sum(shares(inspection)) == pytest.approx(1)

    n = 400_000
    archetype = rng.choice(2, n, p=population.weights)
    roots = np.linalg.cholesky(np.linalg.inv(population.precisions))
    y = population.means[archetype] + np.einsum("nij,nj->ni", roots[archetype], rng.normal(size=(n, 3)))
    items = reward.describe(vectors)
    a, b = rng.integers(0, len(vectors), (2, n))
    everybody = items.base + items.directions @ population.prior.mean[1:]
    shared = everybody[a] - everybody[b]
    personal = ((items.directions[a] - items.directions[b]) * (y[:, 1:] - population.prior.mean[1:])).sum(1)
    own = sum(0.3**0.5 * (rng.normal(size=n) + (y[:, 1:] * rng.normal(size=(n, 2))).sum(1)) for _ in "ab")
    chance = rng.logistic(size=n) / 0.8
    total = shared.var() + personal.var() + own.var() + chance.var()
    expected = [shared.var(), personal.var(), own.var(), chance.var()]
    tastes = sum(t.share for t in inspection.tastes) + inspection.smaller_share
    computed = [inspection.consensus.share, tastes, inspection.unexplained, inspection.chance]
    np.testing.assert_allclose(computed, np.array(expected) / total, atol=0.01)
    assert inspection.threshold == pytest.approx(y[:, 0].std(), rel=0.01)


def test_a_planted_taste_is_named(vectors):
    reward = model({(LENGTH, 1): 0.8, (CODE, 2): 0.3, (COURTESY, 0): 0.5}, gaussian(3))
    inspection = inspect(reward, vectors, examples=3)
    first, second = inspection.tastes
    assert inspection.consensus.attributes[0].label == "more words of courtesy"
    assert first.attributes[0].label == "longer answers"
    assert second.attributes[0].label == "more code"
    assert first.attributes[0].effect == pytest.approx(0.8, rel=1e-3)  # the axes lean a little
    assert first.attributes[0].slope == pytest.approx(0.8, abs=0.15)
    assert first.deviation == pytest.approx(0.8 * vectors[:, LENGTH].astype(float).std(), rel=0.02)
    assert first.named_share == pytest.approx(1)
    order = np.argsort(-vectors[:, LENGTH].astype(float))
    assert set(first.highest) <= set(order[:10])
    assert set(first.lowest) <= set(order[-10:])


def test_a_taste_in_content_is_not_named(vectors):
    (taste,) = inspect(model({(0, 1): 1.0}, gaussian(2)), vectors).tastes
    assert taste.named_share < 0.02
    assert taste.deviation == pytest.approx(vectors[:, 0].astype(float).std(), rel=1e-3)


def test_uncertain_meanings_are_not_named(vectors):
    sure = inspect(model({(LENGTH, 1): 0.3}, gaussian(2), doubt=1e-4), vectors)
    unsure = inspect(model({(LENGTH, 1): 0.3}, gaussian(2), doubt=0.2), vectors)
    assert [m.name for m in sure.tastes[0].attributes] == ["length"]
    assert sure.tastes[0].attributes[0].effect_std == pytest.approx(0.01)
    assert unsure.tastes[0].attributes == ()


def test_a_feature_that_never_varied_is_not_named(vectors):
    reward = model({(LENGTH, 1): 0.8, (0, 1): 0.8}, gaussian(2))
    scale = np.ones(DIM)
    scale[LENGTH] = np.inf
    prior = replace(reward.text_prior, standardiser=Standardiser(np.zeros(DIM), scale))
    assert inspect(reward, vectors).tastes[0].attributes[0].name == "length"
    assert inspect(replace(reward, text_prior=prior), vectors).tastes[0].attributes == ()


def test_archetypes_are_at_their_planted_positions(vectors):
    population = Population(
        np.array([0.75, 0.25]), np.array([[0.2, -0.5], [-0.6, 1.5]]), np.tile(4 * np.eye(2), (2, 1, 1))
    )
    inspection = inspect(model({(LENGTH, 1): -0.8}, population), vectors)
    many, few = inspection.archetypes
    assert (many.weight, few.weight) == (0.75, 0.25)
    assert many.threshold == pytest.approx(0.2)
    assert few.threshold == pytest.approx(-0.6)
    # The taste points towards longer answers; a large z dislikes them.
    assert inspection.tastes[0].attributes[0].label == "longer answers"
    assert few.attributes[0].label == "shorter answers"
    assert few.attributes[0].effect == pytest.approx(-0.8 * 1.5)
    spread = (0.25 + 0.75 * 0.5**2 + 0.25 * 1.5**2) ** 0.5  # over both archetypes, the unit of scores
    assert few.tastes[0] == pytest.approx(-1.5 / spread)
    assert few.spread[0] == pytest.approx(0.5 / spread)
    assert 0.75 * many.tastes[0] + 0.25 * few.tastes[0] == pytest.approx(0)


def test_texts_are_weighted_by_judgements(vectors):
    reward = model({(LENGTH, 1): 0.8}, gaussian(2))
    counts = np.zeros(400, np.int64)
    counts[:7] = 5
    inspection = inspect(reward, vectors, counts=counts)
    assert inspection.tastes[0].deviation == pytest.approx(0.8 * vectors[:7, LENGTH].astype(float).std())


def test_the_item_memory_is_included(vectors):
    reward = model({(LENGTH, 1): 0.8}, gaussian(2), residual=0.5)
    keys = [bytes([i // 256, i % 256]) for i in range(400)]
    memory = ItemMemory(
        {key: i for i, key in enumerate(keys)},
        np.tile([[0.0, 1.0], [0.0, -1.0]], (200, 1)),
        np.zeros((400, 2)),
    )
    inspection = inspect(replace(reward, memory=memory), vectors, keys)
    assert inspection.tastes[0].deviation == pytest.approx(1)
    assert inspection.unexplained == 0
    assert inspect(replace(reward, memory=memory), vectors).unexplained > 0.1


def test_a_sample_of_many_texts_suffices():
    rng = np.random.default_rng(2)
    many = rng.normal(size=(MAX_TEXTS + 3000, DIM)).astype(np.float16)
    reward = model({(LENGTH, 1): 0.8}, gaussian(2))
    inspection = inspect(reward, many, examples=2)
    assert inspection.texts == MAX_TEXTS
    assert inspection.tastes[0].deviation == pytest.approx(0.8, rel=0.03)
    utility = many[:, LENGTH].astype(float)
    assert utility[list(inspection.tastes[0].highest)].min() > np.quantile(utility, 0.999)


def test_tastes_keep_their_order_on_other_texts(rng, vectors):
    """On texts that differ in the second taste only, the order stays and the shares still sum to one."""
    reward = model({(LENGTH, 1): 0.8, (CODE, 2): 0.3}, gaussian(3))
    first = inspect(reward, vectors)
    axes = Tastes.from_positions(reward.population.prior, [taste.position for taste in first.tastes])
    other_vectors = vectors.copy()
    other_vectors[:, LENGTH] = 0
    again = inspect(reward, other_vectors, axes=axes)
    assert [taste.position for taste in again.tastes] == [taste.position for taste in first.tastes]
    assert again.tastes[0].share < 0.01 * again.tastes[1].share
    assert again.tastes[1].share == pytest.approx(
        first.tastes[1].share * again.chance / first.chance, rel=0.01
    )
    assert sum(shares(again)) == pytest.approx(1)
    assert sum(t.deviation**2 for t in again.tastes) == pytest.approx(
        sum(t.deviation**2 for t in inspect(reward, other_vectors).tastes)
    )


def test_users_who_agree_are_inspected_without_tastes(vectors):
    inspection = inspect(model({(LENGTH, 0): 1.0}, gaussian(1)), vectors)
    assert inspection.tastes == ()
    assert inspection.archetypes[0].tastes == ()
    variance = vectors[:, LENGTH].astype(float).var()
    assert inspection.consensus.share == pytest.approx(variance / (variance + NOISE), rel=1e-3)


def test_one_text_has_no_tastes(vectors):
    inspection = inspect(model({(LENGTH, 1): 1.0}, gaussian(2)), vectors[:1])
    assert (inspection.consensus.share, inspection.consensus.named_share, inspection.chance) == (0, 0, 1)
    assert (inspection.tastes, inspection.smaller, inspection.smaller_share) == ((), 1, 0)


def test_small_tastes_are_only_counted(vectors):
    inspection = inspect(model({(LENGTH, 1): 1.0, (CODE, 2): 0.02}, gaussian(4)), vectors)
    assert (len(inspection.tastes), inspection.smaller) == (1, 2)
    assert 0 < inspection.smaller_share < 1e-3
    assert len(inspection.archetypes[0].tastes) == len(inspection.archetypes[0].spread) == 1
    assert sum(shares(inspection)) == pytest.approx(1)


def test_an_inspection_is_finite_plain_data(rng, vectors, make_population):
    inspection = inspect(
        model({(LENGTH, 1): 0.8}, make_population(rng, q=4, archetypes=3), doubt=0.01), vectors
    )

    def numbers(value: object) -> list[float]:
        if isinstance(value, dict):
            return [n for one in value.values() for n in numbers(one)]
        if isinstance(value, tuple | list):
            return [n for one in value for n in numbers(one)]
        assert isinstance(value, int | float | str)
        return [] if isinstance(value, str) else [value]

    assert np.isfinite(numbers(asdict(inspection))).all()


def test_a_nonlinear_text_prior_cannot_be_inspected(vectors):
    class Other:
        standardiser = Standardiser(np.zeros(DIM), np.ones(DIM))

    with pytest.raises(ExplanationError, match="Other is not linear"):
        inspect(replace(model({}, gaussian(2)), text_prior=Other()), vectors)
