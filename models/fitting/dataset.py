"""`Dataset`: judgements as index tensors, ready for batch fitting."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import item_key


@dataclass(frozen=True)
class Dataset:
    """Judgements of U users on N items, by index.

    Attributes:
        users: U names.
        keys: N item keys (context and text).
        vectors: `[N, dim]` float16 features.
        sources: S names.
        ratings: Ratings, one number each.
        votes: Votes.
        pairs: Comparisons. A choice or ranking is its stages (Plackett–Luce), a stage of n texts the pairs of its winner
            with each of the others at weight 2/n: the information of the stage where its texts are equally good.
    """

    users: tuple[str, ...]
    keys: tuple[bytes, ...]
    vectors: NDArray[np.float16]
    sources: tuple[str, ...]
    ratings: "Told"
    votes: "Told"
    pairs: "Told"

    def __len__(self) -> int:
        return len(self.ratings) + len(self.votes) + len(self.pairs)

    @property
    def kinds(self) -> tuple["Told", "Told", "Told"]:
        """Ratings, votes, pairs."""
        return self.ratings, self.votes, self.pairs

    @classmethod
    def of(
        cls, judgements: Iterable[Judgement], features: Mapping[tuple[str, str], NDArray[np.float16]]
    ) -> "Dataset":
        """Indexes judgements; a text against itself and an edit that changed nothing say nothing.

        Args:
            judgements: What was said, read once.
            features: `[dim]` vector of every (context, text) judged.

        Cost: about 3 µs and 60 bytes a judgement.
        """
        users: dict[str, int] = {}
        items: dict[tuple[str, str], int] = {}
        sources: dict[str, int] = {}
        ratings, votes, pairs = _Rows(), _Rows(), _Rows()
        for j in judgements:
            user, source = users.setdefault(j.user, len(users)), sources.setdefault(j.source, len(sources))
            at = [items.setdefault((j.context, text), len(items)) for text in j.texts]
            if j.kind == "rating":
                ratings.add((user, at[0], -1, source), j.normalised, j.weight)
            elif j.kind == "vote":
                votes.add((user, at[0], -1, source), j.value, j.weight)
            else:
                for winner, others in _stages(at, j.groups):
                    for loser in others:
                        pairs.add((user, winner, loser, source), 1.0, j.weight * 2 / (1 + len(others)))
        return cls(
            users=tuple(users),
            keys=tuple(item_key(context, text) for context, text in items),
            vectors=np.stack([features[item] for item in items]) if items else np.zeros((0, 0), np.float16),
            sources=tuple(sources),
            ratings=ratings.told(),
            votes=votes.told(),
            pairs=pairs.told(),
        )

    def to(self, device: torch.device) -> "Dataset":
        """With all tensors on a device."""
        return replace(
            self, **{name: getattr(self, name).to(device) for name in ("ratings", "votes", "pairs")}
        )


@dataclass(frozen=True)
class Told:
    """J judgements of one kind.

    Attributes:
        user: `[J]`.
        item: `[J]` the text, of a pair the winner.
        other: `[J]` the loser of a pair, −1 otherwise.
        source: `[J]`.
        value: `[J]` a rating in [-1, 1], ±1 of a vote, 1 of a pair.
        weight: `[J]` power of the likelihood.
    """

    user: Tensor
    item: Tensor
    other: Tensor
    source: Tensor
    value: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows: slice | Tensor) -> "Told":
        return Told(*(getattr(self, column.name)[rows] for column in fields(self)))

    def to(self, device: torch.device) -> "Told":
        """With all tensors on a device."""
        return Told(*(getattr(self, column.name).to(device) for column in fields(self)))


class _Rows:
    """Grows by judgement; arrays of machine numbers, for a list of tuples would take ten times the memory."""

    def __init__(self) -> None:
        self._indices, self._numbers = array("i"), array("d")

    def add(self, indices: tuple[int, int, int, int], value: float, weight: float) -> None:
        """(user, item, other, source), then numbers."""
        if weight and indices[1] != indices[2]:
            self._indices.extend(indices)
            self._numbers.extend((value, weight))

    def told(self) -> Told:
        indices = torch.from_numpy(np.array(self._indices, np.int64).reshape(-1, 4))
        numbers = torch.from_numpy(np.array(self._numbers, np.float64).reshape(-1, 2))
        return Told(*indices.T.contiguous(), *numbers.T.contiguous())


def _stages(at: Sequence[int], groups: tuple[int, ...]) -> Iterator[tuple[int, Sequence[int]]]:
    """(winner, those it was preferred to) of every text that something was preferred to."""
    end = 0
    for size in groups or (1,) * len(at):
        start, end = end, end + size
        if end < len(at):
            yield from ((winner, at[end:]) for winner in at[start:end])
