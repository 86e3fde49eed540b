"""Scrambled Sobol points: the very numbers that torch draws, in numpy.

A user's posterior depends on these numbers to the last bit, through every choice and ranking that was learned. They must
not depend on which libraries a server has, nor on their versions.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

BITS: Final = 30
"""Binary digits of a coordinate."""

MAX_WIDTH: Final = 21_201
"""Dimensions in Joe and Kuo's table."""

MAX_POINTS: Final = 1024
"""As many as the first ten direction numbers of a dimension reach."""

TABLE: Final = Path(__file__).with_name("sobol.npy")
"""`[21201, 6]` uint8, written by scripts/write_sobol_table.py. The licence of these numbers lies beside them."""

_NUMBERS: Final = MAX_POINTS.bit_length() - 1
_PLACES: Final = np.arange(BITS - 1, -1, -1)  # of a coordinate's binary digits, the most significant first


def scrambled_sobol(width: int, count: int, *, seed: int = 0) -> NDArray[np.float64]:
    """The first points of a Sobol sequence in [0, 1)^width, scrambled.

    Joe and Kuo (2008) give the direction numbers. Matoušek's (1998) linear scrambling multiplies each of them by a
    random lower triangular matrix over GF(2), and a random shift is added to every point.

    Args:
        width: Dimensions.
        count: Points.
        seed: Of the scrambling.

    Returns:
        `[count, width]`, equal bit by bit to torch's `SobolEngine(width, scramble=True, seed=seed).draw(count)`; like
        those, the numbers are float32 exactly.

    Raises:
        ValueError: The table does not reach so far.

    Cost: O(width · (BITS² + count)); 2 ms for 256 points of 50 dimensions, 60 ms for 512 of 1,024.
    """
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"a Sobol sequence has 1 to {MAX_WIDTH} dimensions, {width} were asked for")
    if not 1 <= count <= MAX_POINTS:
        raise ValueError(f"the table reaches 1 to {MAX_POINTS} Sobol points, {count} were asked for")
    number = (count - 1).bit_length()
    # torch seeds the Mersenne Twister in the same way, draws a 32-bit number for each bit, and keeps the lowest.
    twister = np.random.RandomState(seed)  # the stream that NumPy promises never to change

    def random_bits(*shape: int) -> NDArray[np.uint8]:
        return (twister.randint(0, 1 << 32, shape, np.uint32) & 1).astype(np.uint8)

    shift = random_bits(width, BITS).astype(np.int64) @ (1 << _PLACES[::-1])
    matrices = np.tril(random_bits(width, BITS, BITS))
    matrices[:, np.arange(BITS), np.arange(BITS)] = 1
    digits = (_direction_numbers(width)[:, None, :number] >> _PLACES[:, None] & 1).astype(np.uint8)
    # Sums of 30 bits fit into 8; their lowest bit is the sum over GF(2).
    directions = np.einsum("p,wpn->wn", 1 << _PLACES, (matrices @ digits & 1).astype(np.int64))
    points = shift[None, :]
    for n in range(number):  # in the order of the Gray code, which reflects what came before
        points = np.concatenate([points, points[::-1] ^ directions[:, n]])
    fractions: NDArray[np.float64] = points[:count].astype(np.float32).astype(np.float64) * 2.0**-BITS
    return fractions


def packed(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The table as it is stored: the j-th number m_j of a dimension is odd and below 2^j, so j − 1 bits determine it.

    Args:
        numbers: `[width, BITS]` direction numbers m_j 2^(BITS − j).
    """
    bits = [
        numbers[:, j, None] >> (BITS - 1 - j) >> np.arange(1, j + 1) & 1  # of m_(j+1)
        for j in range(1, _NUMBERS)
    ]
    return np.packbits(np.concatenate(bits, axis=1).astype(np.uint8), axis=1)


def _direction_numbers(width: int) -> NDArray[np.int64]:
    """`[width, 10]` m_j 2^(BITS − j). Cost: the file is read."""
    bits = np.unpackbits(np.load(TABLE, allow_pickle=False)[:width], axis=1).astype(np.int64)
    found = np.ones((len(bits), _NUMBERS), np.int64)
    start = 0
    for j in range(1, _NUMBERS):
        found[:, j] += bits[:, start : start + j] @ (1 << np.arange(1, j + 1))
        start += j
    return found << (BITS - 1 - np.arange(_NUMBERS))
