"""Tuning on held-out users chooses directions if users differ, none if they agree, and the right temperature."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from penchant.models.checkpoint import Checkpoint
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.evaluation.few_shot import Adapted, Forecast
from penchant.models.fitting import held_out, tuning
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.held_out import HELD_OUT_USERS, HeldOutUsers
from penchant.models.fitting.taste_families import ATTRIBUTES, FAMILIES
from penchant.models.fitting.tuning import (
    ARCHETYPES,
    MIN_USERS,
    TEMPERATURES,
    Choice,
    TunedModel,
    find_best_temperature,
    fit_reward,
)
from penchant.models.taste.items import Items
from penchant.models.taste.population import Population
from penchant.models.taste.posterior import UserPosterior

QUICK = FitOptions(rounds=12)


@pytest.fixture(scope="module")
def differing(plant):
    """Ratings of users who differ in two directions."""
    return plant(kinds=("rating",), per_user=28, n_users=110, n_texts=40, seed=7)


@pytest.fixture(scope="module")
def agreeing(plant):
    return plant(kinds=("rating",), per_user=28, n_users=160, n_texts=40, seed=8, taste=0.0)


@pytest.fixture(scope="module")
def tuned(differing) -> TunedModel:
    return fit_reward(differing.judgements, differing.vectors, options=QUICK, ranks=(0, 2))


def test_users_who_differ_get_directions(tuned):
    assert tuned.choice.rank == tuned.reward.rank == 2
    assert tuned.held_out_users >= MIN_USERS
    none, two = tuned.trials[:2]
    assert (none.choice.rank, two.choice.rank) == (0, 2)
    assert (none.gain, none.gain_error) == (0.0, 0.0)
    assert two.gain > 5 * two.gain_error > 0
    assert two.log_loss == pytest.approx(none.log_loss - two.gain)
    assert tuned.reward.temperature == tuned.choice.temperature
    assert TEMPERATURES[0] <= tuned.choice.temperature <= TEMPERATURES[1]


def test_tuning_chooses_no_directions_for_users_who_agree(agreeing):
    """If users hardly differ, personalization stays off. This is the safe default."""
    found = fit_reward(agreeing.judgements, agreeing.vectors, mode="warm", options=QUICK, ranks=(0, 2))
    assert found.held_out_users >= MIN_USERS
    assert found.choice.rank == 0
    assert found.choice.tastes == "none"
    assert (found.reward.rank, found.reward.q) == (0, 1)


def test_archetypes_are_tried_for_the_chosen_rank(tuned):
    tried = [t.choice for t in tuned.trials[2 : 2 + len(ARCHETYPES)]]
    assert [c.archetypes for c in tried] == list(ARCHETYPES)
    assert {(c.rank, c.tastes) for c in tried} == {(2, "none")}


def test_every_taste_is_tried_with_the_chosen_rank_and_archetypes(tuned):
    tried = [t.choice for t in tuned.trials[2 + len(ARCHETYPES) :]]
    assert {c.tastes for c in tried} == FAMILIES.keys()
    assert [(c.tastes, c.taste_variance) for c in tried] == [
        (name, size) for name, sizes in FAMILIES.items() for size in sizes
    ]
    assert {c.rank for c in tried} == {2}
    assert {c.archetypes for c in tried} == {tuned.choice.archetypes}
    assert len(tuned.reward.population.weights) == tuned.choice.archetypes


def tune_cheaply(planted, **arguments) -> TunedModel:
    return fit_reward(
        planted.judgements, planted.vectors, mode="warm", options=QUICK, ranks=(0, 2), **arguments
    )


@pytest.fixture
def cheap(monkeypatch) -> None:
    """Limits the trials to one taste and few archetypes."""
    monkeypatch.setattr(tuning, "FAMILIES", {"length": (0.1,)})
    monkeypatch.setattr(tuning, "ARCHETYPES", (2, 4))


@pytest.fixture(scope="module")
def whole(differing) -> TunedModel:
    """Result of an uninterrupted `tune_cheaply` on `differing`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "FAMILIES", {"length": (0.1,)})
        patch.setattr(tuning, "ARCHETYPES", (2, 4))
        return tune_cheaply(differing)


def test_tuning_is_reproducible(differing, whole, cheap):
    again = tune_cheaply(differing)
    assert again.held_out_users >= MIN_USERS
    assert again.choice == whole.choice
    assert again.trials == whole.trials
    np.testing.assert_array_equal(again.reward.population.precisions, whole.reward.population.precisions)


def test_with_few_users_no_tuning_takes_place(plant):
    small = plant(n_users=30, seed=9)
    found = fit_reward(small.judgements, small.vectors, ranks=(0, 2), options=QUICK)
    assert found.choice == Choice()
    assert found.trials == ()
    assert found.held_out_users < MIN_USERS
    assert (found.reward.rank, found.reward.temperature) == (0, 1.0)


def test_the_memory_can_be_omitted(plant):
    small = plant(n_users=30, seed=9)
    with_memory, without = (
        fit_reward(small.judgements, small.vectors, options=QUICK, with_memory=with_memory).reward
        for with_memory in (True, False)
    )
    assert len(with_memory.memory.rows) > 0
    assert without.memory.rows == {}


def test_progress_names_the_trials(plant):
    small = plant(n_users=30, seed=9)
    stages: list[str] = []
    fit_reward(
        small.judgements,
        small.vectors,
        options=QUICK,
        progress=lambda stage, done, total: stages.append(stage) if done <= total else pytest.fail(stage),
    )
    assert set(stages) == {"fit"}


# ---------------------------------------------------------------- held-out users


@pytest.mark.parametrize("mode", ["cold", "warm"])
def test_held_out_users_are_not_used_for_the_fit(differing, mode):
    left_out = HeldOutUsers(differing.judgements, differing.vectors, mode)
    fitted = {j.user for j in left_out.train}
    assert fitted.isdisjoint(left_out.users)
    assert len(left_out.users) == len(set(left_out.users))
    share = 1 - len(fitted) / len(differing.users)
    assert share == pytest.approx(HELD_OUT_USERS, abs=0.12)
    if mode == "warm":  # some cells of the others are held out too
        whole = [j for j in differing.judgements if j.user in fitted]
        assert 0.5 < len(left_out.train) / len(whole) < 0.9


def test_the_largest_source_does_not_dominate_the_choice(plant, monkeypatch):
    """Each source contributes at most the same number of users."""
    monkeypatch.setitem(held_out.MOST_USERS, "warm", 60)
    many = plant(kinds=("rating",), n_users=300, per_user=26, seed=1)
    few = plant(kinds=("rating",), n_users=60, per_user=26, seed=2)
    rows = [replace(j, source="many", user=f"many {j.user}") for j in many.judgements]
    rows += [replace(j, source="few") for j in few.judgements]
    users = HeldOutUsers(rows, many.vectors, "warm").users
    from_many = sum(user.startswith("many") for user in users)
    assert from_many == 30
    assert 5 < len(users) - from_many < 30


# ---------------------------------------------------------------- temperature and shape


def test_the_temperature_of_the_choices_is_recovered(rng, make_items):
    """Users without uncertainty choose with σ(2·gap), so 2 is the best temperature."""
    certain = UserPosterior.at_prior(Population(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), 1e12)))

    def items(base: np.ndarray) -> Items:
        return make_items(rng, len(base), k=0, base=base, residual=0.0)

    for truth in (0.5, 2.0):
        a, b = rng.normal(size=(2, 8_000))
        first = rng.random(8_000) < expit(truth * (a - b))
        better, worse = np.where(first, a, b), np.where(first, b, a)
        adapted = Adapted({0: certain.beliefs}, items(better), items(worse), np.zeros((8_000, 2), np.int64))
        assert find_best_temperature(Forecast([adapted])) == pytest.approx(truth, rel=0.05)


def test_a_choice_sets_the_tastes_and_temperature_of_a_model(differing):
    fit = Fit(
        Dataset.from_judgements(differing.judgements[:50], differing.vectors), FitOptions(rank=1, rounds=2)
    ).run()
    reward = fit.build_reward_model()
    plain = Choice(temperature=1.5).apply(reward, fit)
    assert (plain.q, plain.temperature) == (reward.q, 1.5)
    shaped = Choice(tastes="style", taste_variance=0.03).apply(reward, fit)
    style = ATTRIBUTES["style"]
    assert shaped.q == reward.q + len(style)
    variances = np.diag(shaped.population.prior.covariances[0])[reward.q :]
    np.testing.assert_allclose(variances, [0.03 * relative for relative in style.values()])
    columns = shaped.loadings[:, reward.loadings.shape[1] :].argmax(axis=0)
    n_embedded = 6
    assert [ATTRIBUTE_NAMES[c - n_embedded] for c in columns] == list(style)


def test_declared_tastes_are_not_chosen(differing, cheap):
    """Declared tastes are always used, even if not measurably better. The trials measure their cost."""
    found = fit_reward(
        differing.judgements,
        differing.vectors,
        mode="warm",
        options=QUICK,
        ranks=(0, 1),
        declared=("length", 0.2),
    )
    assert (found.choice.tastes, found.choice.taste_variance) == ("length", 0.2)
    assert [t.choice.tastes for t in found.trials] == ["none", "none", "length"]
    assert found.reward.q == found.reward.rank + 2


def test_kinds_of_users_get_archetypes(plant, cheap):
    """Users are of three well separated kinds, and each judges little."""
    angles = 2 * np.pi * np.arange(3) / 3
    centres = 1.4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    planted = plant(kinds=("pair",), n_users=160, n_texts=40, per_user=24, centres=centres, taste=2.0, seed=1)
    found = tune_cheaply(planted)
    assert found.choice.rank == 2
    assert found.choice.archetypes > 1
    assert len(found.reward.population.weights) == found.choice.archetypes
    trials = {t.choice.archetypes: t.log_loss for t in found.trials if t.choice.rank == 2}
    assert trials[found.choice.archetypes] < trials[1] - 0.02


# ---------------------------------------------------------------- interruption


class InterruptedTuningError(Exception):
    """Stands in for a pressed Ctrl-C."""


@pytest.mark.parametrize("at", ["try tastes", "fit"])
def test_an_interrupted_tuning_continues_where_it_stopped(differing, whole, cheap, tmp_path, at):
    """Finished fits and trials are not repeated, and the result is the same to the last bit."""

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == at and done == (1 if stage == "try tastes" else 7):
            raise InterruptedTuningError

    with pytest.raises(InterruptedTuningError):
        tune_cheaply(differing, progress=interrupt, checkpoint=Checkpoint(tmp_path / "work", "same"))
    stages: list[str] = []
    resumed = tune_cheaply(
        differing,
        progress=lambda stage, *_: stages.append(stage),
        checkpoint=Checkpoint(tmp_path / "work", "same"),
    )
    assert set(stages) == {"try tastes", "fit"}
    assert resumed.choice == whole.choice
    assert resumed.trials == whole.trials
    np.testing.assert_array_equal(resumed.reward.population.precisions, whole.reward.population.precisions)
    np.testing.assert_array_equal(resumed.reward.memory.means, whole.reward.memory.means)
