"""Features of texts and prompts, by content key.

The column `vector` holds the feature vector and the windows of a text, as `pack_features` writes them.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, delete, select

from penchant.models.encoding.features import TextFeatures, unpack_features
from penchant.service.store.statements import chunks
from penchant.service.store.tables import features, judged_items

_FEATURES = select(features.c.feature_key, features.c.vector, features.c.tokens, features.c.truncated).where(
    features.c.tenant == bindparam("tenant"),
    features.c.extractor == bindparam("extractor"),
    features.c.feature_key.in_(bindparam("keys", expanding=True)),
)


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


def drop_unneeded(connection: Connection, tenant: str, judged: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """Delete those of the (extractor, key) features of texts and prompts that no judgement needs. Return their keys."""
    by_extractor: dict[str, list[bytes]] = {}
    for extractor, key in sorted(judged):
        by_extractor.setdefault(extractor, []).append(key)
    removed: list[bytes] = []
    items, c = judged_items.c, features.c
    # Each of the two stops at the first judgement: a popular text may have been judged a million times. As expressions,
    # tenant and extractor leave only the index by the key. Otherwise SQLite, and PostgreSQL before it has counted the
    # rows, may search all judgements of the tenant. There is a limit because PostgreSQL would make a join of an EXISTS,
    # and read all judgements for it.
    same = (items.tenant.concat("") == c.tenant, items.extractor.concat("") == c.extractor)
    judgement = select(items.seq).where(*same).limit(1)
    judged_text = judgement.where(items.feature_key == c.feature_key).scalar_subquery()
    judged_prompt = judgement.where(items.prompt_key == c.feature_key).scalar_subquery()
    for extractor, keys in by_extractor.items():
        for some in chunks(keys):
            unneeded = delete(features).where(
                c.tenant == tenant,
                c.extractor == extractor,
                c.feature_key.in_(some),
                judged_text.is_(None),
                judged_prompt.is_(None),
            )
            removed += connection.scalars(unneeded.returning(c.feature_key))
    return removed
