"""The state of a fit: beliefs about users and items, the population, the text prior, rating scales and reliability."""

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
from penchant.models.fitting.text_fit import LOG_BOUNDS
from penchant.models.fitting.variational import Factors, RatingScales
from penchant.models.taste.text_prior import Standardiser

DTYPE: Final = torch.float64


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit.

    Attributes:
        rank: Number of directions of taste k.
        archetypes: Number of components of the mixture prior over users.
        rounds: Largest number of rounds of EM after the consensus.
        tolerance: A fit stops when the standard deviation of the change of the judged utilities falls below this share
            of the standard deviation of the utilities.
        seed: Seed of the randomised SVD that the directions start from, of the archetypes and of the inducing texts.
        device: Device of the tensors. `auto` is CUDA if it is available.
        mismatched_weights: Weights of pairs of an answer to a prompt and an answer to another prompt, by kind of
            prompt. By default they are as large as the judgements allow; see `fit_relevance`.
    """

    rank: int = 4
    archetypes: int = 1
    rounds: int = 24
    tolerance: float = 2e-3
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    mismatched_weights: Mapping[int, float] | None = None


class FitState:
    """Beliefs of a fit, on its device. U users, N items, k directions, m = 1 + k item coordinates, d features.

    Args:
        data: Judgements.
        options: Options of the fit.

    Attributes:
        rounds_run: Number of rounds until the fit stopped; 0 while it runs.
        items: Beliefs about the items, `[N, 2 + k]`.
        users: Beliefs about the users, `[U, 2 + k]`.
        mixture: Prior over the free coordinates [t; z] of users.
        scales: Rating scales of the sources.
        reliability: Reliability of the labels.
        standardiser: Standardiser of the features.
        x: Standardised features of the texts, `[N, d]` float32.
        blocks: Block of each feature, `[d]`.
        known_base: Part of the items' base utility that the match with their prompts explains, `[N]`.
        hyper: Log hyperparameters of the text prior, one array for each coordinate.
        coordinate_messages: Targets and precisions of the item coordinates from the judgements, `[2, m, N]`.
        text_mean: Prediction of each item coordinate from the text alone, `[N, m]`.
        residual: Variance of each coordinate that the text does not explain, `[m]`.
    """

    rounds_run = 0

    def __init__(self, data: Dataset, options: FitOptions) -> None:
        self.options = options
        self.device = _find_device(options.device)
        self.data = data = data.to(self.device)
        relevance = data.relevance
        n_attributes = len(ATTRIBUTE_NAMES)
        n_embedded = data.vectors.shape[1] - n_attributes - (relevance.basis.width if relevance else 0)
        self.standardiser = Standardiser.fit(
            data.vectors,
            blocks=(n_embedded, n_attributes),
            match=relevance.basis if relevance else None,
            seed=options.seed,
        )
        x = self.standardiser(data.vectors)
        self.x = torch.from_numpy(x.astype(np.float32)).to(self.device)
        self.known_base = self.make_zeros(len(x))
        if relevance:
            known = x[:, self.standardiser.matched] @ relevance.weights
            self.known_base = torch.from_numpy(known).to(self.device)
        _, n_match, n_basis, _ = self.standardiser.widths
        widths = [width for width in (n_embedded, n_attributes, n_match, n_basis, 1) if width]
        self.blocks = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths)).to(self.device)
        k = self.k = options.rank
        width = 2 + k
        n_items, n_users = len(data.keys), len(data.users)
        self.items = Factors(
            self.make_zeros(n_items, width), self.make_zeros(n_items, width, width), [0, *range(2, width)]
        )
        self.items.mean[:, 1] = 1.0
        self.users = Factors(
            self.make_zeros(n_users, width), self.make_zeros(n_users, width, width), list(range(1, width))
        )
        self.users.mean[:, 0] = 1.0
        self.mixture = Mixture.single(torch.eye(width - 1, dtype=DTYPE, device=self.device))
        self.scales = RatingScales.from_ratings(data)
        self.reliability = Reliability(data)
        m = 1 + k
        start = [
            np.log(0.3 / n_embedded),
            np.log(0.3 / n_embedded),
            *([np.log(0.3)] if n_match else []),
            *([np.log(0.1)] if n_basis else []),
            np.log(0.3),
        ]
        self.hyper = [np.array(start) for _ in range(m)]
        self._text_x = self.x
        if n_match:  # of the base utility, the relevance fit alone decides on the weights of the match
            self._text_x = self.x.clone()
            self._text_x[:, self.standardiser.matched] = 0.0
            self.hyper[0][2] = LOG_BOUNDS[0]
        self.coordinate_messages = self.make_zeros(2, m, n_items)
        self.text_mean = self.make_zeros(n_items, m)
        self.residual = torch.full((m,), 0.3, dtype=DTYPE, device=self.device)

    def get_regressors(self, coordinate: int) -> Tensor:
        """Return the features `[N, d]` that the text prior of an item coordinate is regressed on."""
        return self.x if coordinate else self._text_x

    def make_zeros(self, *shape: int) -> Tensor:
        """Make a tensor of zeros on the device, in the precision of a fit."""
        return torch.zeros(*shape, dtype=DTYPE, device=self.device)

    def collect_tensors(self) -> dict[str, Tensor]:
        """Return every tensor that a round reads and changes, by name."""
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
            "told": self.coordinate_messages,
            "text_mean": self.text_mean,
            "residual": self.residual,
            **self.reliability.collect_state(),
        }

    def to_arrays(self, rounds: int) -> dict[str, NDArray[Any]]:
        """Return the arrays of a checkpoint after `rounds` rounds, by name."""
        return {
            **{name: tensor.cpu().numpy() for name, tensor in self.collect_tensors().items()},
            "hyper": np.stack(self.hyper),
            "round": np.array([rounds, self.rounds_run]),
        }

    def restore(self, state: Mapping[str, NDArray[Any]] | None) -> int:
        """Resume from the arrays of a checkpoint, if there are any, and return the number of rounds behind them."""
        if state is None:
            return 0
        tensors = {
            name: torch.from_numpy(state[name].copy()).to(self.device) for name in self.collect_tensors()
        }
        for side in (self.items, self.users):
            name = "items" if side is self.items else "users"
            side.mean, side.cov = tensors[f"{name}.mean"], tensors[f"{name}.cov"]
        self.mixture = Mixture(tensors["mixture.weights"], tensors["mixture.means"], tensors["mixture.covs"])
        self.scales = RatingScales(tensors["scales.offset"], tensors["scales.slope"])
        self.coordinate_messages, self.text_mean, self.residual = (
            tensors["told"],
            tensors["text_mean"],
            tensors["residual"],
        )
        self.reliability.restore(tensors)
        self.hyper = list(state["hyper"])
        rounds, self.rounds_run = map(int, state["round"])
        return rounds


def _find_device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
