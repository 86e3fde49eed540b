"""Features of texts and prompts, by content key.

The column `vector` holds the feature vector as float16 numbers. For a text of several windows their embeddings follow,
and then `_SUFFIX`: a row of odd length holds windows.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, delete, select

from penchant.models.encoding.features import get_embedding
from penchant.service.store.statements import chunks
from penchant.service.store.tables import features, judged_items

FLOAT16: Final = np.dtype("<f2")
_SUFFIX: Final = struct.Struct("<IB")  # `dim` and the number of windows, in 5 bytes
_FEATURES = select(features.c.feature_key, features.c.vector, features.c.tokens, features.c.truncated).where(
    features.c.tenant == bindparam("tenant"),
    features.c.extractor == bindparam("extractor"),
    features.c.feature_key.in_(bindparam("keys", expanding=True)),
)


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """The features of one text.

    Attributes:
        vector: Feature vector, `[dim]`.
        tokens: Number of tokens that the encoder read.
        truncated: Whether the encoder read only the beginning of the text.
        several: Embeddings of the windows of a text of several windows, `[w, encoder.dim]`. None for any other text.
    """

    vector: NDArray[np.float16]
    tokens: int
    truncated: bool
    several: NDArray[np.float16] | None = None

    @property
    def windows(self) -> NDArray[np.float16]:
        """Embeddings of the text's windows, `[w, encoder.dim]`. A single window is a view of the vector."""
        return get_embedding(self.vector) if self.several is None else self.several


def pack_vector(vector: NDArray[np.float16], windows: NDArray[np.float16]) -> bytes:
    """Return the content of the column `vector`.

    Args:
        vector: Feature vector, `[dim]`.
        windows: Embeddings of the text's windows, `[w, encoder.dim]`. A single window is part of the vector and is not
            stored again.
    """
    content = vector.astype(FLOAT16, copy=False).tobytes()
    if len(windows) == 1:
        return content
    return content + windows.astype(FLOAT16, copy=False).tobytes() + _SUFFIX.pack(len(vector), len(windows))


def unpack_vector(content: bytes) -> tuple[NDArray[np.float16], NDArray[np.float16] | None]:
    """Return the feature vector `[dim]`, and the windows `[w, encoder.dim]` of a text of several windows."""
    if len(content) % FLOAT16.itemsize == 0:
        return np.frombuffer(content, FLOAT16), None
    dim, n_windows = _SUFFIX.unpack(content[-_SUFFIX.size :])
    numbers = np.frombuffer(content, FLOAT16, (len(content) - _SUFFIX.size) // FLOAT16.itemsize)
    return numbers[:dim], numbers[dim:].reshape(n_windows, -1)


def pack_match(match: NDArray[np.float16]) -> bytes:
    """Return the content of the column `match` for the match features `[w]` of one text."""
    return match.astype(FLOAT16, copy=False).tobytes()


def unpack_match(content: bytes) -> NDArray[np.float16]:
    """Return the match features `[w]` in the column `match`."""
    return np.frombuffer(content, FLOAT16)


def find_features(
    connection: Connection, tenant: str, extractor: str, keys: Sequence[bytes]
) -> dict[bytes, TextFeatures]:
    """Return the stored features, by key."""
    stored = {}
    for some in chunks(keys):
        parameters = {"tenant": tenant, "extractor": extractor, "keys": some}
        for key, content, tokens, truncated in connection.execute(_FEATURES, parameters):
            vector, several = unpack_vector(content)
            stored[key] = TextFeatures(vector, tokens, bool(truncated), several)
    return stored


def find_vectors(
    connection: Connection, tenant: str, extractor: str, keys: Sequence[bytes]
) -> dict[bytes, NDArray[np.float16]]:
    """Return the stored vectors, `[dim]` each, by key."""
    return {key: stored.vector for key, stored in find_features(connection, tenant, extractor, keys).items()}


def drop_unneeded(connection: Connection, tenant: str, judged: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """Delete those of the (extractor, key) features of texts and prompts that no judgement needs. Return their keys."""
    by_extractor: dict[str, list[bytes]] = {}
    for extractor, key in sorted(judged):
        by_extractor.setdefault(extractor, []).append(key)
    removed: list[bytes] = []
    items, c = judged_items.c, features.c
    for extractor, keys in by_extractor.items():
        for some in chunks(keys):
            needed = {
                key
                for column in (items.feature_key, items.prompt_key)
                for key in connection.scalars(
                    select(column)
                    .where(items.tenant == tenant, items.extractor == extractor, column.in_(some))
                    .distinct()
                )
            }
            unneeded = [key for key in some if key not in needed]
            if unneeded:
                connection.execute(
                    delete(features).where(
                        c.tenant == tenant, c.extractor == extractor, c.feature_key.in_(unneeded)
                    )
                )
            removed += unneeded
    return removed
