"""The Hebbian baseline: a user's weights are the consensus plus η Σ(φ⁺ − φ⁻) over the user's comparisons.

It is one line without training of the user's part, which any learned adaptation has to beat. The consensus is
Bradley–Terry on the same features, without effects of single texts. Its ridge and η are chosen on training users.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import torch
from torch import Tensor

from benchmarks.peers.bradley_terry import fit_consensus
from benchmarks.peers.comparisons import Comparisons
from benchmarks.peers.tuning import Setting

RIDGES: Final = (1e5, 1e4, 1e3)
RATES: Final = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Hebbian:
    """Consensus weights and a learning rate.

    Attributes:
        setting: (ridge, η).
        weights: `[d]` consensus weights.
    """

    setting: Setting
    weights: Tensor

    def logits(self, x: Tensor, support: Comparisons, asked: Comparisons) -> Tensor:
        """Compute every user's own weights, `[U, d]`, and return the logits of their pairs."""
        own = torch.zeros(support.n_users, x.shape[1])
        own.index_add_(0, support.users, x[support.winners]).index_add_(0, support.users, -x[support.losers])
        weights: Tensor = self.weights + self.setting[1] * own
        scores = x[torch.stack([asked.winners, asked.losers])] * weights[asked.users]
        return scores[0].sum(1) - scores[1].sum(1)


class HebbianLearner:
    """A peer that fits `Hebbian`."""

    published: Setting = (1e4, 1e-4)
    text_folds = 5

    def fit(self, x: Tensor, train: Comparisons, settings: Sequence[Setting] | None) -> Iterator[Hebbian]:
        """Fit a model for each setting.

        Cost: that of the consensus.
        """
        start = None
        tried = settings or [(ridge, rate) for ridge in RIDGES for rate in RATES]
        for ridge, path in groupby(tried, key=lambda setting: setting[0]):
            start = fit_consensus(x, train, ridge, None, start)
            weights = torch.from_numpy(start).to(x.dtype)
            for setting in path:
                yield Hebbian(setting, weights)
