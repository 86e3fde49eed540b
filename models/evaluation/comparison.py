"""Is a new model better than the one in use? Both learn the same held-out users, and predict what else they said.

Who is held out is decided by the user's name alone, so that a user who was held out from one fit is held out from the
next: neither model has seen what it is asked.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from penchant.models.evaluation.few_shot import Predictions
from penchant.models.evaluation.split import TestPair, bucket, few_shot, group_by_user
from penchant.models.judgements.judgement import Judgement

HELD_OUT_SHARE: Final = 0.2
"""Of the users; they are never fitted on."""

TEST_SHARE: Final = 0.3
"""Of a held-out user's judgements; from the others both models learn the user."""

COMPARED_SHOTS: Final = (0, 3, 10, 30)
MOST_COMPARED: Final = 600
ERRORS: Final = 2.0
"""Standard errors that a difference must exceed to be called one."""

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Apart:
    """Judgements to fit on, and users set apart to compare on.

    Attributes:
        train: Judgements of the users who are fitted on.
        support: By held-out user, in the order in which they are learned.
        test: By held-out user, what is to be predicted.
        held_out: Users who were held out, those included who said too little to be compared on.
    """

    train: list[Judgement]
    support: dict[str, list[Judgement]]
    test: dict[str, list[TestPair]]
    held_out: int


def set_apart(judgements: Sequence[Judgement]) -> Apart:
    """Holds out a fifth of the users; the first 600 in a hashed order who said enough are compared on.

    Of their judgements a part chosen by hash is to be predicted: of texts that others judged as well as of texts that
    nobody else has seen, as it comes in service.
    """
    by_user = group_by_user(judgements)
    held_out = {user for user in by_user if bucket("held out", user) < HELD_OUT_SHARE}
    support: dict[str, list[Judgement]] = {}
    test: dict[str, list[TestPair]] = {}
    for user in sorted(held_out, key=lambda user: bucket("compared", user)):
        found = few_shot(by_user[user], _is_asked)
        if found is not None and len(test) < MOST_COMPARED:
            support[user], test[user] = found
    train = [j for j in judgements if not j.own and j.user not in held_out]
    return Apart(train, support, test, len(held_out))


def _is_asked(judgement: Judgement) -> bool:
    return bucket("asked", judgement.user, *judgement.texts) < TEST_SHARE


@dataclass(frozen=True)
class Shot:
    """Both models after k judgements of each held-out user; means over users.

    Attributes:
        k: Judgements learned of a user.
        accuracy: Of the new model, a tie counts half.
        current_accuracy: Of the one in use.
        accuracy_gain: New less current.
        accuracy_error: Standard error of that, paired by user.
        log_loss: Of the new model.
        current_log_loss: Of the one in use.
        log_loss_gain: Current less new: above 0 the new one is better.
        log_loss_error: Standard error of that, paired by user.
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
    """A new model against the one in use.

    Attributes:
        users: Held-out users compared on.
        pairs: Comparisons that were to be predicted.
        shots: By k.
        gain: Mean over users and k of the reduction in log-loss.
        gain_error: Its standard error over users.
        verdict: Whether the gain exceeds two standard errors, and in which direction.
    """

    users: int
    pairs: int
    shots: tuple[Shot, ...]
    gain: float
    gain_error: float
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a manifest."""
        plain = asdict(self)
        return plain | {"shots": [asdict(shot) for shot in self.shots]}


def compare(new: Predictions, current: Predictions) -> Comparison:
    """Compares predictions of the same pairs of the same users.

    Raises:
        ValueError: They are predictions of other pairs, or of fewer than two users.
    """
    if not np.array_equal(new.users, current.users) or list(new.better) != list(current.better):
        raise ValueError("the two models must have predicted the same pairs after the same judgements")
    users = int(new.users.max(initial=-1)) + 1
    if users < 2:
        raise ValueError(f"{users} users: a difference between models takes two")
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
        "better" if gain > ERRORS * error else "worse" if gain < -ERRORS * error else "undecided"
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
