"""Comparison of a new model with the one in use, on the same held-out users.

Whether a user is held out depends on their name alone. A user who is held out from one fit is also held out from the
next, so that neither model was fitted on the users it is tested on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from penchant.models.evaluation.few_shot import Predictions
from penchant.models.evaluation.split import TestPair, bucket, group_by_user, split_user
from penchant.models.judgements.judgement import Judgement

HELD_OUT_SHARE: Final = 0.2
"""Share of users who are held out and never fitted on."""

TEST_SHARE: Final = 0.3
"""Share of a held-out user's judgements that are predicted. Both models learn the user from the others."""

COMPARED_SHOTS: Final = (0, 3, 10, 30)
MAX_COMPARED_USERS: Final = 600
SIGNIFICANT_ERRORS: Final = 2.0
"""Number of standard errors that a difference must exceed to count."""

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class HeldOutUsers:
    """Judgements to fit on, and held-out users to compare models on.

    Attributes:
        train: Judgements of the users who are fitted on.
        support: Judgements of each compared user, in the order in which they are learned.
        test: Pairs to predict of each compared user.
        held_out: Number of held-out users, including those with too few judgements to be compared.
    """

    train: list[Judgement]
    support: dict[str, list[Judgement]]
    test: dict[str, list[TestPair]]
    held_out: int


def hold_out_users(judgements: Sequence[Judgement]) -> HeldOutUsers:
    """Hold out a fifth of the users. The first 600 in a hashed order who have enough judgements are compared.

    A part of their judgements, chosen by hash, is to be predicted. As in service, it includes texts that other users
    judged and texts that nobody else did.
    """
    by_user = group_by_user(judgements)
    held_out = {user for user in by_user if bucket("held out", user) < HELD_OUT_SHARE}
    support: dict[str, list[Judgement]] = {}
    test: dict[str, list[TestPair]] = {}
    for user in sorted(held_out, key=lambda user: bucket("compared", user)):
        parts = split_user(by_user[user], _is_test)
        if parts is not None and len(test) < MAX_COMPARED_USERS:
            support[user], test[user] = parts
    train = [j for j in judgements if not j.own and j.user not in held_out]
    return HeldOutUsers(train, support, test, len(held_out))


def _is_test(judgement: Judgement) -> bool:
    return bucket("asked", judgement.user, *judgement.texts) < TEST_SHARE


@dataclass(frozen=True)
class Shot:
    """Figures of both models after k judgements of each held-out user, means over users.

    Attributes:
        k: Number of judgements learned of each user.
        accuracy: Accuracy of the new model; a tie counts half.
        current_accuracy: Accuracy of the model in use.
        accuracy_gain: Accuracy of the new model minus that of the model in use.
        accuracy_error: Standard error of the accuracy gain, paired by user.
        log_loss: Log-loss of the new model.
        current_log_loss: Log-loss of the model in use.
        log_loss_gain: Log-loss of the model in use minus that of the new one: positive if the new one is better.
        log_loss_error: Standard error of the log-loss gain, paired by user.
    """

    k: int
    accuracy: float
    current_accuracy: float
    accuracy_gain: float
    accuracy_error: float
    log_loss: float
    current_log_loss: float
    log_loss_gain: float
    log_loss_error: float


@dataclass(frozen=True)
class Comparison:
    """Result of comparing a new model with the one in use.

    Attributes:
        users: Number of users compared.
        pairs: Number of predicted pairs.
        shots: Figures for each k.
        gain: Mean reduction in log-loss over users and k.
        gain_error: Standard error of the gain over users.
        verdict: `better` or `worse` if the gain differs from 0 by more than two standard errors, else `undecided`.
    """

    users: int
    pairs: int
    shots: tuple[Shot, ...]
    gain: float
    gain_error: float
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a manifest."""
        plain = asdict(self)
        return plain | {"shots": [asdict(shot) for shot in self.shots]}


def compare(new: Predictions, current: Predictions) -> Comparison:
    """Return the comparison of two models' predictions of the same pairs.

    Raises:
        ValueError: If the predictions are of different pairs, or of fewer than two users.
    """
    if not np.array_equal(new.users, current.users) or list(new.better) != list(current.better):
        raise ValueError("the two models must have predicted the same pairs after the same judgements")
    users = int(new.users.max(initial=-1)) + 1
    if users < 2:
        raise ValueError(f"a comparison of models needs at least two users, not {users}")
    shots, gains = [], []
    for k, better in new.better.items():
        accuracy, log_loss = _by_user(new.users, better)
        current_accuracy, current_log_loss = _by_user(current.users, current.better[k])
        gains.append(current_log_loss - log_loss)
        shots.append(
            Shot(
                k=k,
                accuracy=float(accuracy.mean()),
                current_accuracy=float(current_accuracy.mean()),
                accuracy_gain=float((accuracy - current_accuracy).mean()),
                accuracy_error=_error(accuracy - current_accuracy),
                log_loss=float(log_loss.mean()),
                current_log_loss=float(current_log_loss.mean()),
                log_loss_gain=float(gains[-1].mean()),
                log_loss_error=_error(gains[-1]),
            )
        )
    overall = np.mean(gains, axis=0)
    gain, error = float(overall.mean()), _error(overall)
    verdict: Verdict = (
        "better"
        if gain > SIGNIFICANT_ERRORS * error
        else "worse"
        if gain < -SIGNIFICANT_ERRORS * error
        else "undecided"
    )
    return Comparison(users, len(new.users), tuple(shots), gain, error, verdict)


def _by_user(
    users: NDArray[np.int64], better: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy and log-loss `[n_users]`."""
    counts = np.bincount(users)
    hits = np.where(better == 0.5, 0.5, (better > 0.5).astype(np.float64))
    losses = -np.log(np.maximum(better, 1e-12))
    return np.bincount(users, hits) / counts, np.bincount(users, losses) / counts


def _error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)
