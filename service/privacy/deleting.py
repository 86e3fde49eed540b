"""One part of the deletion of a user, as a transaction of the writer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from penchant.models.taste.items import item_key
from penchant.service.errors import user_busy_error
from penchant.service.privacy.invalidation import Deletion
from penchant.service.store.long_logs.user_changes import delete_part
from penchant.service.store.users import (
    BEING_DELETED,
    drop_states,
    drop_user,
    find_user,
    lock_tenant,
    update_user,
)

TextKey = Callable[[str, str], bytes]
"""Function of a text and its prompt that returns the key under which features are cached."""


@dataclass(frozen=True)
class DeletionStep:
    """The result of one transaction.

    Attributes:
        deletion: Data that caches must drop.
        is_done: Whether everything about the user is deleted.
    """

    deletion: Deletion
    is_done: bool


def delete_step(
    connection: Connection,
    tenant: str,
    user: str,
    *,
    user_hash: str,
    keys: Sequence[TextKey],
    recent: Sequence[tuple[str, str]] = (),
) -> DeletionStep:
    """Delete a part of what the store holds about a user. The first call makes the user unknown.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant of the user.
        user: Id of the user.
        user_hash: Hash of the user, for other servers.
        keys: Functions that return the cache keys of texts, one for each extractor in use.
        recent: (prompt, text) of the user's rankings that may be in memory only.

    Raises:
        ApiError: `user_busy`, if the user is being merged.
    """
    lock_tenant(connection, tenant)  # another user may be about to judge a text of this user
    row = find_user(connection, tenant, user)
    if row is not None and row.pending not in (None, BEING_DELETED):
        raise user_busy_error(user)
    part = delete_part(connection, tenant, user)
    is_first = row is None or row.pending is None
    if row is not None and row.pending is None:
        drop_states(connection, tenant, [user])
    if part.is_last:
        drop_user(connection, tenant, user)
    elif row is not None and row.pending is None:
        update_user(connection, tenant, user, {"pending": BEING_DELETED})
    texts = [*recent, *(pair for stored in part.shown for pair in _read_shown(stored))]
    deletion = Deletion(
        tenant,
        user_hash if is_first or part.is_last else None,  # other servers search their caches for the user
        [*part.features, *_cached_keys(keys, texts)],
        [*part.items, *(item_key(prompt, text) for prompt, text in texts)],
    )
    return DeletionStep(deletion, part.is_last)


def _cached_keys(keys: Sequence[TextKey], pairs: Sequence[tuple[str, str]]) -> list[bytes]:
    """Return the content keys under which the features of texts and of their prompts may be cached."""
    return [
        cached
        for key in keys
        for prompt, text in dict.fromkeys(pairs)
        for cached in (key(text, prompt), key(prompt, ""))
    ]


def _read_shown(stored: bytes) -> Sequence[tuple[str, str]]:
    """Return the (prompt, text) pairs of a stored ranking."""
    shown = orjson.loads(stored)
    prompts, texts = shown["prompts"], shown["texts"]
    return [(prompts[i if len(prompts) > 1 else 0], text) for i, text in enumerate(texts)]
