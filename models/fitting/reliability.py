"""Whose labels are right, and how far one account may move what all share: EM over label correctness.

A vote or pair of annotator a (a user in one source) is the reverse of what is meant with probability ε_a ~ Beta around
the rate of the source, which is learned too (LCPO's E and M steps; Dawid & Skene 1979). Under the mean-field posterior
the log odds of its being right are exactly E[yψ] + log((1 − ε)/ε), for log σ(x) − log σ(−x) = x. Ratings are not
doubted one by one: on a coarse scale every surprise, and so all that is personal, looked like a lapse (held-out
log-loss .002 worse).
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.variational import Factors, Trust, utilities

START: Final = 0.02
SOURCE_PRIOR: Final = (1.0, 49.0)
"""Beta prior of a source's rate: 2 %."""

ANNOTATOR_STRENGTH: Final = 20.0
"""Labels' worth of the source's rate in every annotator's."""

INFLUENCE: Final = 4.0
"""Together an account's judgements move what is shared like those of four average accounts at most, or like"""

LEAST_CAP: Final = 300.0
"""judgements. (50 cost .006 of held-out log-loss on ukp, where few accounts gave most.)"""

HIGHEST_FLIP: Final = 0.98


class Reliability:
    """Rates of wrong labels, by annotator and by source.

    Attributes:
        flips: `[A]` by annotator.
        source_flips: `[S]`.
        trust: What follows for every judgement.
    """

    def __init__(self, data: Dataset) -> None:
        self._data = data
        n_sources = max(len(data.sources), 1)
        ids = torch.cat([told.user * n_sources + told.source for told in data.kinds])
        annotators, places = torch.unique(ids, return_inverse=True)
        self._places = places.split([len(told) for told in data.kinds])
        self._source = annotators % n_sources
        weights = torch.cat([told.weight for told in data.kinds])
        total = weights.new_zeros(len(annotators)).index_add_(0, places, weights)
        cap = max(LEAST_CAP, INFLUENCE * float(total.mean())) if len(annotators) else LEAST_CAP
        capped = (cap / total.clamp_min(1e-9)).clamp_max(1.0)
        self.flips = weights.new_full((len(annotators),), START)
        self.source_flips = weights.new_full((n_sources,), START)
        ratings, votes, pairs = self._places
        ones = [torch.ones_like(told.value) for told in data.kinds]
        self.trust = Trust((ones[0], ones[1], ones[2]), (capped[ratings], capped[votes], capped[pairs]))

    def update(self, users: Factors, items: Factors) -> None:
        """One E and one M step."""
        _, votes, pairs = self._data.kinds
        right = (
            self.trust.right[0],
            self._right(1, votes.value * utilities(users, items, votes)),
            self._right(2, utilities(users, items, pairs)),
        )
        self.trust = Trust(right, self.trust.share)
        wrong, count = torch.zeros_like(self.flips), torch.zeros_like(self.flips)
        for places, told, r in zip(self._places[1:], (votes, pairs), right[1:], strict=True):
            wrong.index_add_(0, places, told.weight * (1 - r))
            count.index_add_(0, places, told.weight)
        nothing = torch.zeros_like(self.source_flips)
        a, b = SOURCE_PRIOR
        total = nothing.index_add(0, self._source, count) + a + b
        self.source_flips = (nothing.index_add(0, self._source, wrong) + a) / total
        expected = ANNOTATOR_STRENGTH * self.source_flips[self._source]
        self.flips = ((wrong + expected) / (count + ANNOTATOR_STRENGTH)).clamp_max(HIGHEST_FLIP)

    def state(self) -> dict[str, Tensor]:
        """What an interrupted fit must keep."""
        kinds = ("ratings", "votes", "pairs")
        right = {f"right.{name}": right for name, right in zip(kinds, self.trust.right, strict=True)}
        return {"flips": self.flips, "source_flips": self.source_flips, **right}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state` gave."""
        self.flips, self.source_flips = state["flips"], state["source_flips"]
        right = (state["right.ratings"], state["right.votes"], state["right.pairs"])
        self.trust = Trust(right, self.trust.share)

    def _right(self, kind: int, log_odds: Tensor) -> Tensor:
        flip = self.flips[self._places[kind]]
        return torch.sigmoid(log_odds + torch.log1p(-flip) - flip.log())
