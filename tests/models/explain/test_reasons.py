"""Reasons: parts sum to the model's utilities, and statements about users are right as often as stated."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.special import expit

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, ATTRIBUTE_PHRASES
from penchant.models.explain.deviation import Deviation
from penchant.models.explain.qualities import UNCORRELATED_TEXTS
from penchant.models.explain.reasons import (
    EXAMPLE_PROBABILITY,
    MIN_SLOPE,
    REASON_PROBABILITY,
    AttributeReason,
    Explanation,
    ExplanationError,
    UserReasons,
    explain_items,
    explain_user,
)
from penchant.models.ranking.personalization import PersonalizationError, personalized_scores
from penchant.models.ranking.selection import relevance
from penchant.models.taste.items import Items
from penchant.models.taste.observations import Pair, RatingScale, Vote
from penchant.models.taste.population import Population
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior, Standardiser

EMBEDDING = 5
ATTRIBUTES = len(ATTRIBUTE_NAMES)
DIM = EMBEDDING + ATTRIBUTES
RANK = 2
LENGTH, SENTENCES, EMOJI = (EMBEDDING + ATTRIBUTE_NAMES.index(a) for a in ("length", "sentences", "emoji"))


def make_reward(
    rng: np.random.Generator,
    make_population,
    *,
    archetypes: int = 1,
    loadings: int = 0,
    memory_keys: Sequence[bytes] = (),
    doubt: float = 0.0,
) -> RewardModel:
    """Return a random model in which no number is near 0, the means of its archetypes included.

    `doubt` is the variance of the text prior's weights.
    """
    d, m = DIM + 1, 1 + RANK
    reference = np.concatenate([rng.normal(size=(1, RANK)), np.zeros((1, loadings))], axis=1)
    return RewardModel(
        text_prior=LinearTextPrior(
            Standardiser(rng.normal(size=DIM), rng.uniform(0.5, 2, DIM)),
            rng.normal(0, 0.3, (d, m)),
            np.full((d, m), doubt),
            np.zeros((m, d, 1), np.float32),
            np.full(m, 0.05),
        ),
        population=make_population(rng, q=1 + RANK + loadings, archetypes=archetypes),
        temperature=1.0,
        reference=Items(
            rng.normal(size=1), np.zeros(1), reference, np.zeros_like(reference), (REFERENCE_KEY,)
        ),
        scales={"default": RatingScale(0.0, 0.4, 0.5)},
        loadings=rng.normal(0, 0.3, (d, loadings)),
        memory=ItemMemory(
            {key: i for i, key in enumerate(memory_keys)},
            rng.normal(size=(len(memory_keys), m)),
            np.full((len(memory_keys), m), 0.02),
        ),
    )


def make_vectors(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(0, 2, (n, DIM)).astype(np.float16)


def judge(rng: np.random.Generator, reward: RewardModel, judgements: int = 8) -> UserPosterior:
    posterior = UserPosterior.at_prior(reward.population)
    for _ in range(judgements):
        pair = reward.describe(make_vectors(rng, 2))
        posterior = posterior.learn(Pair(pair[0], pair[1])).learn(Vote(pair[0], int(rng.choice([-1, 1]))))
    return posterior


def total(explanation: Explanation, *, personal: bool | None = None) -> float:
    return sum(part.value for part in explanation.parts if personal in {None, part.personal})


def by_name(reasons: UserReasons) -> dict[str, AttributeReason]:
    return {reason.name: reason for reason in reasons.attributes}


def test_every_attribute_has_a_phrase_for_more_and_for_less():
    assert tuple(ATTRIBUTE_PHRASES) == ATTRIBUTE_NAMES
    phrases = [phrase for pair in ATTRIBUTE_PHRASES.values() for phrase in pair]
    assert len(set(phrases)) == 2 * ATTRIBUTES
    assert all(phrase.strip() == phrase and len(phrase) < 50 for phrase in phrases)


# ---------------------------------------------------------------- rankings: the parts add up to the utility


@pytest.mark.parametrize("archetypes", [1, 3])
@pytest.mark.parametrize("loadings", [0, 2])
@pytest.mark.parametrize("remembered", [0, 3])
def test_parts_sum_to_the_posterior_utility(rng, make_population, archetypes, loadings, remembered):
    keys = [rng.bytes(16) for _ in range(6)]
    reward = make_reward(
        rng, make_population, archetypes=archetypes, loadings=loadings, memory_keys=keys[:remembered]
    )
    vectors = make_vectors(rng, 6)
    vectors[0] *= 100  # beyond the clipping of standardised features
    posterior = judge(rng, reward)
    items = reward.describe(vectors, keys)
    personal, everyone = posterior.utility(items), UserPosterior.at_prior(reward.population).utility(items)
    explained = explain_items(reward, posterior, vectors, keys)
    assert [e.index for e in explained] == list(range(6))
    for e in explained:
        assert e.utility == personal.mean[e.index]
        assert e.std == personal.std[e.index]
        assert total(e) == pytest.approx(e.utility, abs=1e-9)
        assert total(e, personal=False) == pytest.approx(everyone.mean[e.index], abs=1e-9)
        assert e.population_utility == pytest.approx(everyone.mean[e.index], abs=1e-9)
        assert sum(part.value for part in e.moved) == pytest.approx(e.shift, abs=1e-9)
        sizes = [abs(part.value) for part in e.parts]
        assert sizes == sorted(sizes, reverse=True)
        assert ("memory" in {part.name for part in e.parts}) == (e.index < remembered)
    shifts = personal.mean - everyone.mean
    np.testing.assert_allclose([e.shift for e in explained], shifts - shifts.mean(), atol=1e-9)


@pytest.mark.parametrize("archetypes", [1, 3])
def test_personalization_scales_the_personal_parts(rng, make_population, archetypes):
    keys = [rng.bytes(16) for _ in range(5)]
    reward = make_reward(rng, make_population, archetypes=archetypes, loadings=1, memory_keys=keys[:2])
    vectors, posterior = make_vectors(rng, 5), judge(rng, reward)
    everyone = UserPosterior.at_prior(reward.population)
    items = reward.describe(vectors, keys)

    def explain(strength, user=posterior):
        return explain_items(reward, user, vectors, keys, personalization=strength)

    full, population = explain(1.0), explain_items(reward, everyone, vectors, keys)
    assert full == explain_items(reward, posterior, vectors, keys)
    assert explain(0.0) == explain(0.4, everyone) == population
    strength = 0.3
    for part_way, whole, start in zip(explain(strength), full, population, strict=True):
        table = personalized_scores(reward, everyone, [posterior], items, strength)
        assert total(part_way) == pytest.approx(table.mean[0, whole.index], abs=1e-9)
        assert part_way.utility == pytest.approx(table.mean[0, whole.index], abs=1e-12)
        assert part_way.std == pytest.approx(table.std[0, whole.index], abs=1e-12)
        assert sum(part.value for part in part_way.moved) == pytest.approx(part_way.shift, abs=1e-9)
        assert part_way.shift == pytest.approx(strength * whole.shift, abs=1e-12)
        assert part_way.shift_std**2 == pytest.approx(
            (1 - strength) * start.shift_std**2 + strength * whole.shift_std**2
        )
        assert min(start.probability_up, whole.probability_up) < part_way.probability_up
        assert part_way.probability_up < max(start.probability_up, whole.probability_up)
        assert part_way.population_utility == whole.population_utility
        assert part_way.population_rank == whole.population_rank
        scaled = {(part.name, part.personal): part for part in part_way.parts}
        assert len(scaled) == len(whole.parts)
        for part in whole.parts:
            share = strength if part.personal else 1.0
            assert scaled[part.name, part.personal].value == pytest.approx(share * part.value, abs=1e-12)
    with pytest.raises(PersonalizationError, match="from 0 to 1"):
        explain(1.5)


@pytest.mark.parametrize("archetypes", [1, 3])
def test_uncertainty_of_parts_is_that_of_the_users_posterior(rng, make_population, archetypes):
    """The reference draws from the mixture of the posterior."""
    keys = [rng.bytes(16)]
    reward = make_reward(rng, make_population, archetypes=archetypes, loadings=1, memory_keys=keys)
    posterior, vectors = judge(rng, reward), make_vectors(rng, 1)
    (explained,) = explain_items(reward, posterior, vectors, keys)
    beliefs, prior = posterior.beliefs, reward.population.prior
    chosen = rng.choice(archetypes, 40_000, p=beliefs.weights)
    roots = np.linalg.cholesky(beliefs.covariances)
    draws = beliefs.means[chosen] + np.einsum(
        "nij,nj->ni", roots[chosen], rng.normal(size=(40_000, reward.q))
    )
    draws -= prior.weights @ prior.means
    x = reward.text_prior.standardiser(vectors)[0]
    weights = np.concatenate([reward.text_prior.weights, reward.loadings], axis=1)[:, 1:]
    remembered = np.append(reward.memory.means[0, 1:] - x @ weights[:, :RANK], 0.0)
    of_reference = reward.reference.directions[0]
    named = x[EMBEDDING:-1, None] * weights[EMBEDDING:-1]
    expected = dict(zip(ATTRIBUTE_NAMES, named, strict=True))
    expected["memory"] = remembered
    expected["threshold"] = of_reference
    expected["content"] = x @ weights - named.sum(axis=0) - of_reference
    personal = {part.name: part for part in explained.parts if part.personal}
    assert set(personal) == set(expected)
    for name, direction in expected.items():
        sample = draws[:, 1:] @ direction + (draws[:, 0] if name == "threshold" else 0.0)
        assert personal[name].value == pytest.approx(sample.mean(), abs=5 * sample.std() / 200)
        assert personal[name].std == pytest.approx(sample.std(), rel=0.03)
    shift = draws[:, 1:] @ (sum(expected.values()) - of_reference)
    assert explained.shift_std == pytest.approx(shift.std(), rel=0.03)
    assert explained.probability_up == pytest.approx((shift > 0).mean(), abs=0.02)
    assert {part.std for part in explained.parts if not part.personal} == {0.0}


def test_moves_are_relative_to_the_candidates_and_ranks_to_the_population(rng, make_population):
    reward = make_reward(rng, make_population, archetypes=3)
    posterior, vectors = judge(rng, reward), make_vectors(rng, 5)
    vectors[:, EMOJI] = 1.0  # the same in all candidates, so it distinguishes none
    explained = explain_items(reward, posterior, vectors)
    assert sum(e.shift for e in explained) == pytest.approx(0, abs=1e-12)
    for e in explained:
        assert {part.name for part in e.moved}.isdisjoint({"threshold", "constant", "emoji"})
        assert all(part.personal for part in e.moved)
    prior = UserPosterior.at_prior(reward.population)
    scores = relevance(reward, prior, reward.describe(vectors))
    assert [int((scores > s).sum()) + 1 for s in scores] == [e.population_rank for e in explained]


def test_a_single_candidate_is_compared_with_the_median_answer(rng, make_population):
    reward = make_reward(rng, make_population)
    posterior, vectors = judge(rng, reward), make_vectors(rng, 1)
    (explained,) = explain_items(reward, posterior, vectors)
    deviation = Deviation.from_posterior(posterior)
    against = reward.describe(vectors).features[0] - reward.reference.features[0]
    assert explained.shift == pytest.approx(against @ deviation.mean, abs=1e-9)
    assert "threshold" not in {part.name for part in explained.moved}


def test_labels_name_the_direction_in_which_a_candidate_differs(rng, make_population):
    reward = make_reward(rng, make_population)
    vectors = np.tile(reward.text_prior.standardiser.centre, (2, 1)).astype(np.float16)
    vectors[0, LENGTH] += 2
    vectors[1, LENGTH] += 6  # longer than most, both; the first is the shorter of the two
    first, second = explain_items(reward, judge(rng, reward), vectors)
    assert {part.label for part in first.parts if part.name == "length"} == {"longer answers"}
    assert {part.label for part in first.moved if part.name == "length"} == {"shorter answers"}
    assert {part.label for part in second.moved if part.name == "length"} == {"longer answers"}


def test_some_candidates_are_explained_against_all(rng, make_population):
    reward = make_reward(rng, make_population)
    posterior, vectors = judge(rng, reward), make_vectors(rng, 5)
    everything = explain_items(reward, posterior, vectors)
    assert explain_items(reward, posterior, vectors, rows=[3, 0]) == (everything[3], everything[0])
    assert explain_items(reward, posterior, vectors[:0]) == ()


def test_nothing_personal_moves_a_candidate_for_a_user_at_the_prior(rng, make_population):
    reward = make_reward(rng, make_population, archetypes=3, loadings=1)
    for e in explain_items(reward, UserPosterior.at_prior(reward.population), make_vectors(rng, 4)):
        assert e.moved == ()
        assert not any(part.personal for part in e.parts)
        assert e.shift == 0
        assert total(e) == pytest.approx(e.utility, abs=1e-9)


def test_a_text_prior_that_is_not_linear_has_no_parts(rng, make_population):
    class Opaque:
        def __init__(self, prior: LinearTextPrior) -> None:
            self.standardiser, self.predict, self.arrays = prior.standardiser, prior.predict, prior.arrays

    reward = make_reward(rng, make_population)
    opaque = replace(reward, text_prior=Opaque(reward.text_prior))
    prior = UserPosterior.at_prior(reward.population)
    for explain in (explain_items, explain_user):
        with pytest.raises(ExplanationError, match="Opaque"):
            explain(opaque, prior, make_vectors(rng, 2))


# ---------------------------------------------------------------- coordinates do not matter


def moved_to(reward: RewardModel, turn: np.ndarray, offset: np.ndarray) -> RewardModel:
    """Return the same model in other coordinates: z = turn·z' + offset, so that v' = turnᵀv and b' = b + offset·v."""
    prior, population, reference = reward.text_prior, reward.population, reward.reference
    assert isinstance(prior, LinearTextPrior)
    wide = np.eye(reward.q)
    wide[1:, 1:] = turn

    def coordinates(c: np.ndarray) -> np.ndarray:
        return np.concatenate([c[:, :1] + c[:, 1:] @ offset[:, None], c[:, 1:] @ turn], axis=1)

    median = coordinates(np.concatenate([reference.base[:, None], reference.directions], axis=1))
    return replace(
        reward,
        text_prior=replace(prior, weights=coordinates(prior.weights)),
        population=Population(
            population.weights,
            (population.means - np.append(0.0, offset)) @ wide,
            wide.T @ population.precisions @ wide,
        ),
        reference=replace(reference, base=median[:, 0], directions=median[:, 1:]),
        memory=replace(reward.memory, means=coordinates(reward.memory.means)),
    )


def numbers(reasons: UserReasons | Explanation) -> dict[str, float]:
    """Return every number of the reasons by its position, with ties in a fixed order."""
    flat = {}
    for place, value in asdict(reasons).items():
        for number, entry in enumerate(value if isinstance(value, tuple) else [{"": value}]):
            fields = entry if isinstance(entry, dict) else {"": entry}
            label = (fields.get("name", number), fields.get("personal"))
            flat |= {f"{place} {label} {k}": v for k, v in fields.items() if isinstance(v, float | int)}
    return flat


@pytest.mark.parametrize("archetypes", [1, 3])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_reasons_do_not_depend_on_the_coordinates_of_taste(rng, make_population, archetypes, shift):
    """A fit could find the same taste rotated and shifted, so numbers and words must not change."""
    keys = [rng.bytes(16) for _ in range(6)]
    # The variance of v is the same in all directions, so it can be rotated. A shift would move part of it into b.
    scale = 1.0 - shift
    reward = make_reward(
        rng, make_population, archetypes=archetypes, memory_keys=keys[:2], doubt=0.01 * scale
    )
    prior = reward.text_prior
    reward = replace(
        reward,
        text_prior=replace(prior, residual_variance=scale * prior.residual_variance),
        memory=replace(reward.memory, variances=scale * reward.memory.variances),
    )
    turn = np.linalg.qr(rng.normal(size=(RANK, RANK)))[0]
    vectors, pairs = make_vectors(rng, 6), [make_vectors(rng, 2) for _ in range(6)]
    reasons_by_model = []
    for model in (reward, moved_to(reward, turn, shift * np.array([0.7, -0.4]))):
        posterior = UserPosterior.at_prior(model.population)
        for pair in pairs:
            items = model.describe(pair)
            posterior = posterior.learn(Pair(items[0], items[1]))
        reasons = (
            explain_user(model, posterior, vectors, keys),
            *explain_items(model, posterior, vectors, keys),
        )
        reasons_by_model.append([numbers(r) for r in reasons])
    for actual, expected in zip(*reasons_by_model, strict=True):
        assert actual == pytest.approx(expected, abs=1e-4)  # evidence is float32


# ---------------------------------------------------------------- users: how they differ from the population


def simulate(
    rng: np.random.Generator,
    reward: RewardModel,
    taste: np.ndarray,
    judgements: int = 10,
    *,
    true: RewardModel | None = None,
    contrast: int | None = None,
) -> UserPosterior:
    """Return the posterior after pairs judged by a user y = `taste`. Residuals of the texts are drawn from `true`.

    The two texts of a pair differ by four standard deviations in the feature `contrast`.
    """
    posterior = UserPosterior.at_prior(reward.population)
    vectors = make_vectors(rng, 2 * judgements)
    if contrast is not None:
        standardiser = reward.text_prior.standardiser
        ends = standardiser.centre[contrast] + standardiser.scale[contrast] * np.array([-2, 2])
        vectors[:, contrast] = np.tile(ends, judgements)
    items, truth = reward.describe(vectors), (true or reward).describe(vectors)
    directions = rng.normal(truth.directions, np.sqrt(truth.direction_variance))
    utility = rng.normal(truth.base, np.sqrt(truth.base_variance)) + directions @ taste[1:]
    for i in range(0, len(items), 2):
        first = i + int(rng.random() > expit(utility[i] - utility[i + 1]))
        posterior = posterior.learn(Pair(items[first], items[2 * i + 1 - first]))
    return posterior


def taste_for(reward: RewardModel, column: int) -> RewardModel:
    """Scale the attributes' weights to a tenth, and let a user weigh one attribute with w ~ N(0, 1)."""
    prior = reward.text_prior
    weights = prior.weights.copy()
    weights[EMBEDDING:] *= 0.1
    population = Population(np.ones(1), np.zeros((1, reward.q)), np.eye(reward.q)[None])
    plain = replace(reward, text_prior=replace(prior, weights=weights), population=population)
    return plain.with_tastes(np.eye(DIM + 1)[:, [column]], np.ones(1))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_taste_for_length_is_named_first_after_ten_judgements(rng, make_population, sign):
    reward = taste_for(make_reward(rng, make_population, doubt=0.0004), LENGTH)
    certain = []
    for _ in range(20):
        taste = np.array([0.0, *rng.normal(size=RANK), sign * 2.0])
        reasons = explain_user(reward, simulate(rng, reward, taste, contrast=LENGTH), make_vectors(rng, 30))
        first = reasons.attributes[0]
        assert reasons.judgements == 10
        assert (first.name, first.told) == ("length", True)
        assert first.label == ("longer answers" if sign > 0 else "shorter answers")
        certain += [p if sign > 0 else 1 - p for p in (first.probability, first.slope_probability)]
    assert min(certain) > 0.98


@pytest.mark.parametrize("archetypes", [1, 3])
def test_signs_are_right_as_often_as_stated(rng, make_population, archetypes):
    """Users are drawn from the prior, and text priors from the fit's posterior over them."""
    reward = make_reward(rng, make_population, archetypes=archetypes, loadings=1, doubt=0.02)
    population, texts = reward.population, make_vectors(rng, 30)
    average = population.weights @ population.means
    x = reward.text_prior.standardiser(texts)
    centred = x - x.mean(axis=0)
    stated, right, told = [], [], []
    for _ in range(100):
        prior = reward.text_prior
        weights = rng.normal(prior.weights, np.sqrt(prior.prior_variance))
        true = replace(reward, text_prior=replace(prior, weights=weights, prior_variance=0 * weights))
        c = rng.choice(archetypes, p=population.weights)
        taste = rng.multivariate_normal(population.means[c], np.linalg.inv(population.precisions[c]))
        posterior = simulate(rng, reward, taste, int(rng.integers(1, 25)), true=true)
        reasons = by_name(explain_user(reward, posterior, texts))
        worth = np.concatenate([weights, reward.loadings], axis=1)[:, 1:] @ (taste - average)[1:]
        for a in rng.choice(ATTRIBUTES, 8, replace=False):
            reason, column = reasons[ATTRIBUTE_NAMES[a]], EMBEDDING + a
            own = centred[:, column]
            slope = (own @ centred @ worth + UNCORRELATED_TEXTS * worth[column]) / (
                own @ own + UNCORRELATED_TEXTS
            )
            stated += [reason.probability, reason.slope_probability]
            right += [worth[column] > 0, slope > 0]
            if reason.told:
                told.append((worth[column] > 0) == (slope > 0) == (reason.effect > 0))
    stated, right = np.array(stated), np.array(right)
    for low, high in [(0, 0.15), (0.15, 0.35), (0.35, 0.65), (0.65, 0.85), (0.85, 1.0)]:
        inside = (stated >= low) & (stated <= high)
        assert inside.sum() > 100
        assert right[inside].mean() == pytest.approx(stated[inside].mean(), abs=0.08)
    assert len(told) > 50
    assert np.mean(told) > REASON_PROBABILITY


@pytest.mark.parametrize("archetypes", [1, 3])
def test_a_user_at_the_prior_has_no_reasons(rng, make_population, archetypes):
    reward = make_reward(rng, make_population, archetypes=archetypes, loadings=1, doubt=0.001)
    reasons = explain_user(reward, UserPosterior.at_prior(reward.population), make_vectors(rng, 12))
    assert reasons.texts == ()
    assert (reasons.judgements, reasons.threshold, reasons.named_share) == (0, 0, 0)
    assert len(reasons.attributes) == ATTRIBUTES
    assert not any(r.told or r.effect or r.slope for r in reasons.attributes)
    assert reasons.archetype_weights == reasons.population_archetype_weights
    if archetypes == 1:
        assert {r.probability for r in reasons.attributes} == {0.5}
        assert reasons.probability_easier == 0.5


def test_effects_are_the_utility_of_one_standard_deviation(rng, make_population):
    """Raising one attribute, all else equal, changes the utilities of the user and the population by the effect."""
    reward = make_reward(rng, make_population, archetypes=3, loadings=2)
    text_prior = replace(reward.text_prior, standardiser=Standardiser(np.zeros(DIM), np.ones(DIM)))
    reward = replace(reward, text_prior=text_prior)
    posterior = judge(rng, reward)
    reasons = by_name(explain_user(reward, posterior, make_vectors(rng, 0)))
    for name, reason in reasons.items():
        raised = np.zeros((2, DIM), np.float16)
        raised[1, EMBEDDING + ATTRIBUTE_NAMES.index(name)] = 1.0
        items = reward.describe(raised)
        personal = posterior.utility(items).mean
        everyone = UserPosterior.at_prior(reward.population).utility(items).mean
        assert reason.population == pytest.approx(everyone[1] - everyone[0], abs=1e-9)
        assert reason.effect + reason.population == pytest.approx(personal[1] - personal[0], abs=1e-9)
        # Without texts, no attributes are correlated.
        assert reason.slope == pytest.approx(reason.effect, abs=1e-12)
        assert reason.slope_probability == pytest.approx(reason.probability)
    assert [r.label == ATTRIBUTE_PHRASES[r.name][0] for r in reasons.values()] == [
        r.effect > 0 for r in reasons.values()
    ]


def test_over_many_texts_the_slope_is_that_of_a_regression(rng, make_population):
    reward = make_reward(rng, make_population, archetypes=3)
    posterior, vectors = judge(rng, reward), make_vectors(rng, 5000)
    vectors[:, SENTENCES] = vectors[:, LENGTH] + rng.normal(0, 0.5, 5000)
    reasons = by_name(explain_user(reward, posterior, vectors))
    x = reward.text_prior.standardiser(vectors)
    personal = reward.describe(vectors).directions @ Deviation.from_posterior(posterior).mean[1:]
    for name in ("length", "sentences", "emoji"):
        fitted = np.polyfit(x[:, EMBEDDING + ATTRIBUTE_NAMES.index(name)], personal, 1)[0]
        assert reasons[name].slope == pytest.approx(fitted, rel=0.05, abs=0.01)


def user_who_weighs(rng, make_population, effects: dict[int, float]) -> tuple[RewardModel, UserPosterior]:
    """Return a user known to weigh these columns with these effects, and no others."""
    reward = make_reward(rng, make_population)
    prior, p = reward.text_prior, len(effects)
    plain = replace(
        reward,
        text_prior=replace(
            prior, weights=np.concatenate([prior.weights[:, :1], np.zeros((DIM + 1, RANK))], axis=1)
        ),
        population=Population(np.ones(1), np.zeros((1, 1 + RANK)), np.eye(1 + RANK)[None]),
    ).with_tastes(np.eye(DIM + 1)[:, list(effects)], np.ones(len(effects)))
    precision = np.zeros((plain.q, plain.q), np.float32)
    precision[-p:, -p:] = 1e4 * np.eye(p)
    linear = np.zeros(plain.q, np.float32)
    linear[-p:] = 1e4 * np.array(list(effects.values()))
    return plain, UserPosterior(plain.population, precision, linear, 30)


def test_an_attribute_correlated_with_a_reason_is_no_reason(rng, make_population):
    """Longer texts have more sentences, so a user who likes length likes many sentences, but not for their number."""
    reward, posterior = user_who_weighs(rng, make_population, {LENGTH: 1.0})
    vectors = make_vectors(rng, 200)
    vectors[:, SENTENCES] = vectors[:, LENGTH]
    reasons = explain_user(reward, posterior, vectors)
    sentences = by_name(reasons)["sentences"]
    assert sentences.slope > 0.3
    assert sentences.slope_probability > 0.99
    assert (sentences.effect, sentences.told) == (0, False)
    assert [r.name for r in reasons.attributes if r.told] == ["length"]


def test_an_effect_reversed_in_real_texts_is_no_reason(rng, make_population):
    """The user likes sentences, all else equal, but dislikes length, and texts with many sentences are longer."""
    reward, posterior = user_who_weighs(rng, make_population, {SENTENCES: 0.3, LENGTH: -1.0})
    uncorrelated, correlated = make_vectors(rng, 200), make_vectors(rng, 200)
    scale = reward.text_prior.standardiser.scale
    correlated[:, SENTENCES] = correlated[:, LENGTH] / scale[LENGTH] * scale[SENTENCES]
    assert by_name(explain_user(reward, posterior, uncorrelated))["sentences"].told
    reasons = explain_user(reward, posterior, correlated)
    reversed_reason = by_name(reasons)["sentences"]
    assert (reversed_reason.effect > 0, reversed_reason.slope < 0, reversed_reason.told) == (
        True,
        True,
        False,
    )
    assert reasons.attributes[0].name == "length"
    assert reasons.attributes[-1].name == "sentences"  # if the two disagree, no attribute is less informative


def test_small_effects_are_not_reasons_however_certain(rng, make_population):
    reward, posterior = user_who_weighs(rng, make_population, {EMOJI: 0.6 * MIN_SLOPE, LENGTH: 2 * MIN_SLOPE})
    reasons = by_name(explain_user(reward, posterior, make_vectors(rng, 0)))
    assert reasons["emoji"].probability > 0.99
    assert (reasons["emoji"].told, reasons["length"].told) == (False, True)


def test_uncertainty_of_the_fit_about_an_attribute_widens_its_effect(rng, make_population):
    """It can also withdraw a reason, however well the user is known."""
    reward = make_reward(rng, make_population)
    reward = replace(reward, text_prior=replace(reward.text_prior, weights=0.1 * reward.text_prior.weights))
    posterior = judge(rng, reward, 30)
    doubted = replace(
        reward, text_prior=replace(reward.text_prior, prior_variance=np.full((DIM + 1, 1 + RANK), 4.0))
    )
    texts = make_vectors(rng, 0)
    certain, doubtful = (by_name(explain_user(model, posterior, texts)) for model in (reward, doubted))
    beliefs = posterior.beliefs
    z = beliefs.means[0] - reward.population.means[0]
    second = (z**2 + np.diagonal(beliefs.covariances[0]))[1:].sum()
    for name, reason in doubtful.items():
        assert reason.effect == certain[name].effect
        assert reason.std == pytest.approx(np.sqrt(certain[name].std ** 2 + 4.0 * second))
    assert any(r.told for r in certain.values())
    assert not any(r.told for r in doubtful.values())


def test_an_attribute_that_never_varied_is_not_mentioned(rng, make_population):
    reward = make_reward(rng, make_population)
    scale = reward.text_prior.standardiser.scale.copy()
    scale[EMOJI] = np.inf
    standardiser = replace(reward.text_prior.standardiser, scale=scale)
    reward = replace(reward, text_prior=replace(reward.text_prior, standardiser=standardiser))
    reasons = by_name(explain_user(reward, judge(rng, reward), make_vectors(rng, 5)))
    assert set(ATTRIBUTE_NAMES) - set(reasons) == {"emoji"}


def test_votes_reveal_users_who_are_harder_to_satisfy(rng, make_population):
    reward = make_reward(rng, make_population)
    reasons = {}
    for value in (1, -1):
        posterior = UserPosterior.at_prior(reward.population)
        for _ in range(25):
            posterior = posterior.learn(Vote(reward.describe(make_vectors(rng, 1)), value))
        reasons[value] = explain_user(reward, posterior, make_vectors(rng, 0))
        deviation, median = Deviation.from_posterior(posterior), reward.reference.features[0]
        assert reasons[value].threshold == pytest.approx(median @ deviation.mean)
        assert reasons[value].threshold_std == pytest.approx(np.sqrt(median @ deviation.covariance @ median))
    assert reasons[1].threshold > 0 > reasons[-1].threshold
    assert reasons[1].probability_easier > 0.9
    assert reasons[-1].probability_easier < 0.1


def test_archetype_weights_are_listed_with_the_populations(rng, make_population):
    reward = make_reward(rng, make_population, archetypes=3)
    posterior = judge(rng, reward)
    reasons = explain_user(reward, posterior, make_vectors(rng, 0))
    assert reasons.archetype_weights == tuple(posterior.archetype_weights)
    assert reasons.population_archetype_weights == tuple(reward.population.weights)
    assert reasons.archetype_weights != reasons.population_archetype_weights


# ---------------------------------------------------------------- texts


def test_texts_are_those_with_the_largest_difference_from_the_population(rng, make_population):
    keys = [rng.bytes(16) for _ in range(20)]
    reward = make_reward(rng, make_population, archetypes=3, memory_keys=keys[:10])
    posterior, vectors = judge(rng, reward, 30), make_vectors(rng, 20)
    reasons = explain_user(reward, posterior, vectors, keys, examples=2)
    items = reward.describe(vectors, keys)
    everyone = UserPosterior.at_prior(reward.population).utility(items).mean
    difference = posterior.utility(items).mean - everyone
    difference -= difference.mean()
    values = [text.value for text in reasons.texts]
    np.testing.assert_allclose(values, difference[[text.index for text in reasons.texts]], atol=1e-9)
    assert values == sorted(values, reverse=True)
    ranked = np.argsort(-difference)
    assert [text.index for text in reasons.texts] == [*ranked[:2], *ranked[-2:]]
    for text in reasons.texts:
        assert max(text.probability, 1 - text.probability) >= EXAMPLE_PROBABILITY
        assert (text.probability > 0.5) == (text.value > 0)


def test_a_text_of_uncertain_utility_is_not_listed(rng, make_population):
    """The uncertainty of a text's own utility counts, however well the user is known."""
    keys = [rng.bytes(16) for _ in range(8)]
    reward = make_reward(rng, make_population, memory_keys=keys)
    posterior, vectors = judge(rng, reward, 30), make_vectors(rng, 8)
    vague = replace(reward, memory=replace(reward.memory, variances=np.full((8, 1 + RANK), 100.0)))
    assert explain_user(reward, posterior, vectors, keys).texts
    assert explain_user(vague, posterior, vectors, keys).texts == ()


def test_equal_texts_count_once(rng, make_population):
    keys = [rng.bytes(16) for _ in range(5)]
    reward = make_reward(rng, make_population, memory_keys=keys)
    posterior, vectors = judge(rng, reward, 30), make_vectors(rng, 5)
    once = explain_user(reward, posterior, vectors, keys)
    again = [0, 1, 2, 0, 3, 1, 4]
    twice = explain_user(reward, posterior, vectors[again], [keys[i] for i in again])
    assert [again[text.index] for text in twice.texts] == [text.index for text in once.texts]
    assert [again.index(again[text.index]) for text in twice.texts] == [text.index for text in twice.texts]
    assert numbers(replace(twice, texts=())) == pytest.approx(numbers(replace(once, texts=())))
    unnamed = numbers(replace(explain_user(reward, posterior, vectors[again]), texts=()))
    assert unnamed == pytest.approx(numbers(replace(explain_user(reward, posterior, vectors), texts=())))


def test_the_share_of_named_attributes_can_be_one_or_zero(rng, make_population):
    for column, share in ((LENGTH, 1.0), (0, 0.0)):
        reward, posterior = user_who_weighs(rng, make_population, {column: 1.0})
        assert explain_user(reward, posterior, make_vectors(rng, 40)).named_share == pytest.approx(share)
        assert explain_user(reward, posterior, make_vectors(rng, 1)).named_share == 0
