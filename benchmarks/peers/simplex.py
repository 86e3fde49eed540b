"""Training of new users' weights on a simplex, for all users at once. LoRe and PAL-A use it for new users."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softmax

from benchmarks.peers.comparisons import Comparisons

Margins = Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]
"""A function from weights `[U, K]` to margins `[U, P]`, and to a function from a gradient on margins to one on weights.

Gradients are written by hand, because automatic differentiation would dominate the cost of thousands of small steps."""


@dataclass(frozen=True)
class Padded:
    """Comparisons with one row per user, so that a step is a batched product instead of gathers.

    Attributes:
        winners: `[U, P]` row of the winner in the feature matrix; 0 for padding.
        losers: `[U, P]` row of the loser in the feature matrix; 0 for padding.
        share: `[U, P]` one over the user's number of pairs; 0 for padding.
    """

    winners: Tensor
    losers: Tensor
    share: Tensor

    @classmethod
    def of(cls, pairs: Comparisons) -> "Padded":
        """Pad comparisons, which must be grouped by user."""
        counts = torch.bincount(pairs.users, minlength=pairs.n_users)
        first = counts.cumsum(0) - counts
        place = torch.arange(len(pairs)) - first[pairs.users]
        shape = (pairs.n_users, max(int(counts.max()), 1))
        winners, losers = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        share = torch.zeros(shape)
        winners[pairs.users, place], losers[pairs.users, place] = pairs.winners, pairs.losers
        share[pairs.users, place] = 1 / counts[pairs.users]
        return cls(winners, losers, share)


def adapt(
    support: Comparisons,
    start: Tensor,
    prepare: Callable[[Padded], Margins],
    *,
    steps: int,
    rate: float,
) -> Tensor:
    """Train logits of weights by Adam on every user's mean log-loss.

    Args:
        support: Comparisons of the users.
        start: `[K]` logits that every user starts from.
        prepare: Function that returns the margins of the padded support.
        steps: Number of steps of Adam.
        rate: Learning rate of Adam.

    Returns:
        `[U, K]` weights on the simplex. Users without support keep those of `start`.
    """
    logits = start.repeat(support.n_users, 1)
    who = torch.unique(support.users)
    if not len(who):
        return softmax(logits, dim=1)
    index = torch.full((support.n_users,), -1).index_put_((who,), torch.arange(len(who)))
    padded = Padded.of(Comparisons(index[support.users], support.winners, support.losers, len(who)))
    margins = prepare(padded)
    own = logits[who].requires_grad_()
    optimizer = torch.optim.Adam([own], lr=rate)
    for _ in range(steps):
        weights = softmax(own.detach(), dim=1)
        margin, back = margins(weights)
        own.grad = softmax_back(weights, back(-padded.share * torch.sigmoid(-margin)))
        optimizer.step()
    logits[who] = own.detach()
    return softmax(logits, dim=1)


def softmax_back(weights: Tensor, pull: Tensor) -> Tensor:
    """Return the gradient on the logits of a softmax, `[U, K]`, given the gradient on its weights."""
    return weights * (pull - (pull * weights).sum(1, keepdim=True))
