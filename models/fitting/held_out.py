"""Held-out users of a fit, from whom its hyperparameters are chosen."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.evaluation.few_shot import Adapted, Vectors, adapt
from penchant.models.evaluation.split import Mode, TestPair, bucket, group_by_user, split_user
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import item_key
from penchant.models.taste.reward import RewardModel

SHOTS: Final = (0, 3, 10, 30, 100)
HELD_OUT_USERS: Final = 0.25
MOST_USERS: Final[Mapping[Mode, int]] = {"cold": 120, "warm": 400}
"""Largest number of held-out users. In `cold` mode each of them is evaluated in five folds, in `warm` mode in one."""

FOLDS: Final = 5


class HeldOutUsers:
    """Held-out users, with their support judgements and test pairs in each fold.

    Args:
        judgements: Judgements of all users.
        vectors: Features of every judged (context, text).
        mode: `cold` or `warm`.

    Attributes:
        train: Judgements of the other users.
        users: Names of the held-out users with enough judgements.
    """

    def __init__(self, judgements: Sequence[Judgement], vectors: Vectors, mode: Mode) -> None:
        self.vectors = vectors
        self._cold = mode == "cold"
        by_user = group_by_user(judgements)
        left_out = {user for user in by_user if bucket("inner", "user", user) < HELD_OUT_USERS}
        sources = {j.source: 0 for j in judgements}
        self._folds: list[tuple[dict[str, list[Judgement]], dict[str, list[TestPair]]]] = []
        self.users: list[str] = []
        tasks = [_make_fold_test(f) for f in range(FOLDS)] if self._cold else [_is_held_out_cell]
        self._folds = [({}, {}) for _ in tasks]
        for user in sorted(left_out, key=lambda user: bucket("inner", "order", user)):
            source = by_user[user][0].source if by_user[user] else ""
            found = [split_user(by_user[user], task) for task in tasks]
            # Every source contributes at most the same number of users, or the largest would decide alone.
            if not any(found) or sources[source] >= MOST_USERS[mode] // len(sources):
                continue
            sources[source] += 1
            self.users.append(user)
            for (support, test), answer in zip(self._folds, found, strict=True):
                if answer is not None:
                    support[user], test[user] = answer
        self.train = [
            j
            for j in judgements
            if not j.own and j.user not in left_out and (self._cold or not _is_held_out_cell(j))
        ]

    def build_reward_models(self, fit: Fit) -> list[RewardModel]:
        """Build a reward model for each fold from a fit to the other users, in `cold` mode without the fold's texts."""
        if not self._cold:
            return [fit.build_reward_model()]
        return [
            fit.build_reward_model(excluded=self._mask_fold_items(fit.data, number))
            for number in range(FOLDS)
        ]

    def split_train(self) -> list[list[Judgement]]:
        """Return the judgements of the other users for each fold, in `cold` mode without those of the fold's texts."""
        if not self._cold:
            return [self.train]
        tests = [_make_fold_test(number) for number in range(FOLDS)]
        return [[j for j in self.train if not is_in_fold(j)] for is_in_fold in tests]

    def adapt(self, rewards: Sequence[RewardModel]) -> list[Adapted]:
        """Adapt the reward model of each fold to the held-out users by their support judgements."""
        adapted = []
        for reward, (support, test) in zip(rewards, self._folds, strict=True):
            if not test:
                continue
            needed_texts = {
                (p.context, t) for pairs in test.values() for p in pairs for t in (p.better, p.worse)
            }
            needed_texts |= {
                (j.context, t) for rows in support.values() for j in rows[: max(SHOTS)] for t in j.texts
            }
            needed = {item: self.vectors[item] for item in sorted(needed_texts)}
            adapted += adapt(reward, needed, support, test, shots=SHOTS)
        return adapted

    def _mask_fold_items(self, data: Dataset, fold: int) -> NDArray[np.bool_]:
        left_out = {item_key(context, text) for context, text in self.vectors if _assign_fold(text) == fold}
        return np.array([key in left_out for key in data.keys], np.bool_)


@lru_cache(maxsize=1 << 17)
def _assign_fold(text: str) -> int:
    return int(bucket("inner", "fold", text) * FOLDS)


def _make_fold_test(number: int) -> Callable[[Judgement], bool]:
    return lambda judgement: any(_assign_fold(text) == number for text in judgement.texts)


def _is_held_out_cell(judgement: Judgement) -> bool:
    return bucket("inner", "cell", judgement.user, *judgement.texts) < 0.3
