"""Which labels are correct, by EM, and a cap on the influence of one account.

A vote or pair of annotator a (a user in one source) is reversed with probability ε_a, which has a Beta prior around
the rate of the source. The rate of the source is learned too (LCPO's E and M steps; Dawid & Skene 1979). Under the
mean-field posterior, the log odds that a label is correct are exactly E[yψ] + log((1 − ε)/ε), because log σ(x) − log
σ(−x) = x. All ratings count as correct: on a coarse scale, everything personal would look like an error
(held-out log-loss .002 worse).
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.variational import Factors, Trust, compute_utilities

START: Final = 0.02
"""Rate of wrong labels before the first update."""

SOURCE_PRIOR: Final = (1.0, 49.0)
"""Beta prior of the rate of a source, of mean 2 %."""

ANNOTATOR_STRENGTH: Final = 20.0
"""Weight of the source's rate in the rate of an annotator, in labels."""

INFLUENCE: Final = 4.0
"""Largest influence of an annotator on the items, in average annotators. `LEAST_CAP` applies if it is larger."""

LEAST_CAP: Final = 300.0
"""Influence that every annotator may have, in judgements. A value of 50 costs .006 of held-out log-loss on ukp, where
few annotators gave most of the judgements."""

HIGHEST_FLIP: Final = 0.98
"""Upper bound of the rate of an annotator."""


class Reliability:
    """Rates of wrong labels, by annotator and by source.

    Args:
        data: Judgements.

    Attributes:
        flips: Rate of each annotator, `[A]`.
        source_flips: Rate of each source, `[S]`.
        trust: Resulting correctness and share of every judgement.
    """

    def __init__(self, data: Dataset) -> None:
        self._data = data
        n_sources = max(len(data.sources), 1)
        ids = torch.cat([batch.user * n_sources + batch.source for batch in data.kinds])
        annotators, places = torch.unique(ids, return_inverse=True)
        self._places = places.split([len(batch) for batch in data.kinds])
        self._source = annotators % n_sources
        weights = torch.cat([batch.weight for batch in data.kinds])
        total = weights.new_zeros(len(annotators)).index_add_(0, places, weights)
        cap = max(LEAST_CAP, INFLUENCE * float(total.mean())) if len(annotators) else LEAST_CAP
        capped = (cap / total.clamp_min(1e-9)).clamp_max(1.0)
        self.flips = weights.new_full((len(annotators),), START)
        self.source_flips = weights.new_full((n_sources,), START)
        ratings, votes, pairs = self._places
        ones = [torch.ones_like(batch.value) for batch in data.kinds]
        self.trust = Trust((ones[0], ones[1], ones[2]), (capped[ratings], capped[votes], capped[pairs]))

    def update(self, users: Factors, items: Factors) -> None:
        """Run one E step and one M step."""
        _, votes, pairs = self._data.kinds
        correct = (
            self.trust.correct[0],
            self._compute_correctness(1, votes.value * compute_utilities(users, items, votes)),
            self._compute_correctness(2, compute_utilities(users, items, pairs)),
        )
        self.trust = Trust(correct, self.trust.share)
        wrong, count = torch.zeros_like(self.flips), torch.zeros_like(self.flips)
        for places, batch, probability in zip(self._places[1:], (votes, pairs), correct[1:], strict=True):
            wrong.index_add_(0, places, batch.weight * (1 - probability))
            count.index_add_(0, places, batch.weight)
        zeros = torch.zeros_like(self.source_flips)
        a, b = SOURCE_PRIOR
        total = zeros.index_add(0, self._source, count) + a + b
        self.source_flips = (zeros.index_add(0, self._source, wrong) + a) / total
        expected = ANNOTATOR_STRENGTH * self.source_flips[self._source]
        self.flips = ((wrong + expected) / (count + ANNOTATOR_STRENGTH)).clamp_max(HIGHEST_FLIP)

    def collect_state(self) -> dict[str, Tensor]:
        """Return the tensors from which `restore` resumes, by name."""
        kinds = ("ratings", "votes", "pairs")
        correct = {f"right.{name}": values for name, values in zip(kinds, self.trust.correct, strict=True)}
        return {"flips": self.flips, "source_flips": self.source_flips, **correct}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from the tensors of `collect_state`."""
        self.flips, self.source_flips = state["flips"], state["source_flips"]
        correct = (state["right.ratings"], state["right.votes"], state["right.pairs"])
        self.trust = Trust(correct, self.trust.share)

    def _compute_correctness(self, kind: int, log_odds: Tensor) -> Tensor:
        flip = self.flips[self._places[kind]]
        return torch.sigmoid(log_odds + torch.log1p(-flip) - flip.log())
