"""PAL-A: ideal points among prototypes (Chen et al., ICLR 2025, arXiv:2406.08469).

A learned map f takes texts into a preference space. User i's ideal point is a convex combination Σ_k softmax(w_i)_k
p_k of K prototypes, and the user prefers the text that is nearer to it. For a new user, f and the prototypes are kept
and only w is trained.

As published (github.com/RamyaLab/pluralistic-alignment): f is a residual GELU network of two layers, with Euclidean
distance, logistic loss with a learned scale (its `dist_logistic`), K = 2, Adam with separate rates for network,
prototypes and weights, and weight decay 0.01 on the network. Chosen on training users here: K and the number of steps.
The learning rates are larger than published, because there are fewer steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softmax

from benchmarks.peers import simplex
from benchmarks.peers.comparisons import Comparisons
from benchmarks.peers.simplex import Margins, Padded
from benchmarks.peers.tuning import Setting

PROTOTYPES: Final = (2, 8)
STEPS: Final = (50, 150, 300)
WIDTH: Final = 128
"""Width of the preference space and of the hidden layer."""

BATCH: Final = 512
NETWORK_RATE: Final = 1e-3
PROTOTYPE_RATE: Final = 5e-3
WEIGHT_RATE: Final = 5e-2
DECAY: Final = 0.01
ADAPT_STEPS: Final = 500
ADAPT_RATE: Final = 0.1


class Network(nn.Module):
    """The map f: `[n, d]` → `[n, WIDTH]`."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.enter = nn.Linear(d, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.leave = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the positions of texts in the preference space."""
        entered: Tensor = self.enter(x)
        rest: Tensor = self.leave(nn.functional.gelu(self.hidden(entered)))
        return entered + rest


@dataclass(frozen=True)
class IdealPoints:
    """A fitted preference space.

    Attributes:
        setting: (K, steps).
        network: The map f.
        prototypes: `[K, WIDTH]` prototypes.
        scale: Scale of the distances.
        start: `[K]` logits of the mean weights of the training users.
    """

    setting: Setting
    network: Network
    prototypes: Tensor
    scale: Tensor
    start: Tensor

    def logits(self, x: Tensor, support: Comparisons, asked: Comparisons) -> Tensor:
        """Adapt the weights of all users to their support at once, and return the logits of the pairs asked."""
        with torch.no_grad():
            places: Tensor = self.network(x)
        # Distances to a combination of prototypes need only inner products: |f|² − 2 w·(P f) + wᵀ(P Pᵀ)w.
        squares, products = (places**2).sum(1), places @ self.prototypes.T
        gram = self.prototypes @ self.prototypes.T

        def prepare(padded: Padded) -> Margins:
            sides = [(squares[items], -2 * products[items]) for items in (padded.losers, padded.winners)]

            def margins(weights: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
                spread = weights @ gram
                own = (spread * weights).sum(1, keepdim=True)
                far, near = (
                    (square + torch.bmm(product, weights[:, :, None])[:, :, 0] + own).clamp_min(1e-6).sqrt()
                    for square, product in sides
                )

                def back(pull: Tensor) -> Tensor:
                    by_far, by_near = 0.5 * self.scale * pull / far, -0.5 * self.scale * pull / near
                    both = torch.bmm(by_far[:, None], sides[0][1]) + torch.bmm(by_near[:, None], sides[1][1])
                    return both[:, 0] + 2 * (by_far + by_near).sum(1, keepdim=True) * spread

                return self.scale * (far - near), back

            return margins

        weights = simplex.adapt(support, self.start, prepare, steps=ADAPT_STEPS, rate=ADAPT_RATE)
        w = weights[asked.users]
        own = ((w @ gram) * w).sum(1)
        far, near = (
            (squares[items] - 2 * (products[items] * w).sum(1) + own).clamp_min(1e-6).sqrt()
            for items in (asked.losers, asked.winners)
        )
        return self.scale * (far - near)


class PAL:
    """A peer that fits `IdealPoints`."""

    published: Setting = (2, 300)
    text_folds = 2

    def fit(self, x: Tensor, train: Comparisons, settings: Sequence[Setting] | None) -> Iterator[IdealPoints]:
        """Fit a model for each setting.

        Cost: per step, one pass of 1,024 texts through the network.
        """
        tried = settings or [(k, steps) for k in PROTOTYPES for steps in STEPS]
        for k, path in groupby(tried, key=lambda setting: setting[0]):
            yield from _train(x, train, k, [setting[1] for setting in path])


def _train(x: Tensor, train: Comparisons, k: int, steps: Sequence[int]) -> Iterator[IdealPoints]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(x.shape[1])
    prototypes = torch.randn(k, WIDTH, generator=generator).requires_grad_()
    weights = torch.randn(train.n_users, k, generator=generator).requires_grad_()
    log_scale = torch.zeros(()).requires_grad_()
    optimizer = torch.optim.AdamW(
        [
            {"params": network.parameters(), "lr": NETWORK_RATE, "weight_decay": DECAY},
            {"params": [prototypes, log_scale], "lr": PROTOTYPE_RATE},
            {"params": [weights], "lr": WEIGHT_RATE},
        ],
        weight_decay=0.0,
    )
    with torch.enable_grad():
        for step in range(1, max(steps) + 1):
            chosen = torch.randint(len(train), (BATCH,), generator=generator)
            ideal = softmax(weights[train.users[chosen]], dim=1) @ prototypes
            places = network(x[torch.cat([train.winners[chosen], train.losers[chosen]])])
            far = (places - ideal.repeat(2, 1)).norm(dim=1)
            optimizer.zero_grad()
            torch.autograd.backward(-logsigmoid(log_scale.exp() * (far[BATCH:] - far[:BATCH])).mean())
            optimizer.step()
            if step in steps:
                yield _snapshot((k, step), network, prototypes, log_scale, weights)


def _snapshot(
    setting: Setting, network: Network, prototypes: Tensor, log_scale: Tensor, weights: Tensor
) -> IdealPoints:
    copy = Network(network.enter.in_features)
    copy.load_state_dict({name: value.clone() for name, value in network.state_dict().items()})
    start = softmax(weights.detach(), dim=1).mean(0).log()
    return IdealPoints(setting, copy, prototypes.detach().clone(), log_scale.detach().exp(), start)
