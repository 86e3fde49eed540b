"""Learning many users at once agrees with `UserPosterior.learn`, one user and judgement at a time."""

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
from penchant.models.taste.observing import build_observation
from penchant.models.taste.population import Beliefs, Population
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.models.testing import tiny_bundle

N_TEXTS = 12
FLIPS = {"default": 0.0, "doubted": 0.15, "coarse": 0.1}
SCALES = {
    "default": RatingScale(0.0, 0.4, 0.5),
    "doubted": RatingScale(0.1, 0.3, 0.4),
    "coarse": RatingScale(-0.2, 0.2, 0.25),
}

UserJudgements = list[tuple[Judgement, list[int]]]


@dataclass(frozen=True)
class World:
    """A reward model and the items of some texts."""

    reward: RewardModel
    items: Items

    def one_by_one(self, judgements: Sequence[tuple[Judgement, Sequence[int]]]) -> UserPosterior:
        """Learn the judgements one by one, as the service does."""
        posterior = UserPosterior.at_prior(self.reward.population)
        for judgement, rows in judgements:
            observation = build_observation(
                self.reward,
                self.items[list(rows)],
                kind=judgement.kind,
                value=judgement.normalised if judgement.kind == "rating" else judgement.value,
                weight=judgement.weight,
                source=judgement.source,
                groups=judgement.groups,
            )
            if observation is not None:
                posterior = posterior.learn(observation)
        assert posterior.changes == 0  # evaluations do not detect changes
        return posterior

    def together(
        self, judgements: Sequence[UserJudgements], shots: Sequence[int]
    ) -> dict[int, list[Beliefs]]:
        steps = JudgementSteps.build(self.reward, self.items, judgements)
        return dict(learn_online(self.reward.population, steps, shots))


@pytest.fixture
def make_world(extractor, make_items, make_population):
    """Makes a population of `archetypes` and random texts with residuals. Two sources have flip rates."""

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


def speak(
    world: World, rng: np.random.Generator, user: int, kinds: Sequence[str], n: int, **fixed
) -> UserJudgements:
    """Return n judgements of one user drawn from fixed utilities, so that no change is detected."""
    features = world.items.features
    taste = rng.normal(0, 0.7, features.shape[1])
    utility = world.items.base + features @ taste
    judgements: UserJudgements = []
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
        judgements.append(
            (
                Judgement(
                    f"user {user}", "", kind, texts, value, source=source, weight=weight, groups=groups
                ),
                rows,
            )
        )
    return judgements


def assert_same(actual: Beliefs, expected: Beliefs, *, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(actual.weights, expected.weights, atol=atol)
    np.testing.assert_allclose(actual.means, expected.means, atol=atol)
    np.testing.assert_allclose(actual.covariances, expected.covariances, atol=atol)


ALL = ("pair", "vote", "rating", "edit", "choice", "ranking")


@pytest.mark.parametrize("archetypes", [1, 3])
@pytest.mark.parametrize(
    "kinds", [("pair",), ("vote",), ("rating",), ALL], ids=["pair", "vote", "rating", "all"]
)
def test_learning_together_equals_learning_one_by_one(rng, make_world, archetypes, kinds):
    """This covers weights, unreliable sources and users with different numbers of judgements."""
    world = make_world(rng, archetypes)
    judgements = [speak(world, rng, user, kinds, n) for user, n in enumerate([12, 0, 5, 1, 12, 9])]
    actual = world.together(judgements, (0, 3, 12))
    assert list(actual) == [0, 3, 12]
    for k, beliefs in actual.items():
        for rows, belief in zip(judgements, beliefs, strict=True):
            assert_same(belief, world.one_by_one(rows[:k]).beliefs)


@pytest.mark.parametrize("source", ["default", "doubted"])
@pytest.mark.parametrize("kind", ["pair", "vote", "rating"])
def test_every_branch_agrees_with_online_learning(rng, make_world, kind, source):
    """Reliable and unreliable sources, with and without weights, each agree with the online step."""
    world = make_world(rng, 3)
    for weight in (1.0, 0.2):
        (judgements,) = [speak(world, rng, 0, (kind,), 3, source=source, weight=weight)]
        (actual,) = world.together([judgements], (3,))[3]
        assert_same(actual, world.one_by_one(judgements).beliefs)


def test_a_wide_prior_agrees_with_online_learning(rng, make_world, make_population):
    """Under a wide prior the fixed point of the bound is far from its start."""
    tight = make_population(rng, q=4, archetypes=2)
    world = make_world(rng, 2, population=replace(tight, precisions=tight.precisions / 400))
    for kind in ("pair", "vote"):
        judgements = speak(world, rng, 0, (kind,), 4)
        (actual,) = world.together([judgements], (4,))[4]
        expected = world.one_by_one(judgements).beliefs
        assert_same(actual, expected, atol=1e-6 * float(np.abs(expected.covariances).max()))


def test_a_text_compared_with_itself_carries_no_information(rng, make_world):
    world = make_world(rng, 3)
    judgements = speak(world, rng, 0, ALL, 6)
    nothing = [
        (Judgement("user 0", "", "pair", ("text 1", "text 1")), [1, 1]),
        (Judgement("user 0", "", "edit", ("text 2", "text 3"), weight=0.0), [2, 3]),
        (Judgement("user 0", "", "ranking", ("text 2", "text 3"), groups=(2,)), [2, 3]),
        (Judgement("user 0", "", "vote", ("text 4",), 1.0, weight=0.0), [4]),
        (Judgement("user 0", "", "rating", ("text 4",), 0.5, weight=0.0), [4]),
    ]
    expected = world.one_by_one(judgements).beliefs
    for at in (0, 3, 6):
        (actual,) = world.together([[*judgements[:at], *nothing, *judgements[at:]]], (100,))[100]
        assert_same(actual, expected)
    (separate,) = world.together([nothing], (5,))[5]
    assert_same(separate, world.reward.population.prior, atol=1e-12)


def test_padding_and_other_users_change_nothing(rng, make_world):
    """A user learns the same alone, together with others, and after shots requested earlier."""
    world = make_world(rng, 3)
    judgements = [speak(world, rng, user, ALL, n) for user, n in enumerate([4, 15, 0, 8])]
    together = world.together(judgements, (0, 2, 7, 15))
    assert_same(together[15][2], world.reward.population.prior, atol=1e-12)
    for user, rows in enumerate(judgements):
        (separate,) = world.together([rows], (15,))[15]
        # Only the last digits differ: the bound iterates until it has converged for all users.
        assert_same(together[15][user], separate, atol=1e-8)


def test_shots_may_have_any_order_and_exceed_the_judgements(rng, make_world):
    world = make_world(rng, 1)
    judgements = [speak(world, rng, 0, ALL, 5)]
    actual = world.together(judgements, (100, 0, 3))
    assert list(actual) == [0, 3, 100]
    assert_same(actual[100][0], world.one_by_one(judgements[0]).beliefs)
    assert_same(actual[3][0], world.one_by_one(judgements[0][:3]).beliefs)


def test_returned_beliefs_do_not_change_later(rng, make_world):
    world = make_world(rng, 2)
    judgements = [speak(world, rng, 0, ALL, 8)]
    snapshots: list[tuple[Beliefs, np.ndarray]] = []
    steps = JudgementSteps.build(world.reward, world.items, judgements)
    for _, (beliefs,) in learn_online(world.reward.population, steps, (0, 4, 8)):
        snapshots.append((beliefs, beliefs.means.copy()))
    for beliefs, means in snapshots:
        np.testing.assert_array_equal(beliefs.means, means)
    np.testing.assert_array_equal(snapshots[0][0].means, world.reward.population.means)


def test_no_users_and_no_judgements_are_allowed(rng, make_world):
    world = make_world(rng, 2)
    assert world.together([], (0, 3)) == {0: [], 3: []}
    (actual,) = world.together([[]], (3,))[3]
    assert_same(actual, world.reward.population.prior, atol=1e-12)


def test_rank_one_judgements_are_recognised():
    assert is_rank_one(Judgement("u", "", "rating", ("a",), 0.5))
    assert is_rank_one(Judgement("u", "", "choice", ("a", "b"), groups=(1, 1)))
    assert not is_rank_one(Judgement("u", "", "choice", ("a", "b", "c"), groups=(1, 2)))
    assert not is_rank_one(Judgement("u", "", "ranking", ("a", "b", "c")))


def test_bounds_that_do_not_converge_are_counted_per_judgement(rng, make_world, monkeypatch):
    world, counted = make_world(rng, 2), ConvergenceFailures()
    monkeypatch.setattr(logistic, "convergence_failures", counted)
    votes = [[(Judgement(f"u{i}", "", "vote", (f"t{i}",), value=1.0), [i])] for i in range(3)]
    world.together(votes, (0, 1))
    assert counted.counts() == {}
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    world.together(votes, (0, 1))
    assert counted.counts() == {BOUND_NAME: 3}
