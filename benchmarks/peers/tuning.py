"""Tuning of a peer on its training users. A quarter of them is held out, together with texts (cold) or cells (warm).

The held-out users learn from k of their judgements, and their held-out comparisons are predicted, as in the test. The
setting with the least mean log-loss is chosen, each setting at its best temperature. The temperature is kept, so every
peer is calibrated. Its publication does not calibrate it; without calibration, confident peers lose far more in
log-loss.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from torch import Tensor

from benchmarks.peers.comparisons import SUPPORT_PAIRS, TRAIN_PAIRS, Catalogue, Comparisons
from benchmarks.personalization.data import Vectors
from penchant.models.evaluation.split import Mode, Split, TestPair, bucket, group_by_user, test_pairs
from penchant.models.judgements.judgement import Judgement

Setting = tuple[Any, ...]

VALIDATION_USERS: Final = 150
VALIDATION_SHOTS: Final = (0, 3, 30)
TEXT_FOLDS: Final = 5
"""Number of folds of texts. In `cold`, a fifth of the texts is held out. The choice of texts moves the log-loss by
points, so several folds are used: all five for a cheap peer, two for an expensive one."""

MIN_SUPPORT: Final = 3
"""Minimum judgements that a held-out user must have to learn from."""

MIN_PAIRS: Final = 100
"""With fewer held-out comparisons, the published setting is used at temperature 1."""

LOG_TEMPERATURES: Final = (-4.0, 4.0)


class Model(Protocol):
    """A fitted peer."""

    @property
    def setting(self) -> Setting:
        """Setting that it was fitted with."""
        ...

    def logits(self, x: Tensor, support: Comparisons, asked: Comparisons) -> Tensor:
        """Return the logit `[n]` of winner ≻ loser for every pair asked, each user having learned from their support."""
        ...


class Peer(Protocol):
    """A peer that fits models of different settings, so that a path of settings costs one fit.

    Attributes:
        published: The published setting, which is used without tuning.
        text_folds: Number of folds of texts used to choose in `cold`.
    """

    published: Setting
    text_folds: int

    def fit(self, x: Tensor, train: Comparisons, settings: Sequence[Setting] | None) -> Iterator[Model]:
        """Fit models on comparisons.

        Args:
            x: `[n_items, d]` features.
            train: Comparisons of the training users.
            settings: Settings to fit. None for all that are worth trying.
        """
        ...


@dataclass(frozen=True)
class Tuned:
    """The predictions of a tuned peer.

    Attributes:
        better: By k, `[n]` P(better ≻ worse).
        setting: Chosen setting.
        temperature: Chosen temperature.
        validation_users: Number of held-out users that the choice is based on.
        trials: Mean validation log-loss of every setting.
    """

    better: dict[int, NDArray[np.float64]]
    setting: Setting
    temperature: float
    validation_users: int
    trials: dict[str, float]


@dataclass(frozen=True)
class _Problem:
    x: Tensor
    train: Comparisons
    support: dict[int, Comparisons]
    asked: Comparisons

    @classmethod
    def of(
        cls,
        vectors: Vectors,
        train: Sequence[Judgement],
        support: Mapping[str, Sequence[Judgement]],
        test: Mapping[str, Sequence[TestPair]],
        shots: Sequence[int],
    ) -> "_Problem":
        catalogue = Catalogue(vectors, train)
        first = {
            k: catalogue.comparisons({user: support[user][:k] for user in test}, most=SUPPORT_PAIRS)
            for k in shots
        }
        pairs = catalogue.comparisons(group_by_user(train), most=TRAIN_PAIRS)
        return cls(catalogue.x, pairs, first, catalogue.asked(test))

    def logits(self, model: Model) -> dict[int, NDArray[np.float64]]:
        with torch.no_grad():
            return {
                k: model.logits(self.x, first, self.asked).double().numpy()
                for k, first in self.support.items()
            }


def predict(peer: Peer, vectors: Vectors, parts: Split, mode: Mode, shots: Sequence[int]) -> Tuned:
    """Tune a peer within the training part, fit it on the whole training part, and predict the test pairs."""
    folds = list(_folds(vectors, parts.train, mode, peer.text_folds))
    users = sum(fold.asked.n_users for fold in folds)
    setting, temperature, trials = peer.published, 1.0, {}
    if sum(len(fold.asked) for fold in folds) >= MIN_PAIRS:
        tried: dict[Setting, list[dict[int, NDArray[np.float64]]]] = {}
        for fold in folds:
            for model in peer.fit(fold.x, fold.train, None):
                tried.setdefault(model.setting, []).append(fold.logits(model))
        found = {name: _best_temperature(logits) for name, logits in tried.items()}
        setting = min(found, key=lambda name: found[name][1])
        temperature = found[setting][0]
        trials = {repr(name): round(loss, 5) for name, (_, loss) in found.items()}
    problem = _Problem.of(vectors, parts.train, parts.support, parts.test, shots)
    (model,) = peer.fit(problem.x, problem.train, [setting])
    better = {k: expit(temperature * logits) for k, logits in problem.logits(model).items()}
    return Tuned(better, setting, temperature, users, trials)


def _folds(vectors: Vectors, train: Sequence[Judgement], mode: Mode, text_folds: int) -> Iterator[_Problem]:
    by_user = group_by_user(train)
    left_out = [user for user in by_user if bucket("peers", "user", user) < 0.25]
    left_out = sorted(left_out, key=lambda user: bucket("peers", "order", user))
    others = set(by_user) - set(left_out)
    for number in range(text_folds if mode == "cold" else 1):

        def held_out(judgement: Judgement, number: int = number) -> bool:
            if mode == "warm":
                return bucket("peers", "cell", judgement.user, *judgement.texts) < 0.3
            return any(int(bucket("peers", "fold", t) * TEXT_FOLDS) == number for t in judgement.texts)

        support: dict[str, list[Judgement]] = {}
        test: dict[str, list[TestPair]] = {}
        for user in left_out:
            kept = [j for j in by_user[user] if not held_out(j)]
            pairs = test_pairs([j for j in by_user[user] if held_out(j)])
            if len(support) < VALIDATION_USERS and len(kept) >= MIN_SUPPORT and pairs:
                support[user] = sorted(kept, key=lambda j: bucket("peers", "order", j.user, *j.texts))
                test[user] = pairs
        rest = [j for user in by_user if user in others for j in by_user[user] if not held_out(j)]
        if test and rest:
            yield _Problem.of(vectors, rest, support, test, VALIDATION_SHOTS)


def _best_temperature(folds: Sequence[Mapping[int, NDArray[np.float64]]]) -> tuple[float, float]:
    """Return the temperature with the least log-loss and that loss, as a mean over folds and shots."""

    def loss(log_temperature: float) -> float:
        scale = np.exp(log_temperature)
        return float(
            np.mean([np.logaddexp(0, -scale * each).mean() for by_k in folds for each in by_k.values()])
        )

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded", options={"xatol": 0.01})
    return float(np.exp(found.x)), float(found.fun)
