"""Products of matrices whose results do not depend on how many rows are computed together.

BLAS adds numbers in an order that depends on the shape of a product, the number of threads and the processor. The last
bits of a text's coordinates would therefore depend on the texts that are described with it, and a user's state on how
the events of the log are grouped. Here nothing is rounded, so that the order does not matter: the numbers of x are
multiples of a power of two (`round_to_grid`), the matrix is a sum of parts whose numbers are multiples of powers of two
as well, and every sum of their products has at most 53 binary digits, which float64 represents exactly.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

GRID: Final = 2.0**-22
"""Distance between two values of a standardised feature: about the accuracy of float32."""

_SUM_BITS: Final = 52
"""Binary digits of the largest sum. One of float64's 53 is left for the rounding of the matrix."""


def round_to_grid(x: Vector, step: float = GRID) -> Vector:
    """Round numbers to multiples of a power of two, in place, and return them. They must be below 2⁵¹ multiples."""
    shift = 1.5 * 2.0**52 * step  # multiples of `step` are all that float64 holds at this size
    x += shift
    x -= shift
    return x


class ExactProduct:
    """The function x ↦ xW, whose result for a row of x does not depend on the other rows.

    It is exact for the rounded W if x is on the grid and within its bounds. Otherwise it is as accurate as a product in
    float64, but may depend on the other rows.

    Args:
        matrix: `[d, p]` W.
        bounds: `[d]` largest absolute value of each column of x.
        step: Distance of the grid on which x lies, a power of two.
        parts: Number of matrices whose sum represents W. The error of a number of W, relative to the largest value that
            its column of |x||W| can have, is 2⁻³⁰ for one part at the default grid, and 2⁻⁵⁴ for two. The
            cost is proportional.

    Cost: O(n d p) in float64 for n rows.
    """

    def __init__(
        self, matrix: NDArray[np.floating], bounds: Vector, *, step: float = GRID, parts: int = 2
    ) -> None:
        self._width, self._n_parts = matrix.shape[1], parts
        rest, rounded = matrix.astype(np.float64), []
        for _ in range(parts):
            largest = np.maximum(bounds @ np.abs(rest), np.finfo(np.float64).tiny)
            column_step = 2.0 ** np.maximum(np.ceil(np.log2(largest / step)) - _SUM_BITS, -1000.0)
            rounded.append(np.rint(rest / column_step) * column_step)
            rest = rest - rounded[-1]
        self._parts = np.concatenate(rounded, axis=1)

    def __call__(self, x: Vector) -> Vector:
        """Return xW `[n, p]` for x `[n, d]`."""
        products: Vector = x @ self._parts
        total = products[:, : self._width]
        for part in range(1, self._n_parts):
            total = total + products[:, part * self._width : (part + 1) * self._width]
        return total
