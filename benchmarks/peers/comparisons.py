"""Judgements as comparisons: index arrays into one matrix of features."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.personalization.data import Vectors
from penchant.models.evaluation.split import TestPair
from penchant.models.judgements.judgement import Judgement

TRAIN_PAIRS: Final = 100
"""Maximum pairs of a training user. A hundred ratings are thousands of dependent pairs. LoRe's cap on TLDR is 150."""

SUPPORT_PAIRS: Final = 200
"""Maximum pairs of a user who adapts."""

CLIP: Final = 4.0


@dataclass(frozen=True)
class Comparisons:
    """n comparisons of U users.

    Attributes:
        users: `[n]` index of the user.
        winners: `[n]` row of the winner in the feature matrix.
        losers: `[n]` row of the loser in the feature matrix.
        n_users: U.
    """

    users: Tensor
    winners: Tensor
    losers: Tensor
    n_users: int

    def __len__(self) -> int:
        return len(self.users)

    def of_first(self, n: int) -> "Comparisons":
        """Return the comparisons of the first n users."""
        kept = self.users < n
        return Comparisons(self.users[kept], self.winners[kept], self.losers[kept], min(n, self.n_users))


class Catalogue:
    """Features of every (context, text). An unknown feature, such as the match without a prompt, counts as the mean.

    Attributes:
        x: `[n_items, d]` float32, standardised on the items of the training judgements, clipped; constant columns are 0.
    """

    def __init__(self, vectors: Vectors, train: Sequence[Judgement]) -> None:
        self._rows = {item: row for row, item in enumerate(vectors)}
        wide = np.stack(list(vectors.values())).astype(np.float64)
        seen = sorted({self._rows[j.context, text] for j in train for text in j.texts})
        known = ~np.isnan(wide)
        mean = np.nansum(wide[seen], axis=0) / np.maximum(known[seen].sum(axis=0), 1)
        wide = np.where(known, wide, mean)
        centre, scale = wide[seen].mean(axis=0), wide[seen].std(axis=0)
        varies = (wide[seen] != np.median(wide[seen], axis=0)).mean(axis=0) > 5e-3
        scale = np.where(varies & (scale > 1e-6), scale, np.inf)
        self.x: Tensor = torch.from_numpy(np.clip((wide - centre) / scale, -CLIP, CLIP)).float()

    def comparisons(
        self, by_user: Mapping[str, Sequence[Judgement]], *, most: int, seed: int = 0
    ) -> Comparisons:
        """Return users' judgements as pairs, at most `most` per user, drawn at random.

        Cost: quadratic in one user's ratings of one context.
        """
        rng = np.random.default_rng(seed)
        users, pairs = [], []
        for number, rows in enumerate(by_user.values()):
            found = self._pairs(rows)
            if len(found) > most:
                found = found[np.sort(rng.choice(len(found), most, replace=False))]
            users.append(np.full(len(found), number))
            pairs.append(found)
        both = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
        who = np.concatenate([np.zeros(0, np.int64), *users])
        return Comparisons(
            torch.from_numpy(who),
            torch.from_numpy(both[:, 0].copy()),
            torch.from_numpy(both[:, 1].copy()),
            len(by_user),
        )

    def asked(self, test: Mapping[str, Sequence[TestPair]]) -> Comparisons:
        """Return the test pairs as comparisons, in their order."""
        flat = [(user, pair) for user, pairs in enumerate(test.values()) for pair in pairs]
        index = np.array(
            [
                (user, self._rows[pair.context, pair.better], self._rows[pair.context, pair.worse])
                for user, pair in flat
            ],
            np.int64,
        ).reshape(-1, 3)
        who, winners, losers = torch.from_numpy(index.T.copy())
        return Comparisons(who, winners, losers, len(test))

    def _pairs(self, rows: Sequence[Judgement]) -> NDArray[np.int64]:
        """Return the pairs of one user, `[n, 2]` (winner, loser)."""
        stated: list[tuple[int, int]] = []
        rated: dict[tuple[str, str, str], list[tuple[int, float]]] = defaultdict(list)
        for j in rows:
            if j.form != "comparison":
                rated[j.context, j.kind, j.source].append((self._rows[j.context, j.texts[0]], j.value))
            else:
                stated += [
                    (self._rows[j.context, better], self._rows[j.context, worse])
                    for better, worse in j.pairs()
                ]
        found = [np.array(stated, np.int64).reshape(-1, 2)]
        for cells in rated.values():
            items = np.array([item for item, _ in cells])
            values = np.array([value for _, value in cells])
            better, worse = np.nonzero(values[:, None] > values[None, :])
            found.append(np.stack([items[better], items[worse]], axis=1))
        pairs = np.concatenate(found)
        apart: NDArray[np.bool_] = pairs[:, 0] != pairs[:, 1]
        return pairs[apart]
