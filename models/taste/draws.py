"""Quasi-random standard normal draws: the same numbers on every call, so that equal questions get equal answers."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri


@cache
def sobol_draws(width: int, count: int) -> NDArray[np.float64]:
    """`[count, width]` standard normal numbers, scrambled Sobol of a fixed seed.

    Cost: once per (width, count), then a look-up. The array must not be written to.
    """
    from torch.quasirandom import SobolEngine  # noqa: PLC0415 - torch is loaded with the encoder, not by this module

    engine = SobolEngine(width, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    uniform = engine.draw(count).double().numpy()
    draws: NDArray[np.float64] = ndtri(np.clip(uniform, 1e-9, 1 - 1e-9))
    draws.flags.writeable = False
    return draws


@cache
def normal_draws(width: int, count: int) -> NDArray[np.float64]:
    """`[count, width]` standard normal numbers in pairs of opposite sign, made of `sobol_draws`.

    Their mean is exactly 0 and, where count is at least 4·width, their covariance exactly the identity: linear and
    quadratic functions are integrated without error.

    Args:
        width: Dimensions.
        count: An even number.

    Cost: once per (width, count), then a look-up. The array must not be written to.
    """
    half = sobol_draws(width, count // 2)
    if count >= 4 * width:
        half = np.linalg.solve(np.linalg.cholesky(half.T @ half / len(half)), half.T).T
    draws: NDArray[np.float64] = np.concatenate([half, -half])
    draws.flags.writeable = False
    return draws
