"""Many users at once against `UserPosterior.learn`, user by user and judgement by judgement."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.special import expit

from penchant.models.judgements.judgement import Judgement
from penchant.models.taste import logistic
from penchant.models.taste.cohort import JudgementSteps, is_rank_one, learn_online
from penchant.models.taste.fixed_points import ConvergenceFailures
from penchant.models.taste.items import Items
from penchant.models.taste.logistic import BOUND_NAME
from penchant.models.taste.observations import RatingScale
from penchant.models.taste.population import Beliefs, Population
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel, build_observation
from penchant.models.testing import tiny_bundle

N_TEXTS = 12
FLIPS = {"default": 0.0, "doubted": 0.15, "coarse": 0.1}
SCALES = {
    "default": RatingScale(0.0, 0.4, 0.5),
    "doubted": RatingScale(0.1, 0.3, 0.4),
    "coarse": RatingScale(-0.2, 0.2, 0.25),
}

Said = list[tuple[Judgement, list[int]]]


@dataclass(frozen=True)
class World:
    """A reward model and texts that it has described."""

    reward: RewardModel
    items: Items

    def one_by_one(self, said: Sequence[tuple[Judgement, Sequence[int]]]) -> UserPosterior:
        """What the service does."""
        posterior = UserPosterior.at_prior(self.reward.population)
        for judgement, rows in said:
            told = build_observation(
                self.reward,
                self.items[list(rows)],
                kind=judgement.kind,
                value=judgement.normalised if judgement.kind == "rating" else judgement.value,
                weight=judgement.weight,
                source=judgement.source,
                groups=judgement.groups,
            )
            if told is not None:
                posterior = posterior.learn(told)
        assert posterior.changes == 0  # an evaluation knows no change points
        return posterior

    def together(self, said: Sequence[Said], shots: Sequence[int]) -> dict[int, list[Beliefs]]:
        steps = JudgementSteps.build(self.reward, self.items, said)
        return dict(learn_online(self.reward.population, steps, shots))


@pytest.fixture
def make_world(extractor, make_items, make_population):
    """A population of `archetypes`, random texts with residuals; the model doubts two of its sources."""

    def make(
        rng: np.random.Generator, archetypes: int, *, q: int = 4, population: Population | None = None
    ) -> World:
        reward = replace(
            tiny_bundle(extractor).reward,
            population=population or make_population(rng, q=q, archetypes=archetypes),
            scales=SCALES,
            flips=FLIPS,
        )
        return World(reward, make_items(rng, N_TEXTS, k=reward.q - 1, residual=0.3))

    return make


def speak(world: World, rng: np.random.Generator, user: int, kinds: Sequence[str], n: int, **fixed) -> Said:
    """n judgements of one user with utilities of their own, so that nobody seems to change."""
    features = world.items.features
    taste = rng.normal(0, 0.7, features.shape[1])
    utility = world.items.base + features @ taste
    said: Said = []
    for _ in range(n):
        kind = str(rng.choice(kinds))
        rows = [int(i) for i in rng.choice(N_TEXTS, 2, replace=False)]
        source = fixed.get("source") or str(rng.choice(list(SCALES)))
        weight = fixed.get("weight") or float(rng.choice([1.0, rng.uniform(0.1, 1)]))
        value = 0.0
        if kind in ("vote", "rating"):
            rows = rows[:1]
            scale = SCALES[source]
            value = 1.0 if rng.random() < expit(utility[rows[0]]) else -1.0
            if kind == "rating":
                value = scale.offset + scale.slope * utility[rows[0]] + scale.noise * rng.normal()
        elif rng.random() > expit(utility[rows[0]] - utility[rows[1]]):
            rows = rows[::-1]
        texts = tuple(f"text {i}" for i in rows)
        groups = {"choice": (1, 1), "ranking": (1, 1)}.get(kind, ())
        said.append(
            (
                Judgement(
                    f"user {user}", "", kind, texts, value, source=source, weight=weight, groups=groups
                ),
                rows,
            )
        )
    return said


def assert_same(found: Beliefs, expected: Beliefs, *, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.weights, expected.weights, atol=atol)
    np.testing.assert_allclose(found.means, expected.means, atol=atol)
    np.testing.assert_allclose(found.covariances, expected.covariances, atol=atol)


ALL = ("pair", "vote", "rating", "edit", "choice", "ranking")


@pytest.mark.parametrize("archetypes", [1, 3])
@pytest.mark.parametrize(
    "kinds", [("pair",), ("vote",), ("rating",), ALL], ids=["pair", "vote", "rating", "all"]
)
def test_together_is_one_by_one(rng, make_world, archetypes, kinds):
    """Weights, doubted sources, users with different numbers of judgements."""
    world = make_world(rng, archetypes)
    said = [speak(world, rng, user, kinds, n) for user, n in enumerate([12, 0, 5, 1, 12, 9])]
    found = world.together(said, (0, 3, 12))
    assert list(found) == [0, 3, 12]
    for k, beliefs in found.items():
        for mine, belief in zip(said, beliefs, strict=True):
            assert_same(belief, world.one_by_one(mine[:k]).beliefs)


@pytest.mark.parametrize("source", ["default", "doubted"])
@pytest.mark.parametrize("kind", ["pair", "vote", "rating"])
def test_every_branch_by_itself(rng, make_world, kind, source):
    """Doubted or not, weighed or not, each against the online step."""
    world = make_world(rng, 3)
    for weight in (1.0, 0.2):
        (said,) = [speak(world, rng, 0, (kind,), 3, source=source, weight=weight)]
        (found,) = world.together([said], (3,))[3]
        assert_same(found, world.one_by_one(said).beliefs)


def test_a_wide_prior_is_no_exception(rng, make_world, make_population):
    """Where little is known the bound's fixed point is far from where it starts."""
    tight = make_population(rng, q=4, archetypes=2)
    world = make_world(rng, 2, population=replace(tight, precisions=tight.precisions / 400))
    for kind in ("pair", "vote"):
        said = speak(world, rng, 0, (kind,), 4)
        (found,) = world.together([said], (4,))[4]
        expected = world.one_by_one(said).beliefs
        assert_same(found, expected, atol=1e-6 * float(np.abs(expected.covariances).max()))


def test_a_text_against_itself_says_nothing(rng, make_world):
    world = make_world(rng, 3)
    said = speak(world, rng, 0, ALL, 6)
    nothing = [
        (Judgement("user 0", "", "pair", ("text 1", "text 1")), [1, 1]),
        (Judgement("user 0", "", "edit", ("text 2", "text 3"), weight=0.0), [2, 3]),
        (Judgement("user 0", "", "ranking", ("text 2", "text 3"), groups=(2,)), [2, 3]),
        (Judgement("user 0", "", "vote", ("text 4",), 1.0, weight=0.0), [4]),
        (Judgement("user 0", "", "rating", ("text 4",), 0.5, weight=0.0), [4]),
    ]
    expected = world.one_by_one(said).beliefs
    for at in (0, 3, 6):
        (found,) = world.together([[*said[:at], *nothing, *said[at:]]], (100,))[100]
        assert_same(found, expected)
    (alone,) = world.together([nothing], (5,))[5]
    assert_same(alone, world.reward.population.prior, atol=1e-12)


def test_padding_and_company_change_nothing(rng, make_world):
    """A user learns the same alone, beside others and behind shots that were asked for before."""
    world = make_world(rng, 3)
    said = [speak(world, rng, user, ALL, n) for user, n in enumerate([4, 15, 0, 8])]
    company = world.together(said, (0, 2, 7, 15))
    assert_same(company[15][2], world.reward.population.prior, atol=1e-12)
    for user, mine in enumerate(said):
        (alone,) = world.together([mine], (15,))[15]
        # To the last digits only: the fixed point of the bound is left when it has settled for everybody.
        assert_same(company[15][user], alone, atol=1e-8)


def test_shots_are_asked_in_any_order_and_may_exceed_what_was_said(rng, make_world):
    world = make_world(rng, 1)
    said = [speak(world, rng, 0, ALL, 5)]
    found = world.together(said, (100, 0, 3))
    assert list(found) == [0, 3, 100]
    assert_same(found[100][0], world.one_by_one(said[0]).beliefs)
    assert_same(found[3][0], world.one_by_one(said[0][:3]).beliefs)


def test_beliefs_that_were_handed_out_stay_as_they_were(rng, make_world):
    world = make_world(rng, 2)
    said = [speak(world, rng, 0, ALL, 8)]
    kept: list[tuple[Beliefs, np.ndarray]] = []
    steps = JudgementSteps.build(world.reward, world.items, said)
    for _, (beliefs,) in learn_online(world.reward.population, steps, (0, 4, 8)):
        kept.append((beliefs, beliefs.means.copy()))
    for beliefs, means in kept:
        np.testing.assert_array_equal(beliefs.means, means)
    np.testing.assert_array_equal(kept[0][0].means, world.reward.population.means)


def test_nobody_or_nothing_to_learn(rng, make_world):
    world = make_world(rng, 2)
    assert world.together([], (0, 3)) == {0: [], 3: []}
    (found,) = world.together([[]], (3,))[3]
    assert_same(found, world.reward.population.prior, atol=1e-12)


def test_what_is_about_one_number():
    assert is_rank_one(Judgement("u", "", "rating", ("a",), 0.5))
    assert is_rank_one(Judgement("u", "", "choice", ("a", "b"), groups=(1, 1)))
    assert not is_rank_one(Judgement("u", "", "choice", ("a", "b", "c"), groups=(1, 2)))
    assert not is_rank_one(Judgement("u", "", "ranking", ("a", "b", "c")))


def test_bounds_that_are_not_found_are_counted_judgement_by_judgement(rng, make_world, monkeypatch):
    world, counted = make_world(rng, 2), ConvergenceFailures()
    monkeypatch.setattr(logistic, "convergence_failures", counted)
    votes = [[(Judgement(f"u{i}", "", "vote", (f"t{i}",), value=1.0), [i])] for i in range(3)]
    world.together(votes, (0, 1))
    assert counted.counts() == {}
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    world.together(votes, (0, 1))
    assert counted.counts() == {BOUND_NAME: 3}
