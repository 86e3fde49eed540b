"""Quasi-random numbers that are the same on every call: scrambled Sobol points, equal to torch's, and normal draws.

A user's posterior depends on these numbers to the last bit, through every choice and ranking that is learned. They must
not depend on the libraries that a server has, nor on their versions.
"""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

BITS: Final = 30
"""Binary digits of a coordinate."""

MAX_WIDTH: Final = 21_201
"""Number of dimensions in Joe and Kuo's table."""

MAX_POINTS: Final = 1024
"""Number of points that the first ten direction numbers of a dimension can generate."""

TABLE: Final = Path(__file__).with_name("sobol.npy")
"""`[21201, 6]` uint8, written by scripts/write_sobol_table.py. The licence of these numbers is in sobol.LICENSE."""

_NUMBERS: Final = MAX_POINTS.bit_length() - 1
_PLACES: Final = np.arange(BITS - 1, -1, -1)  # of a coordinate's binary digits, the most significant first


def scrambled_sobol(width: int, count: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Return the first points of a scrambled Sobol sequence in [0, 1)^width.

    Joe and Kuo (2008) give the direction numbers. Matoušek's (1998) linear scrambling multiplies each of them by a
    random lower triangular matrix over GF(2), and a random shift is added to every point.

    Args:
        width: Number of dimensions.
        count: Number of points.
        seed: Seed of the scrambling.

    Returns:
        `[count, width]`, equal bit by bit to torch's `SobolEngine(width, scramble=True, seed=seed).draw(count)`. Like
        those, the numbers are exact in float32.

    Raises:
        ValueError: If there are too many dimensions or points for the table.

    Cost: O(width · (BITS² + count)); 2 ms for 256 points of 50 dimensions, 60 ms for 512 of 1,024.
    """
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"a Sobol sequence has 1 to {MAX_WIDTH} dimensions, not {width}")
    if not 1 <= count <= MAX_POINTS:
        raise ValueError(f"the table gives 1 to {MAX_POINTS} Sobol points, not {count}")
    number = (count - 1).bit_length()
    # As torch does: a Mersenne Twister draws a 32-bit number for each bit, of which the lowest bit is kept.
    twister = np.random.RandomState(seed)  # NumPy guarantees that its stream never changes

    def random_bits(*shape: int) -> NDArray[np.uint8]:
        return (twister.randint(0, 1 << 32, shape, np.uint32) & 1).astype(np.uint8)

    shift = random_bits(width, BITS).astype(np.int64) @ (1 << _PLACES[::-1])
    matrices = np.tril(random_bits(width, BITS, BITS))
    matrices[:, np.arange(BITS), np.arange(BITS)] = 1
    digits = (_direction_numbers(width)[:, None, :number] >> _PLACES[:, None] & 1).astype(np.uint8)
    # Sums of 30 bits fit into 8 bits; their lowest bit is the sum over GF(2).
    directions = np.einsum("p,wpn->wn", 1 << _PLACES, (matrices @ digits & 1).astype(np.int64))
    points = shift[None, :]
    for n in range(number):  # in Gray-code order, each step reflecting the points so far
        points = np.concatenate([points, points[::-1] ^ directions[:, n]])
    fractions: NDArray[np.float64] = points[:count].astype(np.float32).astype(np.float64) * 2.0**-BITS
    return fractions


@cache
def sobol_draws(width: int, count: int) -> NDArray[np.float64]:
    """Return `[count, width]` standard normal numbers, from scrambled Sobol points of a fixed seed.

    The array is cached by (width, count) and read-only.
    """
    uniform = scrambled_sobol(width, count)
    draws: NDArray[np.float64] = ndtri(np.clip(uniform, 1e-9, 1 - 1e-9))
    draws.flags.writeable = False
    return draws


@cache
def normal_draws(width: int, count: int) -> NDArray[np.float64]:
    """Return `[count, width]` standard normal numbers: `sobol_draws` and their negatives, decorrelated.

    Their mean is exactly 0. If count is at least 4·width, their covariance is exactly the identity, so that linear and
    quadratic functions are integrated without error.

    Args:
        width: Number of dimensions.
        count: Number of draws, even.

    The array is cached by (width, count) and read-only.
    """
    half = sobol_draws(width, count // 2)
    if count >= 4 * width:
        half = np.linalg.solve(np.linalg.cholesky(half.T @ half / len(half)), half.T).T
    draws: NDArray[np.float64] = np.concatenate([half, -half])
    draws.flags.writeable = False
    return draws


def pack_table(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the stored form of the table: the j-th number m_j of a dimension is odd and below 2^j: j − 1 bits.

    Args:
        numbers: `[width, BITS]` direction numbers m_j 2^(BITS − j).
    """
    bits = [
        numbers[:, j, None] >> (BITS - 1 - j) >> np.arange(1, j + 1) & 1  # of m_(j+1)
        for j in range(1, _NUMBERS)
    ]
    return np.packbits(np.concatenate(bits, axis=1).astype(np.uint8), axis=1)


def _direction_numbers(width: int) -> NDArray[np.int64]:
    """`[width, 10]` m_j 2^(BITS − j), read from the file."""
    bits = np.unpackbits(np.load(TABLE, allow_pickle=False)[:width], axis=1).astype(np.int64)
    numbers = np.ones((len(bits), _NUMBERS), np.int64)
    start = 0
    for j in range(1, _NUMBERS):
        numbers[:, j] += bits[:, start : start + j] @ (1 << np.arange(1, j + 1))
        start += j
    return numbers << (BITS - 1 - np.arange(_NUMBERS))
