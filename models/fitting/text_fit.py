"""Fitting the linear text prior to messages of known precision, with hyperparameters by marginal likelihood.

The model of one coordinate is target = x·w + ζ + ε with w ~ N(0, block variance), the item residual ζ ~ N(0, τ²), and
the noise of the message ε ~ N(0, 1/precision). Residual variances maximise the marginal likelihood; they are not
in-sample.
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
    """Posterior of the weights of one coordinate.

    Attributes:
        mean: Mean, `[d]`.
        cov: Covariance, `[d, d]`.
        prior_variance: Prior variance of each weight, `[d]`.
        residual_variance: Variance τ² of the item residual.
        log_evidence: Log marginal likelihood of the messages, up to a constant.
    """

    mean: Tensor
    cov: Tensor
    prior_variance: Tensor
    residual_variance: float
    log_evidence: float


def fit_regression(
    x: Tensor, blocks: Tensor, target: Tensor, precision: Tensor, hyper: NDArray[np.float64]
) -> Regression:
    """Fit a Bayesian linear regression at fixed hyperparameters.

    Args:
        x: Features, `[n, d]`, float32 or float64.
        blocks: Block of each feature, `[d]`, ascending from 0. The last block is the intercept.
        target: Targets, `[n]`.
        precision: Precisions of the targets, `[n]`; 0 for items without judgements.
        hyper: Log prior variance of each block except the intercept, then log τ².

    Cost: O(n d² + d³).
    """
    log_hyper = torch.as_tensor(hyper, device=x.device)
    variances = torch.cat([log_hyper[:-1].exp(), log_hyper.new_tensor([INTERCEPT_VARIANCE])])
    prior = variances[blocks]
    tau2 = log_hyper[-1].exp()
    observed = precision > 0
    x, target, precision = x[observed], target[observed], precision[observed]
    r = 1 / (tau2 + 1 / precision)
    root = prior.sqrt()
    # The two products that cost O(n d²) run in the precision of x, everything else in float64.
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


def compute_gradient(
    x: Tensor, blocks: Tensor, target: Tensor, precision: Tensor, found: Regression
) -> NDArray[np.float64]:
    """Return the gradient of the log evidence with respect to the log hyperparameters, `[n_hyper]`.

    d/d log α = ½ Σ_block (E[w²]/α − 1);  d/d log τ² = ½ τ² Σ_x r (r E[residual²] − 1).

    Args:
        x: Features, `[n, d]`, float32 or float64.
        blocks: Block of each feature, `[d]`, ascending from 0. The last block is the intercept.
        target: Targets, `[n]`.
        precision: Precisions of the targets, `[n]`; 0 for items without judgements.
        found: Result of `fit_regression` for the same arguments.

    Cost: O(n d²).
    """
    observed = precision > 0
    x, target, precision = x[observed], target[observed], precision[observed]
    r = 1 / (found.residual_variance + 1 / precision)
    relative = (found.mean**2 + found.cov.diagonal()) / found.prior_variance - 1
    by_block = relative.new_zeros(int(blocks[-1]) + 1).index_add_(0, blocks, relative)[:-1]
    spread = ((x @ found.cov.to(x.dtype)) * x).sum(1).double()
    squared = (target - x.double() @ found.mean) ** 2 + spread
    by_noise = found.residual_variance * (r * (r * squared - 1)).sum()
    both: NDArray[np.float64] = (0.5 * torch.cat([by_block, by_noise[None]])).cpu().numpy()
    return both


def tune_hyperparameters(
    x: Tensor,
    blocks: Tensor,
    target: Tensor,
    precision: Tensor,
    start: NDArray[np.float64],
    *,
    max_steps: int,
    reach: float = math.inf,
) -> NDArray[np.float64]:
    """Return the hyperparameters of `fit_regression` of largest marginal likelihood, found by L-BFGS.

    Args:
        x: Features, `[n, d]`, float32 or float64.
        blocks: Block of each feature, `[d]`, ascending from 0. The last block is the intercept.
        target: Targets, `[n]`.
        precision: Precisions of the targets, `[n]`; 0 for items without judgements.
        start: Log hyperparameters to start from.
        max_steps: Most steps of L-BFGS.
        reach: Largest change of a log hyperparameter. Without a bound, a long first step can take a variance to where
            its gradient vanishes, and it would stay there whatever the data.
    """

    def objective(hyper: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found = fit_regression(x, blocks, target, precision, hyper)
        return -found.log_evidence, -compute_gradient(x, blocks, target, precision, found)

    low, high = LOG_BOUNDS
    bounds = [(max(low, at - reach), min(high, at + reach)) for at in start]
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": max_steps}
    )
    return np.asarray(found.x)
