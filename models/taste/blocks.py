"""Symmetric matrices over items that fall into blocks: texts that were never compared have nothing between them."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Vector = NDArray[np.float64]
Index = NDArray[np.int64]


class Blocks:
    """Block-diagonal `[N, N]` matrices, one block for each set of items that comparisons connect, stored as one vector.

    Args:
        n: N items.
        edges: `[E, 2]` items that belong together.

    Attributes:
        numbers: Length of the vector.
    """

    def __init__(self, n: int, edges: Index) -> None:
        graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
        count, block = connected_components(graph, directed=False)
        members = np.argsort(block, kind="stable")
        sizes = np.bincount(block, minlength=count)
        starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        self._place = np.empty(n, np.int64)
        self._place[members] = np.arange(n) - np.repeat(starts, sizes)
        ends = np.cumsum(sizes**2)
        self.numbers = int(ends[-1]) if count else 0
        self._start, self._size = (ends - sizes**2)[block], sizes[block]
        # Blocks of one size are handled together: their items `[B, s]` and the places of their numbers `[B, s, s]`.
        self._groups = []
        for size in np.unique(sizes):
            items = members[starts[sizes == size][:, None] + np.arange(size)]
            self._groups.append((items, self.at(items[:, :, None], items[:, None, :])))

    def at(self, rows: Index, columns: Index) -> Index:
        """Places of entries (row, column) in the vector; both items must be of one block."""
        places: Index = self._start[rows] + self._place[rows] * self._size[rows] + self._place[columns]
        return places

    def damped(self, matrix: Vector, residual: Vector, values: Vector) -> tuple[Vector, Vector]:
        """G·values `[N, m]` and G·diag(residual), G = (I + diag(residual)·matrix)⁻¹.

        Args:
            matrix: `[numbers]`.
            residual: `[N]`, at least 0.
            values: `[N, m]`.

        Cost: O(Σ s³) over blocks of s items.
        """
        carried, rest = np.empty_like(values), np.empty(self.numbers)
        for items, places in self._groups:
            noise = residual[items]
            inverse = np.linalg.inv(np.eye(items.shape[1]) + noise[:, :, None] * matrix[places])
            carried[items] = inverse @ values[items]
            rest[places] = inverse * noise[:, None, :]
        return carried, rest

    def times(self, matrix: Vector, values: Vector) -> Vector:
        """Matrix · values, `[N, m]`."""
        product = np.empty_like(values)
        for items, places in self._groups:
            product[items] = matrix[places] @ values[items]
        return product
