"""`Dataset`: judgements as index tensors, ready for a fit."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penchant.models.encoding.match import MATCH_NAMES
from penchant.models.fitting.relevance import CrossTable, Relevance
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import item_key


@dataclass(frozen=True)
class Dataset:
    """Judgements of U users on N items, by index.

    Attributes:
        users: Names of the U users.
        keys: Keys of the N items, each a context and a text.
        vectors: Features of the items, `[N, dim]` float16, and their match features if there is a `relevance`.
        sources: Names of the S sources.
        ratings: Ratings.
        votes: Votes.
        pairs: Comparisons. A choice or ranking is split into its stages (Plackett–Luce). A stage of n texts becomes the
            pairs of its winner with each of the others, at weight 2/n: together they carry the information of the
            stage if its texts are equally good.
        relevance: Shared weights of the match features. None if the fit does not read prompts.
    """

    users: tuple[str, ...]
    keys: tuple[bytes, ...]
    vectors: NDArray[np.float16]
    sources: tuple[str, ...]
    ratings: "JudgementBatch"
    votes: "JudgementBatch"
    pairs: "JudgementBatch"
    relevance: Relevance | None = None

    def __len__(self) -> int:
        return len(self.ratings) + len(self.votes) + len(self.pairs)

    @property
    def kinds(self) -> tuple["JudgementBatch", "JudgementBatch", "JudgementBatch"]:
        """Ratings, votes and pairs, in this order."""
        return self.ratings, self.votes, self.pairs

    @classmethod
    def from_judgements(
        cls,
        judgements: Iterable[Judgement],
        features: Mapping[tuple[str, str], NDArray[np.float16]],
        relevance: Relevance | None = None,
    ) -> "Dataset":
        """Index judgements. Comparisons of a text with itself and judgements of weight 0 are left out.

        Args:
            judgements: Judgements, iterated once.
            features: Feature vector of every judged (context, text).
            relevance: Shared weights of the match features. If None, match features are left out. Embeddings of
                prompts always are.

        Cost: about 3 µs and 60 bytes a judgement.
        """
        users: dict[str, int] = {}
        items: dict[tuple[str, str], int] = {}
        sources: dict[str, int] = {}
        ratings, votes, pairs = _BatchBuilder(), _BatchBuilder(), _BatchBuilder()
        for j in judgements:
            user, source = users.setdefault(j.user, len(users)), sources.setdefault(j.source, len(sources))
            rows = [items.setdefault((j.context, text), len(items)) for text in j.texts]
            form = j.form
            if form == "rating":
                ratings.add((user, rows[0], -1, source), j.normalised, j.weight)
            elif form == "vote":
                votes.add((user, rows[0], -1, source), j.value, j.weight)
            else:
                for winner, others in _split_stages(rows, j.groups):
                    for loser in others:
                        pairs.add((user, winner, loser, source), 1.0, j.weight * 2 / (1 + len(others)))
        vectors = np.stack([features[item] for item in items]) if items else np.zeros((0, 0), np.float16)
        if isinstance(features, CrossTable) and features.reads_prompts:
            unread = features.prompt_dim + (0 if relevance else len(MATCH_NAMES))
            vectors = vectors[:, : vectors.shape[1] - unread]
        return cls(
            users=tuple(users),
            keys=tuple(item_key(context, text) for context, text in items),
            vectors=vectors,
            sources=tuple(sources),
            ratings=ratings.build(),
            votes=votes.build(),
            pairs=pairs.build(),
            relevance=relevance,
        )

    def to(self, device: torch.device) -> "Dataset":
        """Return a copy with all tensors on a device."""
        return replace(
            self, **{name: getattr(self, name).to(device) for name in ("ratings", "votes", "pairs")}
        )


@dataclass(frozen=True)
class JudgementBatch:
    """J judgements of one kind, as columns.

    Attributes:
        user: Index of the user, `[J]`.
        item: Index of the item, or of the winner of a pair, `[J]`.
        other: Index of the loser of a pair, −1 for other kinds, `[J]`.
        source: Index of the source, `[J]`.
        value: A rating in [-1, 1], ±1 for a vote, 1 for a pair, `[J]`.
        weight: Power of the likelihood, `[J]`.
    """

    user: Tensor
    item: Tensor
    other: Tensor
    source: Tensor
    value: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows: slice | Tensor) -> "JudgementBatch":
        return JudgementBatch(*(getattr(self, column.name)[rows] for column in fields(self)))

    def to(self, device: torch.device) -> "JudgementBatch":
        """Return a copy with all tensors on a device."""
        return JudgementBatch(*(getattr(self, column.name).to(device) for column in fields(self)))


class _BatchBuilder:
    """Collects judgements in arrays of machine numbers; a list of tuples would take ten times the memory."""

    def __init__(self) -> None:
        self._indices, self._numbers = array("i"), array("d")

    def add(self, indices: tuple[int, int, int, int], value: float, weight: float) -> None:
        """Add a judgement, given its (user, item, other, source), unless it carries no information."""
        if weight and indices[1] != indices[2]:
            self._indices.extend(indices)
            self._numbers.extend((value, weight))

    def build(self) -> JudgementBatch:
        indices = torch.from_numpy(np.array(self._indices, np.int64).reshape(-1, 4))
        numbers = torch.from_numpy(np.array(self._numbers, np.float64).reshape(-1, 2))
        return JudgementBatch(*indices.T.contiguous(), *numbers.T.contiguous())


def _split_stages(items: Sequence[int], groups: tuple[int, ...]) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield each winner with the items that it was preferred to, `groups` being sizes of tied groups, best first."""
    end = 0
    for size in groups or (1,) * len(items):
        start, end = end, end + size
        if end < len(items):
            yield from ((winner, items[end:]) for winner in items[start:end])
