"""The state of a fit: beliefs about users and items, the population, the text prior, rating scales, reliability."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.mixture import Mixture
from penchant.models.fitting.reliability import Reliability
from penchant.models.fitting.variational import Factors, RatingScales
from penchant.models.taste.text_prior import Standardiser

DTYPE: Final = torch.float64


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    Attributes:
        rank: Directions of taste k.
        archetypes: Components of the mixture prior over users.
        rounds: Most rounds of EM after the consensus.
        tolerance: Stop when no utility of a judged cell moves by more than this share of their spread.
        seed: Of the randomised SVD that the directions start from, of archetypes and of inducing texts.
        device: Where tensors live; `auto` is CUDA where there is one.
    """

    rank: int = 4
    archetypes: int = 1
    rounds: int = 24
    tolerance: float = 2e-3
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "cpu"


class FitState:
    """What a fit knows so far, on its device.

    Args:
        data: The judgements.
        options: How to fit.

    Attributes:
        rounds_run: Rounds until utilities settled; 0 while they have not.
        items: `[N, 2 + k]`.
        users: `[U, 2 + k]`.
        mixture: Prior over users, of the free coordinates [t; z].
        scales: Of ratings.
        reliability: Of labels.
        x: `[N, d]` features of the texts, float32, and the block of each, `[d]`.
        hyper: Log hyperparameters of the text prior, by coordinate.
        told: `[2, m, N]` what the judgements say of each item coordinate: target and precision.
        text_mean: `[N, m]` what the text alone says.
        residual: `[m]` variance that the text leaves.
    """

    rounds_run = 0

    def __init__(self, data: Dataset, options: FitOptions) -> None:
        self.options = options
        self.device = _device(options.device)
        self.data = data = data.to(self.device)
        n_attributes = len(ATTRIBUTE_NAMES)
        n_embedded = data.vectors.shape[1] - n_attributes
        self.standardiser = Standardiser.fit(
            data.vectors, blocks=(n_embedded, n_attributes), seed=options.seed
        )
        self.x = torch.from_numpy(self.standardiser(data.vectors).astype(np.float32)).to(self.device)
        basis = self.standardiser.basis
        widths = [n_embedded, n_attributes, *([len(basis.inducing)] if basis else []), 1]
        self.blocks = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths)).to(self.device)
        k = self.k = options.rank
        width = 2 + k
        n_items, n_users = len(data.keys), len(data.users)
        self.items = Factors(
            self.zeros(n_items, width), self.zeros(n_items, width, width), [0, *range(2, width)]
        )
        self.items.mean[:, 1] = 1.0
        self.users = Factors(
            self.zeros(n_users, width), self.zeros(n_users, width, width), list(range(1, width))
        )
        self.users.mean[:, 0] = 1.0
        self.mixture = Mixture.single(torch.eye(width - 1, dtype=DTYPE, device=self.device))
        self.scales = RatingScales.of(data)
        self.reliability = Reliability(data)
        m = 1 + k
        start = [
            np.log(0.3 / widths[0]),
            np.log(0.3 / widths[0]),
            *([np.log(0.1)] if basis else []),
            np.log(0.3),
        ]
        self.hyper = [np.array(start) for _ in range(m)]
        # Per coordinate: what the judgements say of it, and how precisely.
        self.told = self.zeros(2, m, n_items)
        self.text_mean = self.zeros(n_items, m)
        self.residual = torch.full((m,), 0.3, dtype=DTYPE, device=self.device)

    def zeros(self, *shape: int) -> Tensor:
        """On the device, in the precision of a fit."""
        return torch.zeros(*shape, dtype=DTYPE, device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a round reads and changes, by name."""
        return {
            "items.mean": self.items.mean,
            "items.cov": self.items.cov,
            "users.mean": self.users.mean,
            "users.cov": self.users.cov,
            "mixture.weights": self.mixture.weights,
            "mixture.means": self.mixture.means,
            "mixture.covs": self.mixture.covs,
            "scales.offset": self.scales.offset,
            "scales.slope": self.scales.slope,
            "told": self.told,
            "text_mean": self.text_mean,
            "residual": self.residual,
            **self.reliability.state(),
        }

    def arrays(self, r: int) -> dict[str, NDArray[Any]]:
        """What a checkpoint keeps after r rounds."""
        return {
            **{name: tensor.cpu().numpy() for name, tensor in self.tensors().items()},
            "hyper": np.stack(self.hyper),
            "round": np.array([r, self.rounds_run]),
        }

    def restore(self, state: Mapping[str, NDArray[Any]] | None) -> int:
        """Takes up a saved state; returns how many rounds it had."""
        if state is None:
            return 0
        found = {name: torch.from_numpy(state[name].copy()).to(self.device) for name in self.tensors()}
        for side in (self.items, self.users):
            name = "items" if side is self.items else "users"
            side.mean, side.cov = found[f"{name}.mean"], found[f"{name}.cov"]
        self.mixture = Mixture(found["mixture.weights"], found["mixture.means"], found["mixture.covs"])
        self.scales = RatingScales(found["scales.offset"], found["scales.slope"])
        self.told, self.text_mean, self.residual = found["told"], found["text_mean"], found["residual"]
        self.reliability.restore(found)
        self.hyper = list(state["hyper"])
        r, self.rounds_run = map(int, state["round"])
        return r


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
