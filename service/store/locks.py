"""Who may change a user on a store that several servers share: one transaction at a time, in any process.

PostgreSQL's advisory locks, held until the transaction ends, in whatever way. On SQLite a write transaction is alone
anyway, and nothing is done here.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, text

_ALONE: Final = text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
_SHARED: Final = text("SELECT pg_advisory_xact_lock_shared(key) FROM unnest(CAST(:keys AS bigint[])) AS key")


def hold_users(connection: Connection, users: Iterable[tuple[str, str]]) -> None:
    """Waits until no other transaction changes these (tenant, user)s, or a whole tenant of theirs.

    Whoever reads after this, in a transaction that is READ COMMITTED, reads the newest. Taken once a transaction, all
    at once: locks are taken in one order everywhere, so that nobody waits in a circle.

    Raises:
        DBAPIError: They were not free in time.
    """
    if connection.dialect.name != "postgresql":
        return
    named = set(users)
    if named:
        connection.execute(_SHARED, {"keys": _keys((tenant,) for tenant, _ in named)})
        connection.execute(_ALONE, {"keys": _keys(named)})


def hold_tenant(connection: Connection, tenant: str) -> None:
    """Waits until no other transaction changes any user of a tenant: for what looks at all of them, such as a deletion.

    Raises:
        DBAPIError: It was not free in time.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_ALONE, {"keys": _keys([(tenant,)])})


def _keys(names: Iterable[tuple[str, ...]]) -> list[int]:
    """Signed 64-bit hashes, in order. Two names with one hash wait for each other, which harms nobody."""
    digests = (
        hashlib.blake2b("\x00".join(name).encode("utf-8", "surrogatepass"), digest_size=8) for name in names
    )
    return sorted({int.from_bytes(digest.digest(), "big", signed=True) for digest in digests})
