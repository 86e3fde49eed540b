"""The logistic likelihood in a fit: the Jaakkola–Jordan bound of votes and comparisons, on torch.

log σ(yψ) ≥ ½yψ − ½ωψ² + const with ω = tanh(ξ/2)/(2ξ), which is tightest at ξ² = E[ψ²] (Jaakkola & Jordan 2000, eq. 13).
"""

import torch
from torch import Tensor


def compute_bound_precision(second_moment: Tensor) -> Tensor:
    """Return ω of the bound at its optimum, `[j]`, for given E[ψ²], `[j]`."""
    xi = second_moment.clamp_min(1e-8).sqrt()
    return torch.tanh(xi / 2) / (2 * xi)


def compute_bound_slope(label: Tensor, power: Tensor, correctness: Tensor) -> Tensor:
    """Return the coefficient ½y of ψ in the bound, `[j]`.

    If a label is correct only with probability r, its expectation (2r − 1)·y takes the place of y.

    Args:
        label: Labels y, ±1, `[j]`.
        power: Power of each likelihood, `[j]`.
        correctness: Probability r that each label is correct, `[j]`.
    """
    return 0.5 * label * power * (2 * correctness - 1)
