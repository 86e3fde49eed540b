"""Consensus Bradley–Terry: one utility for all users, by logistic regression on differences of features.

Bradley & Terry 1952, with a linear utility as in every reward model since Christiano et al. 2017. A text may have an
effect of its own beside its features (zero for a new text). It keeps the peculiarities of single texts out of the
weights. Whether texts have such effects, and both ridges, are chosen on training users.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from benchmarks.peers.comparisons import Comparisons
from benchmarks.peers.tuning import Setting

RIDGES: Final = (1e5, 3e4, 1e4, 3e3, 1e3, 1e2)
"""Penalties ½ ridge |w|² on the summed log-loss, descending. Each fit starts where the last one ended."""

TEXT_RIDGES: Final = (None, 3.0)
"""Penalties on a text's own effect. None means that texts have no effects."""

ITERATIONS: Final = 200


@dataclass(frozen=True)
class Consensus:
    """A fitted utility.

    Attributes:
        setting: (ridge, ridge of text effects).
        weights: `[d]` weights of the features.
        effects: `[n_items]` effects of the texts.
    """

    setting: Setting
    weights: Tensor
    effects: Tensor

    def utility(self, x: Tensor) -> Tensor:
        """Return the utility of every item, `[n_items]`."""
        return x @ self.weights + self.effects

    def logits(self, x: Tensor, support: Comparisons, asked: Comparisons) -> Tensor:  # noqa: ARG002
        """Return the logits of the pairs asked. They are the same for every user and do not depend on the support."""
        utility = self.utility(x)
        return utility[asked.winners] - utility[asked.losers]


class BradleyTerry:
    """A peer that fits `Consensus`.

    Attributes:
        text_ridges: Penalties on the texts' own effects to try.
    """

    published: Setting = (1e4, None)
    text_folds = 5

    def __init__(self, text_ridges: Sequence[float | None] = TEXT_RIDGES) -> None:
        self.text_ridges = text_ridges

    def fit(self, x: Tensor, train: Comparisons, settings: Sequence[Setting] | None) -> Iterator[Consensus]:
        """Fit a model for each setting.

        Cost: a few dozen passes over the texts and pairs per setting.
        """
        tried = settings or [(ridge, own) for own in self.text_ridges for ridge in RIDGES]
        start, last = None, object()
        for ridge, own in tried:
            start = start if own == last else None
            start = fit_consensus(x, train, ridge, own, start)
            last = own
            both = torch.from_numpy(start).to(x.dtype)
            effects = both[x.shape[1] :] if own is not None else torch.zeros(len(x))
            yield Consensus((ridge, own), both[: x.shape[1]], effects)


def fit_consensus(
    x: Tensor, train: Comparisons, ridge: float, own: float | None, start: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Minimise the penalised log-loss by L-BFGS.

    Args:
        x: `[n_items, d]` features.
        train: Comparisons to fit.
        ridge: Penalty on the weights.
        own: Penalty on the texts' effects. None if texts have no effects.
        start: Parameters to start from.

    Returns:
        `[d]` weights, followed by the `[n_items]` effects if texts have any.
    """
    n, d = x.shape
    # The same two texts are compared many times, so pairs are counted.
    flat, repeats = torch.unique(train.winners * n + train.losers, return_counts=True)
    winners, losers, times = flat // n, flat % n, repeats.to(x.dtype)

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        both = torch.from_numpy(parameters).to(x.dtype)
        weights, effects = both[:d], both[d:]
        utility = x @ weights + (effects if own is not None else 0.0)
        margin = utility[winners] - utility[losers]
        loss = -(times * torch.nn.functional.logsigmoid(margin)).sum()
        pull = times * torch.sigmoid(-margin)
        by_item = torch.zeros(n).index_add_(0, losers, pull).index_add_(0, winners, -pull)
        gradient = [x.T @ by_item + ridge * weights]
        loss = loss + 0.5 * ridge * weights @ weights
        if own is not None:
            gradient.append(by_item + own * effects)
            loss = loss + 0.5 * own * effects @ effects
        return float(loss), torch.cat(gradient).double().numpy()

    first = np.zeros(d + (n if own is not None else 0)) if start is None else start
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    return np.asarray(found.x)
