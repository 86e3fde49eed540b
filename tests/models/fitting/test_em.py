"""Fitting recovers the planted shared taste, directions, thresholds, rating scale and residuals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from penchant.models.checkpoint import Checkpoint
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.evaluation.few_shot import adapt, predict
from penchant.models.evaluation.split import TestPair
from penchant.models.fitting.assemble import build_population
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.relevance import KNOTS, fit_relevance
from penchant.models.fitting.tuning import Choice
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.exact_product import round_to_grid
from penchant.models.taste.items import item_key
from penchant.models.taste.observations import Pair
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel


def fitted(planted, **options) -> Fit:
    return Fit(Dataset.from_judgements(planted.judgements, planted.vectors), FitOptions(**options)).run()


def catalogue(planted, reward: RewardModel, *, with_memory: bool = True):
    keys = [item_key(context, text) if with_memory else text.encode() for context, text in planted.vectors]
    return reward.describe(np.stack(list(planted.vectors.values())), keys)


@pytest.fixture(scope="module")
def planted(plant):
    return plant()


@pytest.fixture(scope="module")
def fit(planted) -> Fit:
    return fitted(planted, rank=2)


@pytest.fixture(scope="module")
def agreeing(plant):
    """Judgements of users who differ by noise only."""
    return plant(seed=1, taste=0.0)


@pytest.fixture(scope="module")
def small(plant):
    """Judgements of every kind on enough texts for a radial basis."""
    return plant(n_users=40, n_texts=70, per_user=15, seed=4, kinds=("pair", "rating", "vote", "ranking"))


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def fitted_utilities(planted, fit) -> np.ndarray:
    """Return E[u] `[m, n]` of every planted user for every planted text."""
    utility = (fit.users.mean @ fit.items.mean.T).numpy()
    columns = [fit.data.keys.index(item_key(context, text)) for context, text in planted.vectors]
    rows = [fit.data.users.index(user) for user in planted.users]
    return utility[np.ix_(rows, columns)]


def accuracy(planted, fit, users: list[str] | None = None) -> float:
    """Return the share of all pairs of texts whose predicted order for the users is the true one."""
    rows = [planted.users.index(user) for user in users or planted.users]
    predicted, true = fitted_utilities(planted, fit)[rows], planted.utility[rows]
    distinct = ~np.eye(predicted.shape[1], dtype=bool)
    gaps = [u[:, :, None] - u[:, None, :] for u in (predicted, true)]
    return float(((gaps[0] > 0) == (gaps[1] > 0))[:, distinct].mean())


# ---------------------------------------------------------------- recovery


def test_shared_taste_is_recovered(planted, fit):
    items = catalogue(planted, fit.build_reward_model())
    assert correlation(items.base, planted.base) > 0.9
    # Without the memory, the text prior predicts it nearly as well.
    assert (
        correlation(catalogue(planted, fit.build_reward_model(with_memory=False)).base, planted.base) > 0.85
    )


def test_the_planted_directions_are_spanned(planted, fit):
    found = catalogue(planted, fit.build_reward_model(with_memory=False)).directions
    for d in range(2):
        design = np.column_stack([found, np.ones(len(found))])
        explained = design @ np.linalg.lstsq(design, planted.directions[:, d], rcond=None)[0]
        assert correlation(explained, planted.directions[:, d]) > 0.9


def test_utilities_of_judged_users_are_recovered(planted, fit):
    assert correlation(fitted_utilities(planted, fit), planted.utility) > 0.9


def test_the_rating_scale_is_recovered(planted, fit):
    scale = fit.build_reward_model().rating_scale("stars")
    assert scale.offset == pytest.approx(planted.stars[0], abs=0.03)
    assert scale.slope == pytest.approx(planted.stars[1], rel=0.15)
    assert scale.noise == pytest.approx(scale.slope * np.sqrt(np.pi**2 / 6))
    assert fit.build_reward_model().rating_scale("never seen") == scale  # the only source sets the default


def test_users_are_whitened_and_centred(fit):
    """E y = 0 and Cov z = I over users, up to the last half round. The threshold keeps its own variance."""
    second = fit.users.second_moments[:, 2:, 2:].mean(0).numpy()
    np.testing.assert_allclose(second, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(fit.users.mean[:, 1:].mean(0).numpy(), 0, atol=1e-9)
    reward = fit.build_reward_model()
    assert (reward.q, reward.rank, reward.temperature) == (3, 2, 1.0)
    covariance = np.linalg.inv(reward.population.precisions[0])
    assert np.sqrt(covariance[0, 0]) == pytest.approx(0.5, abs=0.2)  # planted spread of thresholds


def test_item_residuals_are_recovered(plant):
    """Texts differ by residuals of 1.0 that no feature explains. The memory knows them; new texts are that uncertain."""
    planted = plant(seed=3, residual=1.0, taste=0.0, n_texts=40, n_users=150)
    fit = fitted(planted, rank=0)
    from_memory = catalogue(planted, fit.build_reward_model())
    from_text = catalogue(planted, fit.build_reward_model(with_memory=False))
    assert correlation(from_memory.base, planted.base) > 0.97
    assert correlation(from_memory.base, planted.base) > correlation(from_text.base, planted.base) + 0.05
    assert (from_memory.base_variance < from_text.base_variance).all()
    error = from_text.base - from_memory.base
    assert np.mean(error**2 / from_text.base_variance) < 3.0


def test_the_uncertainty_of_new_texts_is_right(plant):
    """A planted residual of variance .09 is mistaken neither for certainty nor for an effect of the text."""
    planted = plant(seed=2, residual=0.3, taste=0.0, n_texts=200, n_users=200)
    fit = fitted(planted, rank=0)
    assert 0.04 < float(fit.residual[0]) < 0.14
    left_out = np.arange(len(fit.data.keys)) % 3 == 0
    described = fit.build_reward_model(with_memory=False, excluded=left_out).describe(
        fit.data.vectors[left_out]
    )
    base = {item_key(*item): base for item, base in zip(planted.vectors, planted.base, strict=True)}
    error = (
        np.array([base[key] for key, out in zip(fit.data.keys, left_out, strict=True) if out])
        - described.base
    )
    error -= error.mean()  # the level belongs to the users' thresholds
    assert 0.6 < np.mean(error**2 / described.base_variance) < 1.6


def test_few_shots_improve_accuracy_for_new_users(planted, fit):
    """Accuracy on all pairs of texts, for users the fit has never seen, before and after their own 40 pairs."""
    rng = np.random.default_rng(11)
    reward = fit.build_reward_model()
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
    assert np.mean(np.array(gains) > -0.02) > 0.9  # hardly any user loses


def test_users_who_agree_get_no_directions(agreeing):
    """Unneeded directions shrink: their contribution to utilities is small compared with shared taste."""
    fit = fitted(agreeing, rank=2)
    items = catalogue(agreeing, fit.build_reward_model(with_memory=False))
    assert correlation(items.base, agreeing.base) > 0.9
    assert (items.directions**2).sum(1).mean() < 0.05 * items.base.var()


def test_unneeded_directions_switch_off(planted, fit):
    """Of six directions for users who differ in two, the others carry almost nothing and accuracy is as good."""
    wide = fitted(planted, rank=6)
    directions = catalogue(planted, wide.build_reward_model(with_memory=False)).directions
    carried = np.linalg.eigvalsh(directions.T @ directions / len(directions))[::-1]
    assert carried[1] > 1.0
    assert carried[2:].sum() < 0.05 * carried[1]
    assert abs(accuracy(planted, wide) - accuracy(planted, fit)) < 0.01


# ---------------------------------------------------------------- archetypes


def few_shot_task(planted, n_train: int, shots: int):
    """Return training judgements of the first users and, for the others, support pairs and pairs to predict."""
    first = set(planted.users[:n_train])
    support = {user: [] for user in planted.users[n_train:]}
    test = {user: [] for user in planted.users[n_train:]}
    for j in planted.judgements:
        if j.user in first:
            continue
        if len(support[j.user]) < shots:
            support[j.user].append(j)
        else:
            test[j.user].append(TestPair(j.context, *j.texts))
    return [j for j in planted.judgements if j.user in first], support, test


def test_archetypes_improve_accuracy_for_kinds_of_users(plant):
    """Users are of three kinds. After three pairs a mixture of three identifies the kind, one Gaussian does not."""
    angles = 2 * np.pi * np.arange(3) / 3
    centres = 1.4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    planted = plant(kinds=("pair",), n_users=210, centres=centres, taste=2.0)
    train, support, test = few_shot_task(planted, 150, 3)
    losses = {}
    for archetypes in (1, 3):
        fit = Fit(
            Dataset.from_judgements(train, planted.vectors), FitOptions(rank=2, archetypes=archetypes)
        ).run()
        reward = fit.build_reward_model()
        assert reward.population.weights.shape == (archetypes,)
        predictions = predict(reward, adapt(reward, planted.vectors, support, test, shots=(0, 3)))
        losses[archetypes] = {k: -np.log(better).mean() for k, better in predictions.better.items()}
    assert losses[3][3] < losses[1][3] - 0.03
    assert losses[3][0] < losses[1][0] + 0.005
    np.testing.assert_allclose(fit.mixture.weights.numpy(), 1 / 3, atol=0.05)


def test_trying_archetypes_does_not_change_the_fit(fit):
    before = {name: tensor.clone() for name, tensor in fit.collect_tensors().items()}
    four = fit.split_archetypes(4)
    assert four.weights.shape == (4,)
    assert fit.split_archetypes(1) is fit.mixture
    assert all(torch.equal(tensor, before[name]) for name, tensor in fit.collect_tensors().items())
    served = build_population(four)
    np.testing.assert_allclose(served.prior.covariances, four.covs.numpy(), atol=1e-9)
    np.testing.assert_array_equal(served.means, four.means.numpy())


# ---------------------------------------------------------------- wrong labels, heavy accounts


def reversed_pair(judgement: Judgement) -> Judgement:
    return replace(judgement, texts=judgement.texts[::-1])


def test_a_third_of_wrong_labels_hardly_changes_shared_taste(plant):
    """With 300 pairs per user, reversing three of ten costs at most two and a half points of accuracy."""
    planted = plant(seed=5, taste=0.0, kinds=("pair",), n_users=80, n_texts=60, per_user=300)
    rng = np.random.default_rng(1)
    rows = [reversed_pair(j) if rng.random() < 0.3 else j for j in planted.judgements]
    clean, noisy = (
        accuracy(planted, Fit(Dataset.from_judgements(some, planted.vectors), FitOptions(rank=0)).run())
        for some in (planted.judgements, rows)
    )
    assert clean > 0.97
    assert noisy > clean - 0.025


@pytest.fixture(scope="module")
def comparing(plant):
    return plant(seed=5, kinds=("pair",), n_users=80, n_texts=60, per_user=60)


def test_careless_annotators_do_not_affect_other_users(comparing):
    """A fifth of the annotators reverses 30 % of their labels."""
    rng, careless, others = np.random.default_rng(1), set(comparing.users[:16]), comparing.users[16:]
    rows = [
        reversed_pair(j) if j.user in careless and rng.random() < 0.3 else j for j in comparing.judgements
    ]
    clean, doubted = (
        accuracy(
            comparing, Fit(Dataset.from_judgements(some, comparing.vectors), FitOptions(rank=2)).run(), others
        )
        for some in (comparing.judgements, rows)
    )
    assert abs(doubted - clean) < 0.01


def test_an_account_with_a_thousand_poisoned_judgements_does_not_affect_other_users(comparing):
    """The account reverses shared taste in every pair. A spare direction absorbs it."""
    rng = np.random.default_rng(2)
    poison = []
    for _ in range(1000):
        a, b = rng.choice(len(comparing.texts), 2, replace=False)
        if comparing.base[a] > comparing.base[b]:
            a, b = b, a
        texts = comparing.texts[a], comparing.texts[b]
        poison.append(replace(comparing.judgements[0], user="poison", texts=texts))
    clean, poisoned = (
        accuracy(comparing, Fit(Dataset.from_judgements(rows, comparing.vectors), FitOptions(rank=3)).run())
        for rows in (comparing.judgements, [*comparing.judgements, *poison])
    )
    assert abs(poisoned - clean) < 0.01


# ---------------------------------------------------------------- weights of judgements


def test_two_judgements_of_half_weight_equal_one_judgement(small):
    halves = [replace(j, weight=0.5) for j in small.judgements for _ in range(2)]
    whole, twice = (
        Fit(Dataset.from_judgements(rows, small.vectors), FitOptions(rank=0, rounds=8)).run()
        for rows in (small.judgements, halves)
    )
    torch.testing.assert_close(twice.items.mean, whole.items.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(twice.users.mean, whole.users.mean, rtol=0, atol=1e-6)
    assert twice.build_reward_model().rating_scale("stars").slope == pytest.approx(
        whole.build_reward_model().rating_scale("stars").slope
    )


def test_weights_scale_what_is_learned(plant):
    """A weight of a tenth for every pair increases the uncertainty of texts and users."""
    planted = plant(kinds=("pair",), n_users=40, n_texts=40)
    tenth = [replace(j, weight=0.1) for j in planted.judgements]
    full, faint = (
        fitted(planted, rank=0),
        Fit(Dataset.from_judgements(tenth, planted.vectors), FitOptions(rank=0)).run(),
    )
    assert faint.coordinate_messages[1, 0].sum() < 0.15 * full.coordinate_messages[1, 0].sum()
    assert (
        faint.build_reward_model().memory.variances.mean()
        > 2 * full.build_reward_model().memory.variances.mean()
    )


def test_an_unchanged_edit_does_not_change_the_fit(planted, fit):
    """Its weight is 0, so no number of the fit changes."""
    nothing = [
        Judgement(planted.users[i], planted.judgements[0].context, "edit", (a, b), weight=0.0)
        for i, (a, b) in enumerate([planted.texts[:2], planted.texts[5:7]])
    ]
    again = Fit(
        Dataset.from_judgements([*planted.judgements, *nothing], planted.vectors), FitOptions(rank=2)
    ).run()
    assert all(
        torch.equal(tensor, fit.collect_tensors()[name]) for name, tensor in again.collect_tensors().items()
    )


def test_an_edit_counts_by_its_weight(planted, fit):
    """All users edit the same disliked text. The more the edit changes, the better its result is rated."""
    worst, best = int(np.argmin(planted.base)), int(np.argmax(planted.base))
    gaps = []
    for weight in (0.0, 0.2, 1.0):
        edits = [
            Judgement(
                user,
                planted.judgements[0].context,
                "edit",
                (planted.texts[worst], planted.texts[best]),
                weight=weight,
            )
            for user in planted.users
        ]
        fit_with_edits = Fit(
            Dataset.from_judgements([*planted.judgements, *edits], planted.vectors), FitOptions(rank=0)
        ).run()
        base = catalogue(planted, fit_with_edits.build_reward_model()).base
        gaps.append(base[worst] - base[best])
    assert gaps[0] + 0.2 < gaps[1] < gaps[2] - 0.2


@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_choices_and_rankings_are_fitted_as_stages(planted, fit, kind):
    """The stages of a choice or ranking, given as pairs of weight 2/n, lead to the same fit."""
    rng = np.random.default_rng(3)
    lists, stages = [], []
    for user in planted.users:
        for _ in range(4):
            candidates = tuple(planted.texts[i] for i in rng.choice(len(planted.texts), 4, replace=False))
            fields = {"user": user, "context": planted.judgements[0].context}
            groups = (1, 3) if kind == "choice" else ()
            lists.append(Judgement(**fields, kind=kind, texts=candidates, groups=groups))
            for i in range(1 if kind == "choice" else 3):
                stages += [
                    Judgement(**fields, kind="pair", texts=(candidates[i], other), weight=2 / (4 - i))
                    for other in candidates[i + 1 :]
                ]
    from_lists, other = (
        Fit(Dataset.from_judgements(rows, planted.vectors), FitOptions(rank=1, rounds=5)).run()
        for rows in (lists, stages)
    )
    assert all(
        torch.equal(tensor, from_lists.collect_tensors()[name])
        for name, tensor in other.collect_tensors().items()
    )


# ---------------------------------------------------------------- determinism and safety


def test_the_same_seed_gives_the_same_model(planted, fit):
    again = fitted(planted, rank=2)
    assert again.rounds_run == fit.rounds_run
    a, b = fit.build_reward_model(), again.build_reward_model()
    np.testing.assert_array_equal(a.population.precisions, b.population.precisions)
    np.testing.assert_array_equal(catalogue(planted, a).directions, catalogue(planted, b).directions)


class InterruptedFitError(Exception):
    """Stands in for a pressed Ctrl-C."""


RESUMABLE = FitOptions(rank=2, archetypes=2, rounds=14)


@pytest.fixture(scope="module")
def uninterrupted(small) -> Fit:
    return Fit(Dataset.from_judgements(small.judgements, small.vectors), RESUMABLE).run()


# Before the first save, in the consensus, at the start of the directions, later, and among the archetypes.
@pytest.mark.parametrize(("after", "saved"), [(2, 0), (5, 0), (7, 5), (13, 10), (21, 15)])
def test_an_interrupted_fit_continues_to_the_same_bits(small, uninterrupted, tmp_path, after, saved):
    reported: list[str] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        reported.append(stage)
        if len(reported) == after:
            raise InterruptedFitError

    data = Dataset.from_judgements(small.judgements, small.vectors)
    with pytest.raises(InterruptedFitError):
        Fit(data, RESUMABLE).run(interrupt, Checkpoint(tmp_path / "work", "same"))
    stages: list[str] = []
    resumed = Fit(data, RESUMABLE).run(
        lambda stage, *_: stages.append(stage), Checkpoint(tmp_path / "work", "same")
    )
    assert resumed.rounds_run == uninterrupted.rounds_run
    assert len(stages) == 4 + 14 + 6 - saved
    assert all(
        torch.equal(tensor, uninterrupted.collect_tensors()[name])
        for name, tensor in resumed.collect_tensors().items()
    )
    for name, array in resumed.build_reward_model().text_prior.arrays().items():
        np.testing.assert_array_equal(array, uninterrupted.build_reward_model().text_prior.arrays()[name])


def test_a_finished_fit_is_not_repeated(small, uninterrupted, tmp_path):
    data, checkpoint = (
        Dataset.from_judgements(small.judgements, small.vectors),
        Checkpoint(tmp_path / "work", "same"),
    )
    Fit(data, RESUMABLE).run(checkpoint=checkpoint)
    again = Fit(data, RESUMABLE).run(lambda *step: pytest.fail(str(step)), checkpoint)
    assert again.rounds_run == uninterrupted.rounds_run
    assert all(
        torch.equal(tensor, uninterrupted.collect_tensors()[name])
        for name, tensor in again.collect_tensors().items()
    )


def test_stages_of_one_checkpoint_do_not_mix(small, tmp_path):
    data, checkpoint = (
        Dataset.from_judgements(small.judgements, small.vectors),
        Checkpoint(tmp_path / "work", "same"),
    )
    first, second = (
        Fit(data, FitOptions(rank=rank, rounds=2)).run(checkpoint=checkpoint, stage=f"rank {rank}")
        for rank in (1, 2)
    )
    assert checkpoint.stages == 2
    assert (first.build_reward_model().rank, second.build_reward_model().rank) == (1, 2)


def test_the_device_is_an_option(small):
    data = Dataset.from_judgements(small.judgements, small.vectors)
    assert Fit(data, FitOptions()).device == torch.device("cpu")
    chosen = Fit(data, FitOptions(device="auto"))
    assert chosen.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert chosen.x.device.type == chosen.users.mean.device.type == chosen.device.type


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_fits_the_same_model(small, uninterrupted, tmp_path):
    data, checkpoint = (
        Dataset.from_judgements(small.judgements, small.vectors),
        Checkpoint(tmp_path / "work", "same"),
    )
    fit = Fit(data, replace(RESUMABLE, device="cuda")).run(checkpoint=checkpoint)
    utilities = [(f.users.mean @ f.items.mean.T).cpu().numpy() for f in (fit, uninterrupted)]
    assert correlation(*utilities) > 0.999
    reward = fit.build_reward_model()
    items = reward.describe(data.vectors, data.keys)
    assert np.isfinite(items.base).all()
    assert np.isfinite(reward.population.precisions).all()


def test_the_seed_of_the_start_hardly_affects_the_fit(planted, fit):
    """Directions may rotate, but utilities must stay."""
    other = fitted(planted, rank=2, seed=5)
    first, second = ((f.users.mean @ f.items.mean.T).numpy() for f in (fit, other))
    assert correlation(first, second) > 0.999


def test_fitting_leaves_the_global_random_state_alone(planted):
    before = torch.random.get_rng_state()
    fitted(planted, rank=2, rounds=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_there_may_be_more_directions_than_users_or_texts(plant):
    small = plant(n_users=4, n_texts=5, per_user=6)
    reward = fitted(small, rank=8).build_reward_model()
    items = catalogue(small, reward)
    assert reward.rank == 8
    assert np.isfinite(items.base).all()
    assert np.isfinite(items.directions).all()
    assert (items.direction_variance > 0).all()
    assert np.linalg.eigvalsh(reward.population.precisions[0]).min() > 0


@pytest.mark.parametrize("kind", ["pair", "rating", "vote", "choice", "ranking"])
def test_a_fit_needs_only_one_kind_of_judgement(plant, kind):
    planted = plant(seed=2, kinds=(kind,), n_users=80, taste=0.7)
    fit = fitted(planted, rank=1)
    assert correlation(catalogue(planted, fit.build_reward_model()).base, planted.base) > 0.8


def test_left_out_texts_are_not_learned(planted, fit):
    """For cross-validation over texts, neither the memory nor the text prior may use the left-out texts."""
    excluded = np.arange(len(fit.data.keys)) < 30
    reward, whole = fit.build_reward_model(excluded=excluded), fit.build_reward_model()
    assert set(reward.memory.rows) == set(fit.data.keys[30:])
    row = reward.memory.rows[fit.data.keys[40]]
    np.testing.assert_array_equal(
        reward.memory.means[row], whole.memory.means[whole.memory.rows[fit.data.keys[40]]]
    )
    # Changing the judgements of the left-out texts changes nothing.
    changed = Fit.__new__(Fit)
    changed.__dict__.update(fit.__dict__)
    changed.coordinate_messages = fit.coordinate_messages.clone()
    changed.coordinate_messages[0, :, :30] += 100.0  # targets of every coordinate
    np.testing.assert_array_equal(
        changed.build_reward_model(excluded=excluded).text_prior.arrays()["text.weights"],
        reward.text_prior.arrays()["text.weights"],
    )


def test_progress_reports_every_round(planted):
    steps: list[tuple[str, int, int]] = []
    Fit(Dataset.from_judgements(planted.judgements, planted.vectors), FitOptions(rank=1, rounds=3)).run(
        lambda *step: steps.append(step)
    )
    assert [stage for stage, _, _ in steps] == ["consensus"] * 4 + ["directions"] * 3
    assert [done for _, done, _ in steps] == list(range(1, 8))
    assert {total for _, _, total in steps} == {7}
    Fit(
        Dataset.from_judgements(planted.judgements, planted.vectors),
        FitOptions(rank=1, rounds=1, archetypes=2),
    ).run(lambda *step: steps.append(step))
    assert steps[-6:] == [("archetypes", done, 6) for done in range(1, 7)]


def test_two_sources_have_two_scales(plant):
    """The same users also rate on another scale. Offset and slope differ, utilities do not."""
    planted = plant(kinds=("rating",), seed=4)
    rows = [
        replace(j, source="other", value=2 * j.value - 0.1) if number % 2 else j
        for number, j in enumerate(planted.judgements)
    ]
    fit = Fit(Dataset.from_judgements(rows, planted.vectors), FitOptions(rank=2)).run()
    stars, other = (
        fit.build_reward_model().rating_scale("stars"),
        fit.build_reward_model().rating_scale("other"),
    )
    assert other.slope / stars.slope == pytest.approx(2.0, rel=0.15)
    unknown = fit.build_reward_model().rating_scale("unknown")
    assert unknown.slope == pytest.approx((stars.slope + other.slope) / 2)


def test_without_ratings_the_default_scale_spans_its_range(plant):
    scale = fitted(plant(kinds=("pair",), n_users=20), rank=0).build_reward_model().rating_scale()
    assert (scale.offset, scale.slope) == (0.0, 0.5)


def test_a_judgement_of_an_unknown_text_is_a_key_error(planted):
    with pytest.raises(KeyError):
        Dataset.from_judgements([Judgement("u", "", "vote", ("never encoded",), 1.0)], planted.vectors)


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
    reward = Fit(Dataset.from_judgements(rows, vectors), FitOptions(rank=rank)).run().build_reward_model()
    items = reward.describe(np.stack(list(vectors.values())))
    assert np.isfinite(items.base).all()
    assert np.isfinite(items.directions).all()
    assert (items.base_variance > 0).all()
    assert np.linalg.eigvalsh(reward.population.precisions[0]).min() > 0
    for scale in reward.scales.values():
        assert np.isfinite([scale.offset, scale.slope]).all()
        assert scale.slope > 0


# ---------------------------------------------------------------- relevance


@pytest.fixture(scope="module")
def relevant(asked) -> Fit:
    relevance = fit_relevance(asked.judgements, asked.table)
    assert relevance is not None
    return Fit(
        Dataset.from_judgements(asked.judgements, asked.table, relevance), FitOptions(rank=1, rounds=12)
    ).run()


def test_the_base_has_the_given_weights_of_the_match(relevant):
    """Shared judgements cannot move them: exactly the relevance fit decides."""
    relevance = relevant.data.relevance
    prior, matched = relevant.build_reward_model().text_prior, relevant.standardiser.matched
    assert relevance.weights.max() > 0
    np.testing.assert_array_equal(prior.weights[matched, 0], relevance.weights)
    assert np.abs(prior.weights[matched, 1]).max() > 0.01  # a learned direction may weigh the match
    # The base's weights of the match are known: they have next to no variance.
    assert prior.prior_variance[matched, 0].max() < 1e-5
    assert not prior.learned[0, matched].any()
    assert not relevant.get_regressors(0)[:, matched].any()
    assert relevant.get_regressors(1) is relevant.x


def test_the_known_base_is_the_worth_of_the_match(asked, relevant):
    relevance = relevant.data.relevance
    match = relevant.data.vectors[:, -relevance.basis.width :]
    worth = round_to_grid(relevance.basis(match)) @ relevance.weights
    np.testing.assert_allclose(relevant.known_base.numpy(), worth)
    assert len(match) == len(asked.table)
    assert relevant.known_base.std() > 0.1
    # What the text prior predicts for the base is the known part plus its regression on the text alone.
    prior = relevant.build_reward_model().text_prior
    others = np.ones(relevant.standardiser.width, bool)
    others[relevant.standardiser.matched] = False
    x = relevant.standardiser(relevant.data.vectors)
    own = x[:, others] @ prior.weights[others, 0]
    np.testing.assert_allclose(prior.predict(x)[0][:, 0], relevant.known_base.numpy() + own, atol=1e-9)


def test_the_match_has_its_columns_and_block(relevant):
    embedded, attributes, match, basis, constant = 32, len(ATTRIBUTE_NAMES), 2 * len(KNOTS), 0, 1
    if relevant.standardiser.basis is not None:
        basis = len(relevant.standardiser.basis.inducing)
    assert relevant.standardiser.widths == (embedded + attributes, match, basis, constant)
    sizes = [size for size in (embedded, attributes, match, basis, constant) if size]
    assert torch.bincount(relevant.blocks).tolist() == sizes
    assert all(len(hyper) == len(sizes) for hyper in relevant.hyper)
    assert relevant.x.shape == (len(relevant.data.keys), sum(sizes))


def test_without_relevance_the_match_is_left_out(asked):
    rows = asked.judgements[:200]
    options = FitOptions(rank=1, rounds=3)
    reading = Fit(Dataset.from_judgements(rows, asked.table), options).run()
    plain = {item: vector[: asked.table.dim] for item, vector in asked.table.items()}
    expected = Fit(Dataset.from_judgements(rows, plain), options).run()
    assert reading.standardiser.match is None
    assert not reading.known_base.any()
    arrays = expected.build_reward_model().text_prior.arrays()
    for name, array in reading.build_reward_model().text_prior.arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


def test_users_differ_in_relevance(asked, relevant):
    """A user who prefers near answers learns to expect near answers to new questions, and the other way round."""
    taste = Choice(tastes="relevance", taste_variance=1.0)
    reward = taste.apply(relevant.build_reward_model(with_memory=False), relevant)
    items = {
        side: reward.describe(
            np.stack([asked.table[item] for item in zip(asked.questions, texts, strict=True)])
        )
        for side, texts in (("near", asked.near), ("far", asked.far))
    }
    for sign, first, second in ((1, "near", "far"), (-1, "far", "near")):
        posterior = UserPosterior.at_prior(reward.population)
        for i in range(15):
            posterior = posterior.learn(Pair(items[first][i], items[second][i]))
        gain = [posterior.utility(items[side]).mean[15:] for side in ("near", "far")]
        assert sign * np.median(gain[0] - gain[1]) > 0


def test_an_interrupted_fit_with_relevance_continues_to_the_same_bits(asked, tmp_path):
    rows = asked.judgements[:200]
    data = Dataset.from_judgements(rows, asked.table, fit_relevance(rows, asked.table))
    options = FitOptions(rank=1, rounds=6)
    whole = Fit(data, options).run()

    def interrupt(_stage: str, done: int, _total: int) -> None:
        if done == 7:
            raise InterruptedFitError

    checkpoint = Checkpoint(tmp_path / "work", "same")
    with pytest.raises(InterruptedFitError):
        Fit(data, options).run(interrupt, checkpoint)
    resumed = Fit(data, options).run(checkpoint=checkpoint)
    for name, tensor in resumed.collect_tensors().items():
        assert torch.equal(tensor, whole.collect_tensors()[name])
