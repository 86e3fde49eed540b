"""LoRe: low-rank reward modelling (Bose et al. 2025, arXiv:2504.14439; github.com/facebookresearch/LoRe).

The reward of user i is x·V softmax(w_i) / 100, a convex combination of B basis rewards. V and all w_i are trained
together with Adam on the mean log-loss of every user. For a new user, V is kept and only w is trained.

As published: Gaussian start, learning rate 0.5, 500 steps (its few-shot script; 1,000 elsewhere), B = 5, w by 500
steps at 0.1. Chosen on training users here: B, learning rate and number of steps, because the published training
interpolates on features of this size. One change favours LoRe: a new user starts from the mean weights of the seen
users instead of a random point.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import softmax

from benchmarks.peers import simplex
from benchmarks.peers.comparisons import Comparisons
from benchmarks.peers.simplex import Margins, Padded, softmax_back
from benchmarks.peers.tuning import Setting

USERS: Final = 400
"""Maximum number of training users, which bounds the cost of this benchmark."""

SCALE: Final = 100.0
BASES: Final = (5, 10)
RATES: Final = (0.5, 0.05)
STEPS: Final = (20, 100, 500)
ADAPT_STEPS: Final = 500
ADAPT_RATE: Final = 0.1


@dataclass(frozen=True)
class Basis:
    """A fitted basis.

    Attributes:
        setting: (B, learning rate, steps).
        basis: `[d, B]` basis rewards.
        start: `[B]` logits of the mean weights of the training users.
        weights: `[U, B]` logits of the training users' own weights.
    """

    setting: Setting
    basis: Tensor
    start: Tensor
    weights: Tensor

    def logits(self, x: Tensor, support: Comparisons, asked: Comparisons) -> Tensor:
        """Adapt the weights of all users to their support at once, and return the logits of the pairs asked."""
        rewards = x @ self.basis / SCALE
        weights = adapt(rewards, support, self.start)
        return _margins(rewards, weights, asked)

    def seen(self, x: Tensor, asked: Comparisons) -> Tensor:
        """Return the logits of training users' pairs, with the weights from training."""
        return _margins(x @ self.basis / SCALE, softmax(self.weights, dim=1), asked)


class LoRe:
    """A peer that fits `Basis`.

    Attributes:
        bases: Numbers of basis rewards to try.
        users: Maximum number of training users.
    """

    published: Setting = (5, 0.5, 500)
    text_folds = 2

    def __init__(self, bases: Sequence[int] = BASES, users: int = USERS) -> None:
        self.bases, self.users = bases, users

    def fit(self, x: Tensor, train: Comparisons, settings: Sequence[Setting] | None) -> Iterator[Basis]:
        """Fit a model for each setting.

        Cost: per step, one product of texts × features × B and a pass over the pairs.
        """
        tried = settings or [(b, rate, steps) for b in self.bases for rate in RATES for steps in STEPS]
        for (n_bases, rate), path in groupby(tried, key=lambda setting: setting[:2]):
            yield from train_basis(x, train.of_first(self.users), n_bases, rate, [s[2] for s in path])


def train_basis(
    x: Tensor, train: Comparisons, n_bases: int, rate: float, steps: Sequence[int]
) -> Iterator[Basis]:
    """Train basis and weights together. Yield the state after each of the given numbers of steps, which ascend."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(x.shape[1], n_bases, generator=generator).requires_grad_()
    logits = torch.randn(train.n_users, n_bases, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([basis, logits], lr=rate)
    items, index = torch.unique(torch.stack([train.winners, train.losers]), return_inverse=True)
    known, (winners, losers), users = x[items], index, train.users
    share = 1 / torch.bincount(users, minlength=train.n_users)[users]
    with torch.no_grad():
        for step in range(1, max(steps) + 1):
            rewards, weights = known @ basis / SCALE, softmax(logits, dim=1)
            difference = rewards.index_select(0, winners) - rewards.index_select(0, losers)
            own = weights.index_select(0, users)
            pull = (-share * torch.sigmoid(-(difference * own).sum(1)))[:, None]
            own *= pull
            by_item = torch.zeros_like(rewards).index_add_(0, winners, own).index_add_(0, losers, -own)
            by_user = torch.zeros_like(weights).index_add_(0, users, pull * difference)
            basis.grad, logits.grad = known.T @ by_item / SCALE, softmax_back(weights, by_user)
            optimizer.step()
            if step in steps:
                mean = softmax(logits, dim=1).mean(0)
                yield Basis(
                    (n_bases, rate, step), basis.detach().clone(), mean.log(), logits.detach().clone()
                )


def adapt(rewards: Tensor, support: Comparisons, start: Tensor) -> Tensor:
    """Return the weights `[U, B]` of new users. Users without support keep `start`."""

    def prepare(padded: Padded) -> Margins:
        difference = rewards[padded.winners] - rewards[padded.losers]

        def margins(weights: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            margin = torch.bmm(difference, weights[:, :, None])[:, :, 0]
            return margin, lambda pull: torch.bmm(pull[:, None, :], difference)[:, 0]

        return margins

    return simplex.adapt(support, start, prepare, steps=ADAPT_STEPS, rate=ADAPT_RATE)


def _margins(rewards: Tensor, weights: Tensor, pairs: Comparisons) -> Tensor:
    difference = rewards[pairs.winners] - rewards[pairs.losers]
    return (difference * weights[pairs.users]).sum(1)
