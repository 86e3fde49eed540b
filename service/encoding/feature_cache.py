"""`FeatureCache`: the features of recent texts in memory, bounded in bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.service.cache import BoundedCache

OVERHEAD_BYTES: Final = 400
"""Memory of an entry beside its vector: key, tuple, array header, dictionary slot."""


@dataclass(frozen=True, slots=True)
class CachedFeature:
    """Features of one text.

    Attributes:
        vector: Feature vector, `[dim]`.
        tokens: Number of tokens that the encoder read.
        truncated: Whether the encoder read only the beginning of the text.
    """

    vector: NDArray[np.float16]
    tokens: int
    truncated: bool


class FeatureCache:
    """A cache of features by tenant and content key. Not thread-safe: it belongs to the event loop.

    Args:
        max_bytes: Largest memory of all entries together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: BoundedCache[tuple[str, bytes], CachedFeature] = BoundedCache(
            max_bytes, size=_memory_of
        )

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Memory of all entries together, in bytes."""
        return self._entries.size

    def get(self, tenant: str, key: bytes) -> CachedFeature | None:
        """Return the features of a key and mark them as used. Return None if they are not cached."""
        return self._entries.get((tenant, key))

    def put(self, tenant: str, key: bytes, feature: CachedFeature) -> None:
        """Add features, and drop the least recently used ones while the limit is exceeded."""
        self._entries.put((tenant, key), feature)

    def forget(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Remove the features of some keys of a tenant."""
        for key in keys:
            self._entries.remove((tenant, key))

    def clear(self) -> None:
        """Remove all features."""
        self._entries.clear()


def _memory_of(feature: CachedFeature) -> int:
    return feature.vector.nbytes + OVERHEAD_BYTES
