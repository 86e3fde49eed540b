"""Fitting recovers what was planted: shared taste, two directions, thresholds, rating scale, residuals."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.attributes import ATTRIBUTE_NAMES
from penchant.models.dataset import Dataset
from penchant.models.fit import Fit, FitOptions
from penchant.models.judgements import Judgement
from penchant.models.likelihood import Pair
from penchant.models.posterior import UserPosterior
from penchant.models.reward import RewardModel, item_key


def fitted(planted, **options) -> Fit:
    return Fit(Dataset.of(planted.judgements, planted.vectors), FitOptions(**options)).run()


def catalogue(planted, reward: RewardModel, *, remember: bool = True):
    keys = [item_key(context, text) if remember else text.encode() for context, text in planted.vectors]
    return reward.describe(np.stack(list(planted.vectors.values())), keys)


@pytest.fixture(scope="module")
def planted(plant):
    return plant()


@pytest.fixture(scope="module")
def fit(planted) -> Fit:
    return fitted(planted, rank=2)


@pytest.fixture(scope="module")
def agreeing(plant):
    """Users that differ in nothing but noise."""
    return plant(seed=1, taste=0.0)


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


# ---------------------------------------------------------------- recovery


def test_shared_taste_is_recovered(planted, fit):
    items = catalogue(planted, fit.reward())
    assert correlation(items.base, planted.base) > 0.9
    # Without the memory the text alone says it, nearly as well.
    assert correlation(catalogue(planted, fit.reward(remember=False)).base, planted.base) > 0.85


def test_the_planted_directions_are_spanned(planted, fit):
    found = catalogue(planted, fit.reward(remember=False)).directions
    for d in range(2):
        design = np.column_stack([found, np.ones(len(found))])
        explained = design @ np.linalg.lstsq(design, planted.directions[:, d], rcond=None)[0]
        assert correlation(explained, planted.directions[:, d]) > 0.9


def test_judged_users_utilities_are_recovered(planted, fit):
    utility = (fit.users.mean @ fit.items.mean.T).numpy()
    columns = [fit.data.keys.index(item_key(context, text)) for context, text in planted.vectors]
    rows = [fit.data.users.index(user) for user in planted.users]
    assert correlation(utility[np.ix_(rows, columns)], planted.utility) > 0.9


def test_the_rating_scale_is_recovered(planted, fit):
    scale = fit.reward().rating_scale("stars")
    assert scale.offset == pytest.approx(planted.stars[0], abs=0.03)
    assert scale.slope == pytest.approx(planted.stars[1], rel=0.15)
    assert scale.noise == pytest.approx(scale.slope * np.sqrt(np.pi**2 / 6))
    assert fit.reward().rating_scale("never seen") == scale  # the only one there is


def test_users_are_whitened_and_centred(fit):
    """E y = 0 and Cov z = I over users, up to the last half round; the threshold keeps its own variance."""
    second = fit.users.second[:, 2:, 2:].mean(0).numpy()
    np.testing.assert_allclose(second, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(fit.users.mean[:, 1:].mean(0).numpy(), 0, atol=1e-9)
    reward = fit.reward()
    assert (reward.q, reward.rank, reward.temperature) == (3, 2, 1.0)
    covariance = np.linalg.inv(reward.population.precisions[0])
    assert np.sqrt(covariance[0, 0]) == pytest.approx(0.5, abs=0.2)  # planted spread of thresholds


def test_residuals_of_items_are_found_where_there_are_any(plant):
    """Texts differ by 1.0 in what no feature tells: the memory knows it, and a new text is that uncertain."""
    planted = plant(seed=3, residual=1.0, taste=0.0, n_texts=40, n_users=150)
    fit = fitted(planted, rank=0)
    from_memory = catalogue(planted, fit.reward())
    from_text = catalogue(planted, fit.reward(remember=False))
    assert correlation(from_memory.base, planted.base) > 0.97
    assert correlation(from_memory.base, planted.base) > correlation(from_text.base, planted.base) + 0.05
    assert (from_memory.base_variance < from_text.base_variance).all()
    error = from_text.base - from_memory.base
    assert np.mean(error**2 / from_text.base_variance) < 3.0


def test_new_texts_are_as_uncertain_as_they_are(plant):
    """A planted residual of variance .09 is neither taken for certainty nor for something that the text tells."""
    planted = plant(seed=2, residual=0.3, taste=0.0, n_texts=200, n_users=200)
    fit = fitted(planted, rank=0)
    assert 0.04 < float(fit.residual[0]) < 0.14
    left_out = np.arange(len(fit.data.keys)) % 3 == 0
    found = fit.reward(remember=False, without=left_out).describe(fit.data.vectors[left_out])
    base = {item_key(*item): base for item, base in zip(planted.vectors, planted.base, strict=True)}
    error = (
        np.array([base[key] for key, out in zip(fit.data.keys, left_out, strict=True) if out]) - found.base
    )
    error -= error.mean()  # the level is the users' threshold's
    assert 0.6 < np.mean(error**2 / found.base_variance) < 1.6


def test_few_shots_of_a_new_user_pay(planted, fit):
    """Accuracy on all pairs of texts, for users the fit has never seen, before and after their own 40 pairs."""
    rng = np.random.default_rng(11)
    reward = fit.reward()
    items = catalogue(planted, reward)
    gains = []
    for _ in range(15):
        z, t = rng.normal(size=2), rng.normal(0, 0.5)
        utility = t + planted.base + planted.directions @ z
        posterior = UserPosterior.at_prior(reward.population)
        accuracies = []
        for _ in range(2):
            predicted = posterior.utility(items).mean
            true_gap, gap = np.subtract.outer(utility, utility), np.subtract.outer(predicted, predicted)
            accuracies.append(((true_gap > 0) == (gap > 0))[~np.eye(len(utility), dtype=bool)].mean())
            for _ in range(40):
                a, b = rng.choice(len(utility), 2, replace=False)
                if rng.random() > 1 / (1 + np.exp(utility[b] - utility[a])):
                    a, b = b, a
                posterior = posterior.learn(Pair(items[int(a)], items[int(b)]))
        gains.append(accuracies[1] - accuracies[0])
    assert np.mean(gains) > 0.1
    assert np.mean(np.array(gains) > -0.02) > 0.9  # nearly nobody loses


def test_users_that_agree_get_no_directions(agreeing):
    """Directions without a cause shrink: what they add to utilities is small beside shared taste."""
    fit = fitted(agreeing, rank=2)
    items = catalogue(agreeing, fit.reward(remember=False))
    assert correlation(items.base, agreeing.base) > 0.9
    assert (items.directions**2).sum(1).mean() < 0.05 * items.base.var()


# ---------------------------------------------------------------- determinism and safety


def test_the_same_seed_gives_the_same_model(planted, fit):
    again = fitted(planted, rank=2)
    assert again.rounds_run == fit.rounds_run
    a, b = fit.reward(), again.reward()
    np.testing.assert_array_equal(a.population.precisions, b.population.precisions)
    np.testing.assert_array_equal(catalogue(planted, a).directions, catalogue(planted, b).directions)


def test_the_seed_of_the_start_hardly_matters(planted, fit):
    """Directions may turn; utilities may not."""
    other = fitted(planted, rank=2, seed=5)
    one, two = ((f.users.mean @ f.items.mean.T).numpy() for f in (fit, other))
    assert correlation(one, two) > 0.999


def test_fitting_leaves_the_global_random_state_alone(planted):
    import torch

    before = torch.random.get_rng_state()
    fitted(planted, rank=2, rounds=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_more_directions_than_users_or_texts(plant):
    small = plant(n_users=4, n_texts=5, per_user=6)
    reward = fitted(small, rank=8).reward()
    items = catalogue(small, reward)
    assert reward.rank == 8
    assert np.isfinite(items.base).all()
    assert np.isfinite(items.directions).all()
    assert (items.direction_variance > 0).all()
    assert np.linalg.eigvalsh(reward.population.precisions[0]).min() > 0


@pytest.mark.parametrize("kind", ["pair", "rating", "vote"])
def test_every_kind_alone_is_enough(plant, kind):
    planted = plant(seed=2, kinds=(kind,), n_users=80, taste=0.7)
    fit = fitted(planted, rank=1)
    assert correlation(catalogue(planted, fit.reward()).base, planted.base) > 0.8


def test_left_out_texts_are_not_known(planted, fit):
    """Cross-validation over texts: neither the memory nor the text prior may have seen them."""
    without = np.arange(len(fit.data.keys)) < 30
    reward, whole = fit.reward(without=without), fit.reward()
    assert set(reward.memory.rows) == set(fit.data.keys[30:])
    row = reward.memory.rows[fit.data.keys[40]]
    np.testing.assert_array_equal(
        reward.memory.means[row], whole.memory.means[whole.memory.rows[fit.data.keys[40]]]
    )
    # Changing what was said of the left-out texts changes nothing.
    changed = Fit.__new__(Fit)
    changed.__dict__.update(fit.__dict__)
    changed.told = fit.told.clone()
    changed.told[0, :, :30] += 100.0  # targets of every coordinate
    np.testing.assert_array_equal(
        changed.reward(without=without).text_prior.arrays()["text.weights"],
        reward.text_prior.arrays()["text.weights"],
    )


def test_progress_tells_every_round(planted):
    told: list[tuple[str, int, int]] = []
    Fit(Dataset.of(planted.judgements, planted.vectors), FitOptions(rank=1, rounds=3)).run(
        lambda *step: told.append(step)
    )
    assert [stage for stage, _, _ in told] == ["consensus"] * 4 + ["directions"] * 3
    assert [done for _, done, _ in told] == list(range(1, 8))
    assert {total for _, _, total in told} == {7}


def test_two_sources_have_two_scales(plant):
    """The same users rate on another scale: offset and slope differ, utilities do not."""
    planted = plant(kinds=("rating",), seed=4)
    rows = [
        replace(j, source="other", value=2 * j.value - 0.1) if number % 2 else j
        for number, j in enumerate(planted.judgements)
    ]
    fit = Fit(Dataset.of(rows, planted.vectors), FitOptions(rank=2)).run()
    stars, other = fit.reward().rating_scale("stars"), fit.reward().rating_scale("other")
    assert other.slope / stars.slope == pytest.approx(2.0, rel=0.15)
    unknown = fit.reward().rating_scale("unknown")
    assert unknown.slope == pytest.approx((stars.slope + other.slope) / 2)


def test_without_ratings_the_default_scale_spans_its_range(plant):
    scale = fitted(plant(kinds=("pair",), n_users=20), rank=0).reward().rating_scale()
    assert (scale.offset, scale.slope) == (0.0, 0.5)


def test_a_judgement_of_an_unknown_kind_of_text_is_a_key_error(planted):
    with pytest.raises(KeyError):
        Dataset.of([Judgement("u", "", "vote", ("never encoded",), 1.0)], planted.vectors)


LITTLE = {
    "one pair": [Judgement("u", "", "pair", ("t0", "t1"))],
    "one rating": [Judgement("u", "", "rating", ("t0",), 0.5)],
    "one vote": [Judgement("u", "", "vote", ("t0",), 1.0)],
    "a source with one rating": [
        Judgement("u", "", "rating", ("t0",), 0.5),
        Judgement("v", "", "rating", ("t1",), -0.5),
        Judgement("v", "", "rating", ("t2",), 0.1, source="another"),
    ],
    "equal ratings": [Judgement(f"u{i % 5}", "", "rating", (f"t{i % 7}",), 1.0) for i in range(35)],
    "nothing but itself": [Judgement("u", "", "pair", ("t0", "t0"))],
    "one side of a vote": [Judgement(f"u{i % 5}", "", "vote", (f"t{i % 7}",), 1.0) for i in range(35)],
}


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("rows", LITTLE.values(), ids=LITTLE.keys())
def test_little_data_gives_a_finite_model(rng, rows, rank):
    width = 4 + len(ATTRIBUTE_NAMES)
    vectors = {("", f"t{i}"): rng.normal(size=width).astype(np.float16) for i in range(7)}
    reward = Fit(Dataset.of(rows, vectors), FitOptions(rank=rank)).run().reward()
    items = reward.describe(np.stack(list(vectors.values())))
    assert np.isfinite(items.base).all()
    assert np.isfinite(items.directions).all()
    assert (items.base_variance > 0).all()
    assert np.linalg.eigvalsh(reward.population.precisions[0]).min() > 0
    for scale in reward.scales.values():
        assert np.isfinite([scale.offset, scale.slope]).all()
        assert scale.slope > 0
