"""Figures agree with the shipped evaluation, and intervals have the expected properties."""

import numpy as np
import pytest

from benchmarks.personalization import metrics
from benchmarks.personalization.task import Asked
from penchant.models.evaluation.few_shot import Predictions
from penchant.models.evaluation.report import curve as shipped_curve
from penchant.models.evaluation.split import TestPair


def draw_pairs(
    rng: np.random.Generator, users: int = 30, pairs: int = 20, texts: int = 25, tag: str = ""
) -> Asked:
    test = {}
    for user in range(users):
        rows = [rng.choice(texts, 2, replace=False) for _ in range(pairs)]
        test[f"user {tag}{user}"] = [
            TestPair(f"context {user % 2}", f"text {a}", f"text {b}") for a, b in rows
        ]
    return Asked.of(test)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_figures_agree_with_the_shipped_evaluation(rng) -> None:
    pairs = [draw_pairs(rng), draw_pairs(rng)]
    better = [{k: rng.uniform(0.2, 0.9, len(a.users)) for k in (0, 3)} for a in pairs]
    better[0][3][:5] = 0.5  # ties count as half
    actual = metrics.curve(metrics.repetitions(pairs), better)
    expected = shipped_curve([Predictions(a.users, a.texts, b) for a, b in zip(pairs, better, strict=True)])
    for point in expected:
        assert actual.accuracy[point.k].figure().value == pytest.approx(point.accuracy, abs=1e-12)
        assert actual.log_loss[point.k].figure().value == pytest.approx(point.log_loss, abs=1e-12)
        assert actual.user_log_loss[point.k].figure().value == pytest.approx(point.user_log_loss, abs=1e-12)
        assert actual.calibration[point.k] == pytest.approx(point.calibration_error, abs=1e-12)
    assert (actual.users, actual.pairs) == (60, 1200)


def test_a_difference_is_paired(rng) -> None:
    pairs = draw_pairs(rng)
    base = rng.uniform(0.2, 0.9, len(pairs.users))
    drawn = metrics.repetitions([pairs])
    first = metrics.curve(drawn, [{0: base}])
    second = metrics.curve(drawn, [{0: base * 0.99}])
    gain = (second.user_log_loss[0] - first.user_log_loss[0]).figure()
    # Every pair loses −log 0.99 in every draw, so the interval has no width.
    assert gain.value == pytest.approx(-np.log(0.99), abs=1e-12)
    assert gain.low == pytest.approx(gain.high, abs=1e-5)


def test_repetitions_that_share_users_and_texts_are_not_independent_evidence(rng) -> None:
    pairs = draw_pairs(rng)
    better = {0: rng.uniform(0.2, 0.9, len(pairs.users))}

    def width(repetitions: list[Asked]) -> float:
        drawn = metrics.repetitions(repetitions)
        figure = metrics.curve(drawn, [better] * len(repetitions)).accuracy[0].figure()
        return figure.high - figure.low

    assert width([pairs] * 4) == pytest.approx(width([pairs]), rel=0.01)


def test_calibration_of_chance_shrinks_with_the_pairs(rng) -> None:
    few, many = (metrics.calibration_noise(rng.uniform(0.5, 1, n)) for n in (300, 30_000))
    # 15 bins of n/15 pairs: E|mean error| = √(2/π · p(1−p) · 15/n), some .44 of it at these probabilities.
    assert many == pytest.approx(few / 10, rel=0.35)
    assert 0.005 < many < 0.015


def test_accuracy_can_be_limited_to_one_context(rng) -> None:
    pairs = draw_pairs(rng)
    better = {0: np.where(pairs.contexts == 0, 0.9, 0.1)}
    drawn = metrics.repetitions([pairs])
    found = metrics.accuracy_among(drawn, [better], "context 0")
    assert found is not None
    accuracy, loss, users = found
    assert accuracy[0].figure() == metrics.Figure(1.0, 1.0, 1.0)
    assert loss[0].figure().value == pytest.approx(-np.log(0.9))
    assert users == 15
    assert metrics.accuracy_among(drawn, [better], "nowhere") is None
