"""`Dataset`: judgements as index tensors, ready for batch fitting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penchant.models.judgements import Judgement
from penchant.models.reward import item_key


@dataclass(frozen=True)
class Dataset:
    """Judgements of U users on N items, by index.

    Attributes:
        users: U names.
        keys: N item keys (context and text).
        vectors: `[N, dim]` float16 features.
        contexts: `[N]` context index.
        sources: Names of rating sources.
        rated: `[R, 2]` (user, item) of ratings.
        ratings: `[R]` normalised to [-1, 1].
        rating_source: `[R]` index into `sources`.
        voted: `[V, 2]` (user, item).
        votes: `[V]` ±1.
        compared: `[P, 3]` (user, winner, loser).
    """

    users: tuple[str, ...]
    keys: tuple[bytes, ...]
    vectors: NDArray[np.float16]
    contexts: NDArray[np.int64]
    sources: tuple[str, ...]
    rated: Tensor
    ratings: Tensor
    rating_source: Tensor
    voted: Tensor
    votes: Tensor
    compared: Tensor

    def __len__(self) -> int:
        return len(self.rated) + len(self.voted) + len(self.compared)

    @classmethod
    def of(
        cls, judgements: Sequence[Judgement], features: Mapping[tuple[str, str], NDArray[np.float16]]
    ) -> "Dataset":
        """Indexes judgements.

        Rankings and choices enter as the pairs of neighbouring groups and edits as one pair; a text against itself says
        nothing.

        Args:
            judgements: What was said.
            features: `[dim]` vector of every (context, text) judged.
        """
        users: dict[str, int] = {}
        items: dict[tuple[str, str], int] = {}
        contexts: dict[str, int] = {}
        sources: dict[str, int] = {}
        rated, ratings, rating_source, voted, votes, compared = [], [], [], [], [], []
        for j in judgements:
            user = users.setdefault(j.user, len(users))
            contexts.setdefault(j.context, len(contexts))
            at = [items.setdefault((j.context, text), len(items)) for text in j.texts]
            if j.kind == "rating":
                rated.append((user, at[0]))
                ratings.append(j.normalised)
                rating_source.append(sources.setdefault(j.source, len(sources)))
            elif j.kind == "vote":
                voted.append((user, at[0]))
                votes.append(j.value)
            else:
                rows = dict(zip(j.texts, at, strict=True))
                compared += [(user, rows[better], rows[worse]) for better, worse in j.pairs()]
        return cls(
            users=tuple(users),
            keys=tuple(item_key(context, text) for context, text in items),
            vectors=np.stack([features[item] for item in items]) if items else np.zeros((0, 0), np.float16),
            contexts=np.array([contexts[context] for context, _ in items], np.int64),
            sources=tuple(sources),
            rated=_indices(rated, 2),
            ratings=torch.tensor(ratings, dtype=torch.float64),
            rating_source=torch.tensor(rating_source, dtype=torch.long),
            voted=_indices(voted, 2),
            votes=torch.tensor(votes, dtype=torch.float64),
            compared=_indices(compared, 3),
        )


def _indices(rows: Sequence[tuple[int, ...]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.long).reshape(-1, width)
