"""API keys: authentication, scopes, creation and revocation.

A key is `pk_<key id>_<secret>`, with a secret of 256 random bits. The key id is public and identifies the stored key.
Only the SHA-256 of the whole key is stored, which suffices because the secret cannot be guessed. Keys of the environment
can be any string, and have all scopes.
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
    """Permission of a key. `admin` includes the others, and is required to delete, export and merge users."""

    RANK = "rank"
    FEEDBACK = "feedback"
    ADMIN = "admin"


ALL_SCOPES: Final = frozenset(Scope)


KEY_PREFIX: Final = "pk"
CHANGE_KIND: Final = "keys"
"""Kind of the feed's changes that concern keys."""


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Attributes:
        tenant: Tenant that owns the key.
        key_id: Id of the key. Empty for a key of the environment, and without a key.
        scopes: Scopes of the key.
    """

    tenant: str
    key_id: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raise an error unless the caller has a scope.

        Raises:
            ApiError: `forbidden`, if the caller has neither the scope nor `admin`.
        """
        if scope in self.scopes or Scope.ADMIN in self.scopes:
            return
        raise ApiError(
            Code.FORBIDDEN,
            f"This key lacks the scope `{scope}`.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            extra={"required_scope": str(scope)},
        )


_ANONYMOUS: Final = Caller(DEFAULT_TENANT, "", ALL_SCOPES)


class KeyRing:
    """The keys that a server accepts.

    A server without any key serves every caller. As soon as a key exists, requests without a key are refused, and this
    remains so after the key is revoked.

    Args:
        configured: Keys of the environment by tenant.
    """

    def __init__(self, configured: Mapping[str, str]) -> None:
        self._configured = [
            (Caller(tenant, "", ALL_SCOPES), _hash_key(key)) for tenant, key in configured.items()
        ]
        self._stored: Mapping[str, tuple[Caller, bytes]] = {}
        self._closed = bool(configured)
        self._no_key = (_ANONYMOUS, secrets.token_bytes(32))

    def load(self, stored: Iterable[StoredKey]) -> None:
        """Replace the stored keys. Any thread may call this, because the keys are replaced in one assignment."""
        keys = list(stored)
        self._stored = {
            key.key_id: (Caller(key.tenant, key.key_id, _parse_scopes(key.scopes)), key.key_hash)
            for key in keys
            if key.revoked_at is None
        }
        self._closed = self._closed or bool(keys)

    def authenticate(self, headers: Headers) -> Caller:
        """Return the caller whose key a request has.

        Unknown keys take the same path as known ones, and each comparison takes constant time.

        Raises:
            ApiError: `unauthenticated`, if the key is missing or invalid.
        """
        if not self._closed:
            return _ANONYMOUS
        scheme, _, token = headers.get("authorization", "").partition(" ")
        presented = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _hash_key(presented)
        stored_caller, stored_digest = self._stored.get(_parse_key_id(presented), self._no_key)
        caller = stored_caller if hmac.compare_digest(digest, stored_digest) else None
        for configured_caller, configured_digest in self._configured:
            if hmac.compare_digest(digest, configured_digest):
                caller = configured_caller
        if caller is None:
            detail = "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."
            raise ApiError(Code.UNAUTHENTICATED, detail)
        return caller


def create_key(
    connection: Connection, tenant: str, scopes: Collection[Scope], name: str, now: float
) -> tuple[str, StoredKey]:
    """Create a key in the caller's write transaction.

    Args:
        connection: Write transaction.
        tenant: Tenant that owns the key.
        scopes: Scopes of the key.
        name: Name to tell the key from others.
        now: Time in Unix seconds.

    Returns:
        The key, which cannot be read again, and its stored record.
    """
    key_id = secrets.token_hex(8)
    key = f"{KEY_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    stored = StoredKey(tenant, key_id, _hash_key(key), tuple(sorted(scopes)), name, now)
    keys.add_key(connection, stored)
    feed.append(connection, tenant, CHANGE_KIND, {"created": key_id}, now)
    return key, stored


def revoke_key(connection: Connection, key_id: str, now: float) -> StoredKey | None:
    """Revoke a key in the caller's write transaction, and return its stored record. None if the key does not exist.

    The servers of the store refuse the key within `change_poll_seconds`. `Feed.poll` makes a server refuse it at once.
    """
    revoked = keys.revoke_key(connection, key_id, now)
    if revoked is not None:
        feed.append(connection, revoked.tenant, CHANGE_KIND, {"revoked": key_id}, now)
    return revoked


def _parse_key_id(presented: str) -> str:
    prefix, _, rest = presented.partition("_")
    return rest.partition("_")[0] if prefix == KEY_PREFIX else ""


def _hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _parse_scopes(scopes: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes that this version knows. Scopes that a newer version stored are ignored."""
    return frozenset(scope for scope in Scope if scope in set(scopes))
