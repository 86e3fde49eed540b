"""Fitting the linear text prior to messages with their own noise, hyperparameters by marginal likelihood."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

INTERCEPT_VARIANCE: Final = 4.0
MIN_LOG, MAX_LOG = -14.0, 4.0


@dataclass(frozen=True)
class Regression:
    """Posterior of one coordinate's weights.

    Attributes:
        mean: `[d]`.
        cov: `[d, d]`.
        prior_variance: `[d]`.
        residual_variance: τ².
        log_evidence: Of the messages, per `evidence`.
    """

    mean: Tensor
    cov: Tensor
    prior_variance: Tensor
    residual_variance: float
    log_evidence: float


def regress(x: Tensor, blocks: Tensor, target: Tensor, precision: Tensor, hyper: NDArray[np.float64]) -> Regression:
    """Weights w of target = x·w + ζ + ε, ζ ~ N(0, τ²), ε ~ N(0, 1/precision), w ~ N(0, block variance).

    Args:
        x: `[n, d]`.
        blocks: `[d]` block of each feature; the last block is the intercept.
        target: `[n]`.
        precision: `[n]` of the message; 0 where nothing was said.
        hyper: `[n_blocks]` log prior variance of each block but the intercept's, then log τ².
    """
    h = torch.as_tensor(hyper, dtype=x.dtype)
    evidence, mean, chol, prior = _evidence(x, blocks, target, precision, h)
    scaled = torch.linalg.solve_triangular(chol, torch.diag(prior.sqrt()), upper=False)
    return Regression(mean, scaled.T @ scaled, prior, float(h[-1].exp()), float(evidence))


def tune(
    x: Tensor, blocks: Tensor, target: Tensor, precision: Tensor, start: NDArray[np.float64], *, max_steps: int
) -> NDArray[np.float64]:
    """Type-II maximum likelihood of the hyperparameters of `regress`, by L-BFGS from `start`."""

    def objective(h: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        leaf = torch.tensor(h, dtype=x.dtype, requires_grad=True)
        loss = -_evidence(x, blocks, target, precision, leaf)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return float(loss), leaf.grad.numpy()

    bounds = [(MIN_LOG, MAX_LOG)] * len(start)
    return np.asarray(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": max_steps}).x)


def _evidence(
    x: Tensor, blocks: Tensor, target: Tensor, precision: Tensor, hyper: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(log evidence up to a constant, posterior mean, Cholesky of I + D½XᵀR⁻¹XD½, prior variances)."""
    prior = torch.cat([hyper[:-1].exp(), hyper.new_tensor([INTERCEPT_VARIANCE])])[blocks]
    root = prior.sqrt()
    told = precision > 0
    noise = hyper[-1].exp() + 1 / precision.clamp_min(1e-12)
    r = torch.where(told, 1 / noise, torch.zeros_like(noise))
    gram = (x * r[:, None]).T @ x
    inner = torch.eye(x.shape[1], dtype=x.dtype) + root[:, None] * gram * root
    chol = torch.linalg.cholesky(inner)
    b = root * (x.T @ (r * target))
    half = torch.linalg.solve_triangular(chol, b[:, None], upper=False)[:, 0]
    mean = root * torch.linalg.solve_triangular(chol.T, half[:, None], upper=True)[:, 0]
    log_noise = torch.where(told, noise.log(), torch.zeros_like(noise)).sum()
    evidence = -0.5 * (log_noise + 2 * chol.diagonal().log().sum() + (r * target**2).sum() - (half**2).sum())
    return evidence, mean, chol, prior
