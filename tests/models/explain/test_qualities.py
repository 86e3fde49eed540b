"""Closeness to the question is a named part, a named reason and a named taste."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.match import BRIEF, COSINE, COVERAGE, MATCH_NAMES
from penchant.models.explain.inspection import inspect
from penchant.models.explain.qualities import RELEVANCE, UNCORRELATED_TEXTS, Qualities
from penchant.models.explain.reasons import MIN_SLOPE, AttributeReason, explain_items, explain_user
from penchant.models.explain.text_map import TextMap
from penchant.models.fitting.relevance import make_basis
from penchant.models.taste.items import Items
from penchant.models.taste.observations import Pair, RatingScale
from penchant.models.taste.population import Population
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior, Standardiser

EMBEDDING = 5
DIM = EMBEDDING + len(ATTRIBUTE_NAMES)
RANK = 2
LENGTH = EMBEDDING + ATTRIBUTE_NAMES.index("length")
SLOPES = np.tile([1.0, 2.0, 2.5, 4.0, 3.5, 3.0, 2.0, 1.5], 2)
"""Shared weights of the functions of the match, by kind of prompt."""


def draw_match(rng: np.random.Generator, n: int) -> np.ndarray:
    match = np.full((n, len(MATCH_NAMES)), np.nan, np.float16)
    match[:, COSINE], match[:, COVERAGE] = rng.uniform(0, 0.9, n), rng.uniform(0, 1, n)
    match[:, BRIEF] = np.arange(n) % 3 == 2
    return match


def draw_vectors(rng: np.random.Generator, n: int, *, prompted: bool = True) -> np.ndarray:
    match = draw_match(rng, n) if prompted else np.full((n, len(MATCH_NAMES)), np.nan)
    return np.concatenate([rng.normal(0, 1, (n, DIM)), match], axis=1).astype(np.float16)


@pytest.fixture
def reward(rng, make_population) -> RewardModel:
    """Random model of three archetypes, with a declared direction of the shared worth of the match."""
    return make_reward(rng, make_population)


def make_reward(
    rng, make_population, *, population: Population | None = None, learned: float = 0.3
) -> RewardModel:
    basis = make_basis(draw_match(rng, 60))
    standardiser = Standardiser(np.zeros(DIM), np.ones(DIM), match=basis)
    d, m, q = standardiser.width, 1 + RANK, 2 + RANK
    weights = rng.normal(0, learned, (d, m))
    weights[standardiser.matched, 0] = SLOPES
    loadings = np.zeros((d, 1))
    loadings[standardiser.matched, 0] = SLOPES
    reference = np.append(rng.normal(0, learned, (1, RANK)), 0.0)[None]
    return RewardModel(
        text_prior=LinearTextPrior(
            standardiser, weights, np.full((d, m), 1e-6), np.zeros((m, d, 1), np.float32), np.full(m, 0.01)
        ),
        population=population or make_population(rng, q=q, archetypes=3),
        temperature=1.0,
        reference=Items(
            rng.normal(size=1), np.zeros(1), reference, np.zeros((1, RANK + 1)), (REFERENCE_KEY,)
        ),
        scales={"default": RatingScale(0.0, 0.4, 0.5)},
        loadings=loadings,
        memory=ItemMemory.empty(m),
    )


def learn(
    reward: RewardModel, vectors: np.ndarray, weight: np.ndarray, noise: np.random.Generator | None = None
) -> UserPosterior:
    """Return a user who prefers texts in the order of x·weight, with logistic noise if there is a generator of it."""
    items = reward.describe(vectors)
    score = reward.text_prior.standardiser(vectors) @ weight
    posterior = UserPosterior.at_prior(reward.population)
    for step in range(1, 4):
        for a in range(len(vectors)):
            b = (a + step) % len(vectors)
            chance = noise.logistic() if noise else 0.0
            best, worst = (a, b) if score[a] - score[b] > chance else (b, a)
            posterior = posterior.learn(Pair(items[best], items[worst]))
    return posterior


def worth(reward: RewardModel, vectors: np.ndarray) -> np.ndarray:
    """Return the shared worth of the match, computed column by column."""
    standardiser, mean = reward.text_prior.standardiser, reward.population.prior.mean
    x = standardiser(vectors)
    total = np.zeros(len(x))
    for column in range(*standardiser.matched.indices(x.shape[1])):
        weights = np.concatenate([reward.text_prior.weights[column], reward.loadings[column]])
        total += x[:, column] * (weights[0] + weights[1:] @ mean[1:])
    return total


# ---------------------------------------------------------------- parts


def test_the_match_is_one_part_shared_and_personal(rng, reward):
    vectors = draw_vectors(rng, 6)
    posterior = learn(reward, draw_vectors(rng, 8), rng.normal(size=reward.text_prior.standardiser.width))
    items, everyone = reward.describe(vectors), UserPosterior.at_prior(reward.population)
    # Without the match, the same texts have the utility of all other parts.
    unknown = reward.describe(vectors[:, :DIM])
    user_gain = posterior.utility(items).mean - posterior.utility(unknown).mean
    shared_gain = everyone.utility(items).mean - everyone.utility(unknown).mean
    np.testing.assert_allclose(shared_gain, worth(reward, vectors), atol=1e-9)
    for e in explain_items(reward, posterior, vectors):
        shared, personal = (
            next(part for part in e.parts if part.name == RELEVANCE and part.personal is own)
            for own in (False, True)
        )
        assert shared.value == pytest.approx(shared_gain[e.index], abs=1e-9)
        assert shared.std == 0
        assert personal.value == pytest.approx((user_gain - shared_gain)[e.index], abs=1e-9)
        assert personal.std > 0
        expected = f"answers the question {'more' if shared_gain[e.index] > 0 else 'less'} closely"
        assert shared.label == personal.label == expected
        assert sum(part.value for part in e.parts) == pytest.approx(e.utility, abs=1e-9)
        assert sum(part.value for part in e.moved) == pytest.approx(e.shift, abs=1e-9)
        (moved,) = (part for part in e.moved if part.name == RELEVANCE)
        change = user_gain - shared_gain
        assert moved.value == pytest.approx(change[e.index] - change.mean(), abs=1e-9)
        nearer = shared_gain[e.index] > shared_gain.mean()
        assert moved.label == f"answers the question {'more' if nearer else 'less'} closely"


def test_content_does_not_contain_the_match(rng, reward):
    posterior = learn(reward, draw_vectors(rng, 8), rng.normal(size=reward.text_prior.standardiser.width))
    vectors = draw_vectors(rng, 3)

    def content(rows: np.ndarray) -> list[float]:
        explained = explain_items(reward, posterior, rows)
        return [part.value for e in explained for part in sorted(e.parts, key=repr) if part.name == "content"]

    assert content(vectors) == pytest.approx(content(vectors[:, :DIM]), abs=1e-9)


@pytest.mark.parametrize("how", ["no prompt", "features without match", "a model that reads no prompts"])
def test_without_match_there_is_no_such_part(rng, reward, how):
    vectors = draw_vectors(rng, 5, prompted=how == "a model that reads no prompts")
    if how == "features without match":
        vectors = vectors[:, :DIM]
    if how == "a model that reads no prompts":
        prior = reward.text_prior
        kept = np.delete(np.arange(prior.standardiser.width), prior.standardiser.matched)
        blind = LinearTextPrior(
            replace(prior.standardiser, match=None),
            prior.weights[kept],
            prior.prior_variance[kept],
            prior.learned[:, kept],
            prior.residual_variance,
        )
        reward = replace(reward, text_prior=blind, loadings=reward.loadings[kept])
    posterior = learn(reward, vectors, rng.normal(size=reward.text_prior.standardiser.width))
    for e in explain_items(reward, posterior, vectors):
        assert RELEVANCE not in {part.name for part in (*e.parts, *e.moved)}
        assert sum(part.value for part in e.parts) == pytest.approx(e.utility, abs=1e-9)
    assert RELEVANCE not in {reason.name for reason in explain_user(reward, posterior, vectors).attributes}
    inspected = inspect(reward, vectors)
    assert RELEVANCE not in {
        meaning.name for taste in (inspected.consensus, *inspected.tastes) for meaning in taste.attributes
    }


def test_one_candidate_is_compared_with_the_median_answer(rng, reward):
    posterior = learn(reward, draw_vectors(rng, 8), rng.normal(size=reward.text_prior.standardiser.width))
    near, far = draw_vectors(rng, 1), draw_vectors(rng, 1)
    near[:, DIM + COSINE], far[:, DIM + COSINE] = 0.95, 0.0
    near[:, DIM + COVERAGE], far[:, DIM + COVERAGE] = 1, 0
    for vectors, label in ((near, "more"), (far, "less")):
        (e,) = explain_items(reward, posterior, vectors)
        labels = {part.label for part in (*e.parts, *e.moved) if part.name == RELEVANCE}
        assert labels == {f"answers the question {label} closely"}


# ---------------------------------------------------------------- reasons


def simple(rng, make_population) -> RewardModel:
    """Model in which users differ in a threshold, one unlearned direction, length, and relevance."""
    population = Population(np.ones(1), np.zeros((1, 2 + RANK)), np.eye(2 + RANK)[None])
    reward = make_reward(rng, make_population, population=population, learned=0.0)
    weights = reward.text_prior.weights.copy()
    weights[LENGTH, 1] = 0.7
    return replace(reward, text_prior=replace(reward.text_prior, weights=weights))


def find(reasons, name: str) -> AttributeReason:
    return next(reason for reason in reasons.attributes if reason.name == name)


@pytest.mark.parametrize(("sign", "label"), [(1, "keep closely to"), (-1, "may stray from")])
def test_a_user_who_cares_for_the_question_is_told_so(rng, make_population, sign, label):
    reward = simple(rng, make_population)
    vectors = draw_vectors(rng, 40)
    weight = np.zeros(reward.text_prior.standardiser.width)
    weight[reward.text_prior.standardiser.matched] = sign * 3 * SLOPES
    posterior = learn(reward, vectors, weight)
    reasons = explain_user(reward, posterior, vectors)
    first = reasons.attributes[0]
    assert first.name == RELEVANCE
    assert first.told
    assert first.label == f"answers that {label} the question"
    assert sign * first.effect > MIN_SLOPE
    assert reasons.named_share > 0.9
    # The unit is one standard deviation of the worth over the texts; the population's effect is that deviation.
    deviation = worth(reward, vectors).std()
    assert first.population == pytest.approx(deviation, rel=1e-6)
    score = posterior.beliefs.mean[1 + RANK]  # on the declared direction, the worth itself
    assert first.effect == pytest.approx(score * deviation, rel=1e-6)
    assert first.std == pytest.approx(posterior.beliefs.covariance[-1, -1] ** 0.5 * deviation, rel=1e-3)


def test_told_reasons_are_right_as_often_as_stated(rng, make_population):
    """Users are drawn from the population, and judge with noise."""
    reward = simple(rng, make_population)
    vectors = draw_vectors(rng, 25)
    matched = reward.text_prior.standardiser.matched
    right = []
    for _ in range(40):
        closeness, length = rng.normal(size=2)
        weight = np.zeros(reward.text_prior.standardiser.width)
        weight[LENGTH], weight[matched] = 0.7 * length, (1 + closeness) * SLOPES
        reason = find(explain_user(reward, learn(reward, vectors, weight, rng), vectors), RELEVANCE)
        if reason.told:
            right.append(reason.effect * closeness > 0)
    assert len(right) >= 20
    assert np.mean(right) >= 0.9


def test_without_judgements_relevance_has_no_effect(rng, reward):
    prior = UserPosterior.at_prior(reward.population)
    reason = find(explain_user(reward, prior, draw_vectors(rng, 9)), RELEVANCE)
    assert (reason.effect, reason.slope, reason.told) == (0, 0, False)
    few = explain_user(reward, prior, draw_vectors(rng, 1))  # a single text does not differ from itself
    assert RELEVANCE not in {attribute.name for attribute in few.attributes}
    none = explain_user(reward, prior, np.zeros((0, DIM), np.float16))
    assert RELEVANCE not in {attribute.name for attribute in none.attributes}


def test_functionals_follow_the_worth_along_the_texts(rng, reward):
    """The reference is a least-squares regression of each feature on the worth, pseudo-texts included."""
    vectors = draw_vectors(rng, 30)
    standardiser = reward.text_prior.standardiser
    x, text = standardiser(vectors), TextMap.from_reward(reward)
    qualities = Qualities.along(reward, text, x)
    assert qualities.names == (*ATTRIBUTE_NAMES, RELEVANCE)
    effect, slope = qualities.effects[-1], qualities.slopes[-1]
    total = worth(reward, vectors)
    regressed = np.polyfit((total - total.mean()) / total.std(), x, 1)[0]
    matched = np.zeros(x.shape[1], bool)
    matched[standardiser.matched] = True
    np.testing.assert_allclose(effect[matched], regressed[matched], atol=1e-9)
    assert not effect[~matched].any()
    np.testing.assert_allclose(slope[matched], regressed[matched], atol=1e-9)
    np.testing.assert_allclose(
        slope[~matched], regressed[~matched] * 30 / (30 + UNCORRELATED_TEXTS), atol=1e-9
    )
    weights = text.match_worth(reward.population.prior.mean)
    assert effect[matched] @ weights == pytest.approx(total.std())


# ---------------------------------------------------------------- inspection


def test_consensus_and_tastes_name_the_question(rng, make_population):
    reward = simple(rng, make_population)
    vectors = draw_vectors(rng, 300)
    inspected = inspect(reward, vectors)
    (meaning,) = inspected.consensus.attributes
    assert (meaning.name, meaning.label) == (RELEVANCE, "closer answers to the question")
    assert meaning.effect == pytest.approx(worth(reward, vectors).std(), rel=1e-6)
    assert inspected.consensus.named_share == pytest.approx(1)
    labels = [taste.attributes[0].label for taste in inspected.tastes]
    assert sorted(labels) == ["closer answers to the question", "longer answers"]
    for taste in inspected.tastes:
        assert taste.named_share == pytest.approx(1)


def test_a_kind_of_user_may_stray_from_the_question(rng, make_population):
    reward = simple(rng, make_population)
    means = np.zeros((2, 2 + RANK))
    means[:, -1] = 0.8, -0.8
    population = Population(np.array([0.5, 0.5]), means, np.stack([np.eye(2 + RANK) * 9] * 2))
    near, far = inspect(replace(reward, population=population), draw_vectors(rng, 300)).archetypes
    assert near.attributes[0].label == "closer answers to the question"
    assert far.attributes[0].label == "looser answers to the question"
