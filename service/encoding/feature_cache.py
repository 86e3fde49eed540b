"""Features of texts seen, in memory, least recently used first out, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

OVERHEAD_BYTES: Final = 400
"""What an entry costs beside its vector: key, tuple, array header, dictionary slot."""


@dataclass(frozen=True, slots=True)
class CachedFeature:
    """Features of one text.

    Attributes:
        vector: `[dim]`.
        tokens: Tokens that the encoder read.
        truncated: Whether it saw only the beginning.
    """

    vector: NDArray[np.float16]
    tokens: int
    truncated: bool


class FeatureCache:
    """LRU cache keyed by tenant and content key. Not thread-safe: it belongs to the event loop.

    Args:
        max_bytes: Upper bound of the memory held; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[tuple[str, bytes], CachedFeature] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, tenant: str, key: bytes) -> CachedFeature | None:
        """The features under a key, which become the most recent."""
        entry = self._entries.get((tenant, key))
        if entry is not None:
            self._entries.move_to_end((tenant, key))
        return entry

    def put(self, tenant: str, key: bytes, feature: CachedFeature) -> None:
        """Keeps features, dropping the least recent where room lacks."""
        self._drop((tenant, key))
        self._entries[(tenant, key)] = feature
        self.bytes += feature.vector.nbytes + OVERHEAD_BYTES
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def forget(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Drops these keys of a tenant."""
        for key in keys:
            self._drop((tenant, key))

    def clear(self) -> None:
        """Drops everything."""
        self._entries.clear()
        self.bytes = 0

    def _drop(self, entry: tuple[str, bytes]) -> None:
        feature = self._entries.pop(entry, None)
        if feature is not None:
            self.bytes -= feature.vector.nbytes + OVERHEAD_BYTES
