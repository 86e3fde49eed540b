"""Few-shot evaluation: figures computed by hand, intervals, harm, and honesty probes on planted tastes."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from penchant.models.evaluation.few_shot import (
    Adapted,
    Catalogue,
    Forecast,
    Predictions,
    adapt,
    observe,
    predict,
)
from penchant.models.evaluation.report import Report, calibration_error, curve
from penchant.models.evaluation.split import split
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.judgements.judgement import Judgement
from penchant.models.ranking.selection import preference_logits, preference_probability
from penchant.models.taste.items import item_key
from penchant.models.taste.observations import Pair, Ranking, Rating, Vote
from penchant.models.taste.posterior import UserPosterior
from penchant.models.testing import tiny_bundle


def many(
    better: dict[int, list[float]], *, users: np.ndarray | None = None, n_texts: int = 40
) -> Predictions:
    """Return predictions for pairs of texts drawn from a pool, so that a bootstrap of texts keeps some pairs."""
    n = len(next(iter(better.values())))
    rng = np.random.default_rng(n)
    texts = np.array([rng.choice(n_texts, 2, replace=False) for _ in range(n)])
    return Predictions(
        np.array(users if users is not None else [0] * n), texts, {k: np.array(v) for k, v in better.items()}
    )


# ---------------------------------------------------------------- by hand


def test_accuracy_and_log_loss_by_hand():
    """Half of the users have hit, miss, tie, certain hit, half hit, miss. Accuracy averages users, log-loss pairs."""
    first, second = [0.8, 0.4, 0.5, 1.0] * 5, [0.9, 0.1] * 5
    users = np.repeat(np.arange(8), [20, 10] * 4)
    (point,) = curve([many({0: (first + second) * 4}, users=users, n_texts=12)])
    assert point.k == 0
    assert point.accuracy == pytest.approx(((1 + 0 + 0.5 + 1) / 4 + (1 + 0) / 2) / 2)
    assert point.log_loss == pytest.approx(-np.log(first + second).mean())
    assert point.user_log_loss == pytest.approx(-(np.log(first).mean() + np.log(second).mean()) / 2)
    assert point.harmed == 0.0


def test_repetitions_are_averaged():
    good, bad = many({0: [0.9] * 60}), many({0: [0.2] * 60})
    (point,) = curve([good, bad, bad])
    assert point.accuracy == pytest.approx(1 / 3)
    assert point.log_loss == pytest.approx(-(np.log(0.9) + 2 * np.log(0.2)) / 3)


def test_a_certain_mistake_costs_a_finite_loss():
    (point,) = curve([many({0: [0.0] * 60})])
    assert point.log_loss == pytest.approx(-np.log(1e-12))


def test_calibration_error_by_hand():
    # Fifteen bins of two, confidence .9 and right half of the time in each: gap .4.
    assert calibration_error(np.array([0.9, 0.1] * 15)) == pytest.approx(0.4)
    # Confidence .5 and a tie: exactly calibrated.
    assert calibration_error(np.full(30, 0.5)) == 0.0
    # Always right at confidence .7: gap .3.
    assert calibration_error(np.full(45, 0.7)) == pytest.approx(0.3)
    # Bins of four; eight of them at .6 with half right (gap .1), seven at .99 all right (gap .01).
    sixty = np.concatenate([np.tile([0.6, 0.4], 16), np.full(28, 0.99)])
    assert calibration_error(sixty) == pytest.approx((32 * 0.1 + 28 * 0.01) / 60)


def test_a_calibrated_predictor_has_little_error_with_many_pairs(rng):
    probability = rng.uniform(size=50_000)
    better = np.where(rng.random(50_000) < probability, probability, 1 - probability)
    assert calibration_error(better) < 0.01
    # Overconfidence is detected on both sides of ½.
    bolder = better**2 / (better**2 + (1 - better) ** 2)
    assert calibration_error(bolder) > 0.08
    np.testing.assert_allclose(calibration_error(bolder[::-1]), calibration_error(bolder), atol=1e-3)


# ---------------------------------------------------------------- intervals and harm


def test_intervals_hold_the_estimate_and_shrink_with_users(rng):
    widths = []
    for n_users in (6, 60):
        users = np.repeat(np.arange(n_users), 12)
        probability = np.clip(rng.normal(0.6, 0.25, len(users)), 0.02, 0.98)
        found = many({0: probability, 3: np.clip(probability + 0.05, 0, 1)}, users=users, n_texts=80)
        for point in curve([found, found]):
            assert point.accuracy_interval[0] < point.accuracy < point.accuracy_interval[1]
            assert point.log_loss_interval[0] < point.log_loss < point.log_loss_interval[1]
        widths.append(np.ptp(curve([found])[0].accuracy_interval))
    assert widths[1] < 0.6 * widths[0]


def test_a_handful_of_pairs_has_finite_intervals():
    """A bootstrap draw may contain none of the eight pairs of two users. It must not turn the interval into NaN."""
    texts = np.arange(16).reshape(8, 2)
    (point,) = curve([Predictions(np.repeat([0, 1], 4), texts, {0: np.array([0.7, 0.6, 0.2, 0.9] * 2)})])
    assert np.isfinite([*point.accuracy_interval, *point.log_loss_interval]).all()


def test_intervals_are_determined_by_their_seed():
    found = many({0: [0.9, 0.4, 0.6, 0.2] * 20})
    assert curve([found], seed=1) == curve([found], seed=1)
    assert curve([found], seed=1)[0].accuracy_interval != curve([found], seed=2)[0].accuracy_interval


def test_few_texts_widen_the_interval(rng):
    """The texts are a sample too, so hits that depend on the text rather than the pair must widen the interval."""
    users = np.repeat(np.arange(40), 20)
    easy = rng.random(200) < 0.6
    widths = []
    for n_texts in (8, 200):
        texts = np.array([rng.choice(n_texts, 2, replace=False) for _ in users])
        better = np.where(easy[texts[:, 0]], 0.9, 0.3)
        (point,) = curve([Predictions(users, texts, {0: better})])
        widths.append(np.ptp(point.accuracy_interval))
    assert widths[0] > 1.5 * widths[1]


def test_only_real_harm_is_detected(rng):
    """Of ten users three get much worse with labels, three get better, and four change by noise only."""
    users = np.repeat(np.arange(10), 40)
    before = rng.uniform(0.45, 0.75, 400)
    noise = rng.normal(0, 0.02, 400)
    shift = np.select([users < 3, users < 6], [-0.25, 0.2], 0.0)
    start, after = curve([many({0: before, 10: before + shift + noise}, users=users)])
    assert start.harmed == 0.0
    assert after.harmed == pytest.approx(0.3)


def test_harm_needs_evidence():
    """Three pairs can never prove harm at p < .01, even if all of them get much worse."""
    users = np.repeat(np.arange(12), 3)
    _, after = curve([many({0: [0.9] * 36, 3: [0.1] * 36}, users=users)])
    assert after.harmed == 0.0


def test_a_report_is_plain_data():
    report = Report("set", "cold", 1, 3, "b-0", curve([many({0: [0.9] * 60, 3: [0.8] * 60})]))
    plain = report.to_json()
    assert plain["set"] == "set"
    assert [point["k"] for point in plain["curve"]] == [0, 3]
    assert {"accuracy", "log_loss", "accuracy_interval", "calibration_error"} <= plain["curve"][0].keys()


# ---------------------------------------------------------------- learning and predicting


@pytest.fixture(scope="module")
def planted(plant):
    return plant(kinds=("pair", "rating"), per_user=60, n_users=100, n_texts=70, seed=6)


@pytest.fixture(scope="module")
def parts(planted):
    return split(planted.judgements, "warm", 0)


@pytest.fixture(scope="module")
def reward(planted, parts):
    return (
        Fit(Dataset.from_judgements(parts.train, planted.vectors), FitOptions(rank=2))
        .run()
        .build_reward_model()
    )


def accuracy(reward, planted, support, test, shots=(0, 30)) -> dict[int, float]:
    points = curve([predict(reward, adapt(reward, planted.vectors, support, test, shots=shots))])
    return {point.k: point.accuracy for point in points}


def test_labels_help_and_flipped_labels_hurt(planted, parts, reward):
    """In the honesty probes, flipped labels score below k = 0, and another user's labels are no better than none."""
    plain = accuracy(reward, planted, parts.support, parts.test)
    assert plain[30] > plain[0] + 0.05

    def flipped(j: Judgement) -> Judgement:
        if j.kind == "pair":
            return replace(j, texts=j.texts[::-1])
        return replace(j, value=2 * planted.stars[0] - j.value)

    wrong = {user: [flipped(j) for j in rows] for user, rows in parts.support.items()}
    assert accuracy(reward, planted, wrong, parts.test)[30] < plain[0] - 0.05
    users = list(parts.support)
    swapped = dict(zip(users, [parts.support[u] for u in [*users[1:], users[0]]], strict=True))
    assert accuracy(reward, planted, swapped, parts.test)[30] < plain[0] + 0.01


def test_accuracy_and_loss_improve_with_every_step(planted, parts, reward):
    points = curve(
        [predict(reward, adapt(reward, planted.vectors, parts.support, parts.test, shots=(0, 3, 10, 30)))]
    )
    assert (np.diff([p.accuracy for p in points]) > 0).all()
    assert (np.diff([p.log_loss for p in points]) < 0).all()
    assert points[-1].calibration_error < 0.05
    assert points[-1].harmed <= 0.05


def test_adaptation_equals_learning_one_by_one(planted, parts, reward):
    user = next(iter(parts.test))
    pairs_of_user = {user: parts.test[user]}
    (adapted,) = adapt(reward, planted.vectors, parts.support, pairs_of_user, shots=(5, 0, 1000))
    catalogue = Catalogue(reward, planted.vectors)
    posterior = UserPosterior.at_prior(reward.population)
    expected = {0: posterior}
    for number, judgement in enumerate(parts.support[user], start=1):
        posterior = posterior.learn(observe(judgement, reward, catalogue))
        expected[number] = posterior
    assert posterior.changes == 0
    assert adapted.beliefs.keys() == {0, 5, 1000}
    for k, of in (
        (0, 0),
        (5, 5),
        (1000, len(parts.support[user])),
    ):  # a k beyond the number of labels means all labels
        found, beliefs = adapted.beliefs[k], expected[of].beliefs
        np.testing.assert_allclose(found.weights, beliefs.weights, atol=1e-9)
        np.testing.assert_allclose(found.means, beliefs.means, atol=1e-7)
        np.testing.assert_allclose(found.covariances, beliefs.covariances, atol=1e-7)
    direct = preference_probability(reward, expected[5], adapted.better, adapted.worse)
    np.testing.assert_allclose(predict(reward, [adapted]).better[5], direct, rtol=1e-6)
    assert adapted.texts.shape == (len(parts.test[user]), 2)


def test_a_forecast_serves_every_temperature(planted, parts, reward):
    adapted: list[Adapted] = adapt(reward, planted.vectors, parts.support, parts.test, shots=(0, 10))
    forecast = Forecast(adapted)
    for temperature in (0.5, 1.0, 2.0):
        direct = predict(replace(reward, temperature=temperature), adapted)
        found = forecast.predict(temperature)
        np.testing.assert_array_equal(found.users, direct.users)
        np.testing.assert_array_equal(found.texts, direct.texts)
        for k in (0, 10):
            np.testing.assert_array_equal(found.better[k], direct.better[k])
            one_by_one = [
                a.beliefs[k].weights @ expit(temperature * preference_logits(a.beliefs[k], a.better, a.worse))
                for a in adapted
            ]
            np.testing.assert_allclose(found.better[k], np.concatenate(one_by_one), rtol=1e-12)


def test_lists_are_learned_along_with_other_judgements(planted, parts, reward):
    """A user who also ranks three texts is learned as the service does it. Other users are unaffected."""
    users = list(parts.test)[:4]
    context = planted.judgements[0].context
    support = {user: list(parts.support[user]) for user in users}
    lists = [
        Judgement(users[1], context, "ranking", tuple(planted.texts[:3])),
        Judgement(users[1], context, "choice", tuple(planted.texts[5:9]), groups=(1, 3)),
        Judgement(users[1], context, "edit", tuple(planted.texts[10:12]), weight=0.0),
    ]
    support[users[1]] = [*support[users[1]][:2], *lists, *support[users[1]][2:]]
    test = {user: parts.test[user] for user in users}
    adapted = adapt(reward, planted.vectors, support, test, shots=(0, 5, 12))
    plain = adapt(reward, planted.vectors, parts.support, test, shots=(0, 5, 12))
    catalogue = Catalogue(reward, planted.vectors)
    posterior, learned = UserPosterior.at_prior(reward.population), 0
    for k in (0, 5, 12):
        for judgement in support[users[1]][learned:k]:
            observation = observe(judgement, reward, catalogue)
            assert (observation is None) == (judgement.weight == 0)
            posterior = posterior if observation is None else posterior.learn(observation)
        learned = k
        np.testing.assert_array_equal(adapted[1].beliefs[k].means, posterior.beliefs.means)
        for number in (0, 2, 3):
            np.testing.assert_allclose(
                adapted[number].beliefs[k].means, plain[number].beliefs[k].means, atol=1e-9
            )


def test_progress_reports_every_shot(planted, parts, reward):
    steps: list[tuple[str, int, int]] = []
    adapt(
        reward,
        planted.vectors,
        parts.support,
        parts.test,
        shots=(0, 3, 10),
        progress=lambda *step: steps.append(step),
    )
    assert steps == [("learn", done, 3) for done in (1, 2, 3)]


def test_judgements_are_learned_in_their_native_form(extractor):
    reward = tiny_bundle(extractor).reward
    texts = ["a", "b", "c"]
    vectors = {("q", t): v for t, v in zip(texts, extractor.extract(texts).vectors, strict=True)}
    catalogue = Catalogue(reward, vectors)
    keys = [item_key("q", t) for t in texts]

    def observe_judgement(kind: str, *texts: str, value: float = 0.0):
        return observe(Judgement("u", "q", kind, texts, value, (1.0, 5.0)), reward, catalogue)

    rating = observe_judgement("rating", "a", value=4.0)
    assert isinstance(rating, Rating)
    assert (rating.item.keys, rating.value, rating.scale) == ((keys[0],), 0.5, reward.rating_scale())
    vote = observe_judgement("vote", "b", value=-1.0)
    assert isinstance(vote, Vote)
    assert (vote.item.keys, vote.value) == ((keys[1],), -1)
    ranking = observe_judgement("ranking", "c", "a", "b")
    assert isinstance(ranking, Ranking)
    assert (ranking.items.keys, ranking.groups) == ((keys[2], keys[0], keys[1]), (1, 1, 1))
    assert observe_judgement("ranking", "c", "c", "c") is None
    edit = observe_judgement("edit", "b", "a")
    assert isinstance(edit, Pair)
    assert (edit.winner.keys[0], edit.loser.keys[0]) == (keys[1], keys[0])
    np.testing.assert_array_equal(catalogue.select([("q", "c"), ("q", "a")]).keys, [keys[2], keys[0]])
