"""Features of texts, by content key."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, delete, select

from penchant.service.store.statements import CHUNK, chunks
from penchant.service.store.tables import features, judged_items

FLOAT16: Final = np.dtype("<f2")
_FEATURES = select(features.c.feature_key, features.c.vector, features.c.tokens, features.c.truncated).where(
    features.c.tenant == bindparam("tenant"),
    features.c.extractor == bindparam("extractor"),
    features.c.feature_key.in_(bindparam("keys", expanding=True)),
)


@dataclass(frozen=True)
class StoredFeature:
    """One row of `features`.

    Attributes:
        vector: `[dim]`.
        tokens: Tokens read.
        truncated: Whether the text was cut.
    """

    vector: NDArray[np.float16]
    tokens: int
    truncated: bool


def find_features(
    connection: Connection, tenant: str, extractor: str, keys: Sequence[bytes]
) -> dict[bytes, StoredFeature]:
    """Stored features of these keys."""
    found = {}
    for some in chunks(keys):
        parameters = {"tenant": tenant, "extractor": extractor, "keys": some}
        for key, vector, tokens, truncated in connection.execute(_FEATURES, parameters):
            found[key] = StoredFeature(np.frombuffer(vector, FLOAT16), tokens, bool(truncated))
    return found


def vectors_of(
    connection: Connection, tenant: str, extractor: str, keys: Sequence[bytes]
) -> dict[bytes, NDArray[np.float16]]:
    """Stored features of these keys, `[dim]` each."""
    found: dict[bytes, NDArray[np.float16]] = {}
    for start in range(0, len(keys), CHUNK):
        some = keys[start : start + CHUNK]
        statement = select(features.c.feature_key, features.c.vector).where(
            features.c.tenant == tenant, features.c.extractor == extractor, features.c.feature_key.in_(some)
        )
        found |= {key: np.frombuffer(vector, FLOAT16) for key, vector in connection.execute(statement)}
    return found


def drop_unneeded(connection: Connection, tenant: str, judged: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """Removes those of the features, (extractor, key) each, that no judgement needs any more; returns their keys."""
    by_extractor: dict[str, list[bytes]] = {}
    for extractor, key in sorted(judged):
        by_extractor.setdefault(extractor, []).append(key)
    removed: list[bytes] = []
    items, c = judged_items.c, features.c
    for extractor, keys in by_extractor.items():
        for start in range(0, len(keys), CHUNK):
            some = keys[start : start + CHUNK]
            needed = set(
                connection.scalars(
                    select(items.feature_key)
                    .where(items.tenant == tenant, items.extractor == extractor, items.feature_key.in_(some))
                    .distinct()
                )
            )
            gone = [key for key in some if key not in needed]
            if gone:
                connection.execute(
                    delete(features).where(
                        c.tenant == tenant, c.extractor == extractor, c.feature_key.in_(gone)
                    )
                )
            removed += gone
    return removed
