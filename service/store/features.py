"""Features of texts and prompts, by content key.

The column `vector` holds the feature vector and the windows of a text, as `pack_features` writes them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, delete, select

from penchant.models.encoding.features import get_embedding, unpack_features
from penchant.service.store.statements import chunks
from penchant.service.store.tables import features, judged_items

_FLOAT16: Final = np.dtype("<f2")
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


def pack_match(match: NDArray[np.float16]) -> bytes:
    """Return the content of the column `match` for the match features `[w]` of one text."""
    return match.astype(_FLOAT16, copy=False).tobytes()


def unpack_match(content: bytes) -> NDArray[np.float16]:
    """Return the match features `[w]` in the column `match`."""
    return np.frombuffer(content, _FLOAT16)


def find_features(
    connection: Connection, tenant: str, extractor: str, keys: Sequence[bytes]
) -> dict[bytes, TextFeatures]:
    """Return the stored features, by key."""
    stored = {}
    for some in chunks(keys):
        parameters = {"tenant": tenant, "extractor": extractor, "keys": some}
        for key, content, tokens, truncated in connection.execute(_FEATURES, parameters):
            vector, several = unpack_features(content)
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
