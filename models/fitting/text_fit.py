"""Fitting the linear text prior to messages that carry their own noise, hyperparameters by marginal likelihood.

The model of one coordinate is target = x·w + ζ + ε with w ~ N(0, block variance), ζ ~ N(0, τ²) the item residual, and
ε ~ N(0, 1/precision) the noise of the message. Residual variances are of the marginal likelihood, never in-sample.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

INTERCEPT_VARIANCE: Final = 4.0
LOG_BOUNDS: Final = (-14.0, 4.0)


@dataclass(frozen=True)
class Regression:
    """Posterior of one coordinate's weights.

    Attributes:
        mean: `[d]`.
        cov: `[d, d]`.
        prior_variance: `[d]`.
        residual_variance: τ².
        log_evidence: Log marginal likelihood of the messages, up to a constant.
    """

    mean: Tensor
    cov: Tensor
    prior_variance: Tensor
    residual_variance: float
    log_evidence: float


def regress(
    x: Tensor, blocks: Tensor, target: Tensor, precision: Tensor, hyper: NDArray[np.float64]
) -> Regression:
    """Bayesian linear regression at fixed hyperparameters.

    Args:
        x: `[n, d]`, float32 or float64.
        blocks: `[d]` block of each feature, ascending from 0; the last block is the intercept.
        target: `[n]`.
        precision: `[n]` of the messages; 0 where nothing was said.
        hyper: Log prior variance of each block but the intercept's, then log τ².

    Cost: O(n d² + d³).
    """
    log_hyper = torch.as_tensor(hyper, device=x.device)
    variances = torch.cat([log_hyper[:-1].exp(), log_hyper.new_tensor([INTERCEPT_VARIANCE])])
    prior = variances[blocks]
    tau2 = log_hyper[-1].exp()
    told = precision > 0
    x, target, precision = x[told], target[told], precision[told]
    r = 1 / (tau2 + 1 / precision)
    root = prior.sqrt()
    # The two products of n d² run in the precision of x, all else in float64.
    gram = ((x * r.to(x.dtype)[:, None]).T @ x).double()
    chol = torch.linalg.cholesky(
        torch.eye(len(prior), dtype=gram.dtype, device=x.device) + root[:, None] * gram * root
    )
    cov = root[:, None] * torch.cholesky_inverse(chol) * root
    projected = x.T.double() @ (r * target)
    mean = cov @ projected
    log_evidence = 0.5 * (
        r.log().sum() - 2 * chol.diagonal().log().sum() - (r * target**2).sum() + projected @ mean
    )
    return Regression(mean, cov, prior, float(tau2), float(log_evidence))


def gradient(
    x: Tensor, blocks: Tensor, target: Tensor, precision: Tensor, found: Regression
) -> NDArray[np.float64]:
    """Derivative of the log evidence in the log hyperparameters, `[n_hyper]`; arguments as of `regress`.

    d/d log α = ½ Σ_block (E[w²]/α − 1);  d/d log τ² = ½ τ² Σ_x r (r E[residual²] − 1).  Cost: O(n d²).
    """
    told = precision > 0
    x, target, precision = x[told], target[told], precision[told]
    r = 1 / (found.residual_variance + 1 / precision)
    relative = (found.mean**2 + found.cov.diagonal()) / found.prior_variance - 1
    by_block = relative.new_zeros(int(blocks[-1]) + 1).index_add_(0, blocks, relative)[:-1]
    spread = ((x @ found.cov.to(x.dtype)) * x).sum(1).double()
    squared = (target - x.double() @ found.mean) ** 2 + spread
    by_noise = found.residual_variance * (r * (r * squared - 1)).sum()
    both: NDArray[np.float64] = (0.5 * torch.cat([by_block, by_noise[None]])).cpu().numpy()
    return both


def tune(
    x: Tensor,
    blocks: Tensor,
    target: Tensor,
    precision: Tensor,
    start: NDArray[np.float64],
    *,
    max_steps: int,
    reach: float = math.inf,
) -> NDArray[np.float64]:
    """Type-II maximum likelihood of the hyperparameters of `regress`, by L-BFGS from `start`.

    Args:
        x: As of `regress`, like the next three.
        blocks: `[d]`.
        target: `[n]`.
        precision: `[n]`.
        start: Log hyperparameters.
        max_steps: Of L-BFGS.
        reach: How far a hyperparameter may move from its start. A first long step can take a variance to where its
            gradient vanishes: it would stay there, whatever the data say.
    """

    def objective(hyper: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found = regress(x, blocks, target, precision, hyper)
        return -found.log_evidence, -gradient(x, blocks, target, precision, found)

    low, high = LOG_BOUNDS
    bounds = [(max(low, at - reach), min(high, at + reach)) for at in start]
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": max_steps}
    )
    return np.asarray(found.x)
