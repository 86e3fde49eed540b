"""Comparison of two models on held-out users: the choice of users, the figures and the verdict."""

import numpy as np
import pytest

from penchant.models.evaluation.comparison import Comparison, compare, hold_out_users
from penchant.models.evaluation.few_shot import Predictions
from penchant.models.judgements.judgement import Judgement

TEXTS = [f"text {number}" for number in range(40)]


def rated(user: str, number: int) -> list[Judgement]:
    return [
        Judgement(user, "", "rating", (text,), value=float(i % 5), scale=(0.0, 4.0))
        for i, text in enumerate(TEXTS[:number])
    ]


def test_the_same_users_are_held_out_however_many_there_are() -> None:
    few = hold_out_users([j for n in range(100) for j in rated(f"u{n}", 30)])
    many = hold_out_users([j for n in range(300) for j in rated(f"u{n}", 30)])
    assert 0 < len(few.test) <= few.held_out < 40
    assert set(few.test) <= set(many.test)
    assert not {j.user for j in many.train} & set(many.test)
    assert len({j.user for j in many.train}) + many.held_out == 300


def test_a_user_with_few_judgements_is_held_out_but_not_compared_on() -> None:
    held_out = hold_out_users([j for n in range(100) for j in rated(f"u{n}", 8)])
    assert held_out.held_out > 0
    assert held_out.test == {}


def test_predicted_judgements_are_not_learned() -> None:
    held_out = hold_out_users([j for n in range(60) for j in rated(f"u{n}", 30)])
    for user, pairs in held_out.test.items():
        learned = {text for j in held_out.support[user] for text in j.texts}
        assert not learned & {text for pair in pairs for text in (pair.better, pair.worse)}


def predictions(better: list[list[float]], shots: tuple[int, ...] = (0,)) -> Predictions:
    """Return predictions for users with some pairs each, the same for every k."""
    users = np.concatenate([np.full(len(row), user) for user, row in enumerate(better)])
    flat = np.concatenate([np.array(row) for row in better])
    return Predictions(users, np.zeros((len(users), 2), np.int64), dict.fromkeys(shots, flat))


def test_figures_are_means_over_users_with_paired_errors() -> None:
    new, current = predictions([[0.8, 0.8], [0.4]]), predictions([[0.5, 0.4], [0.5]])
    comparison = compare(new, current)
    (shot,) = comparison.shots
    assert (comparison.users, comparison.pairs, shot.k) == (2, 3, 0)
    assert shot.accuracy == pytest.approx((1.0 + 0.0) / 2)
    assert shot.current_accuracy == pytest.approx((0.25 + 0.5) / 2)
    gains = [0.75, -0.5]
    assert shot.accuracy_gain == pytest.approx(np.mean(gains))
    assert shot.accuracy_error == pytest.approx(np.std(gains, ddof=1) / np.sqrt(2))
    losses = [-np.log(0.5 * 0.4) / 2 + np.log(0.8), -np.log(0.5) + np.log(0.4)]
    assert shot.log_loss_gain == pytest.approx(np.mean(losses)) == pytest.approx(comparison.gain)
    assert shot.log_loss_error == pytest.approx(np.std(losses, ddof=1) / np.sqrt(2))


@pytest.mark.parametrize(("new", "current", "verdict"), [(0.8, 0.6, "better"), (0.6, 0.8, "worse")])
def test_a_clear_difference_is_reported(new: float, current: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (30, 5))
    ours, baseline = (predictions((level + noise).tolist(), (0, 3)) for level in (new, current))
    assert compare(ours, baseline).verdict == verdict


def test_no_difference_is_reported_as_none() -> None:
    rng = np.random.default_rng(1)
    ours, baseline = (predictions(rng.uniform(0.3, 0.9, (30, 5)).tolist()) for _ in range(2))
    comparison = compare(ours, baseline)
    assert isinstance(comparison, Comparison)
    assert comparison.verdict == "undecided"
    assert comparison.to_json()["shots"][0]["k"] == 0


def test_other_pairs_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same pairs"):
        compare(predictions([[0.5], [0.5]]), predictions([[0.5, 0.5], [0.5]]))
    with pytest.raises(ValueError, match="at least two users"):
        compare(predictions([[0.5]]), predictions([[0.5]]))
