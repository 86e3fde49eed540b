"""New users' weights on a simplex, all users at once: what LoRe and PAL-A train when somebody new arrives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softmax

from benchmarks.peers.comparisons import Comparisons

Margins = Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]
"""From weights `[U, K]` to margins `[U, P]`, and to what takes a pull on the margins back to one on the weights.

Gradients by hand: thousands of small steps would be spent in automatic differentiation's overhead."""


@dataclass(frozen=True)
class Padded:
    """Comparisons as one row a user, so that a step is a batched product instead of gathers.

    Attributes:
        winners: `[U, P]` row of the feature matrix; 0 where there is no pair.
        losers: `[U, P]` likewise.
        share: `[U, P]` one over the user's number of pairs; 0 where there is none.
    """

    winners: Tensor
    losers: Tensor
    share: Tensor

    @classmethod
    def of(cls, pairs: Comparisons) -> "Padded":
        """Comparisons must be grouped by user."""
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
    """Trains logits of weights by Adam on every user's mean log-loss.

    Args:
        support: What the users said.
        start: `[K]` where everybody starts.
        prepare: Gives the margins of the padded support.
        steps: Of Adam.
        rate: Its learning rate.

    Returns:
        `[U, K]` weights on the simplex; who said nothing keeps those of `start`.
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
    """Gradient on the logits of a softmax, `[U, K]`, from the one on its weights."""
    return weights * (pull - (pull * weights).sum(1, keepdim=True))
