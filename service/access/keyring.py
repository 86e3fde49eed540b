"""Who calls: API keys → tenant and scopes.

A key is `pk_<key id>_<secret>`, the secret 256 random bits. The key id is public and finds the stored key; what is
stored is the SHA-256 of the whole key, which is enough for a secret that nobody can guess. Keys of the environment are
whatever their operator chose, and may do everything.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection
from starlette.datastructures import Headers

from penchant.service.errors import ApiError, Code
from penchant.service.settings import DEFAULT_TENANT
from penchant.service.store import feed, keys
from penchant.service.store.keys import StoredKey


class Scope(StrEnum):
    """What a key may do. `admin` may do everything, and alone delete, export and merge users."""

    RANK = "rank"
    FEEDBACK = "feedback"
    ADMIN = "admin"


EVERYTHING: Final = frozenset(Scope)


PREFIX: Final = "pk"
CHANGE: Final = "keys"
"""Kind of the changes that tell of keys."""


@dataclass(frozen=True)
class Caller:
    """Who sends a request.

    Attributes:
        tenant: Whose app it is.
        key_id: Which key it bears; "" for a key of the environment, or none.
        scopes: What it may do.
    """

    tenant: str
    key_id: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Refuses what the key may not do.

        Raises:
            ApiError: `forbidden`.
        """
        if scope in self.scopes or Scope.ADMIN in self.scopes:
            return
        raise ApiError(
            Code.FORBIDDEN,
            f"This key lacks the scope `{scope}`.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            extra={"required_scope": str(scope)},
        )


_ANYBODY: Final = Caller(DEFAULT_TENANT, "", EVERYTHING)


class KeyRing:
    """The keys that open this server.

    Once a key was made it is closed to whoever has none, even after that key was revoked.

    Args:
        configured: Tenant → key, from the settings.
    """

    def __init__(self, configured: Mapping[str, str]) -> None:
        self._configured = [
            (Caller(tenant, "", EVERYTHING), _digest(key)) for tenant, key in configured.items()
        ]
        self._stored: Mapping[str, tuple[Caller, bytes]] = {}
        self._closed = bool(configured)
        self._nobody = (_ANYBODY, secrets.token_bytes(32))

    def load(self, stored: Iterable[StoredKey]) -> None:
        """Replaces the stored keys. Any thread may call it: the change is one assignment."""
        listed = list(stored)
        self._stored = {
            key.key_id: (Caller(key.tenant, key.key_id, _known(key.scopes)), key.key_hash)
            for key in listed
            if key.revoked_at is None
        }
        self._closed = self._closed or bool(listed)

    def caller(self, headers: Headers) -> Caller:
        """Whose key the request bears.

        An unknown key takes the same path as a known one, and every comparison constant time.

        Raises:
            ApiError: `unauthenticated`.
        """
        if not self._closed:
            return _ANYBODY
        scheme, _, token = headers.get("authorization", "").partition(" ")
        presented = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(presented)
        who, known = self._stored.get(_key_id(presented), self._nobody)
        found = who if hmac.compare_digest(digest, known) else None
        for one, known in self._configured:
            if hmac.compare_digest(digest, known):
                found = one
        if found is None:
            detail = "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."
            raise ApiError(Code.UNAUTHENTICATED, detail)
        return found


def create_key(
    connection: Connection, tenant: str, scopes: Collection[Scope], name: str, now: float
) -> tuple[str, StoredKey]:
    """Makes a key in the caller's write transaction.

    Args:
        connection: A write transaction.
        tenant: Whose key it is.
        scopes: What it may do.
        name: What its owner calls it.
        now: Unix seconds.

    Returns:
        The key, which nobody can ever read again, and what is stored of it.
    """
    key_id = secrets.token_hex(8)
    key = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    stored = StoredKey(tenant, key_id, _digest(key), tuple(sorted(scopes)), name, now)
    keys.add_key(connection, stored)
    feed.append(connection, tenant, CHANGE, {"created": key_id}, now)
    return key, stored


def revoke_key(connection: Connection, key_id: str, now: float) -> StoredKey | None:
    """Makes a key invalid in the caller's write transaction; None where there is no such key.

    Servers of the store refuse it as soon as they hear of it, within `change_poll_seconds`; `Feed.poll` makes a server
    hear of it at once.
    """
    revoked = keys.revoke_key(connection, key_id, now)
    if revoked is not None:
        feed.append(connection, revoked.tenant, CHANGE, {"revoked": key_id}, now)
    return revoked


def _key_id(presented: str) -> str:
    prefix, _, rest = presented.partition("_")
    return rest.partition("_")[0] if prefix == PREFIX else ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _known(scopes: Iterable[str]) -> frozenset[Scope]:
    """Scopes that this version knows; one that a newer version stored opens nothing here."""
    return frozenset(scope for scope in Scope if scope in set(scopes))
