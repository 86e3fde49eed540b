"""Deletion of data that is older than its tenant keeps it, and of what was learned from it, a few users at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy import Connection

from penchant.service.access.limits import Tenancy
from penchant.service.bundles.served_model import Models
from penchant.service.feedback.chores import Transact
from penchant.service.privacy.invalidation import Deletion, announce
from penchant.service.store.event_ids import find_targets
from penchant.service.store.events import drop_events, find_older_events, find_users_with_older
from penchant.service.store.requests import drop_older_rankings
from penchant.service.store.statements import AnyRow
from penchant.service.store.users import drop_states, drop_user, find_user, lock_tenant, update_user
from penchant.service.telemetry.metrics import Telemetry
from penchant.service.users.states import Evidence, UserKey, UserState, build_unlearned_state

_DAY: Final = 86_400.0

USERS_AT_ONCE: Final = 20
"""Users whose data is deleted in one transaction, for which feedback has to wait."""

EVENTS_AT_ONCE: Final = 200
"""Events that are deleted in one transaction, and those that they retract."""


@dataclass
class Sweep:
    """The result of one transaction.

    Attributes:
        events: Number of deleted events.
        states: New state of each affected user. None if the user's log is empty.
        deletions: Data that caches must drop, each with the id of a user who is deleted with it, or None.
        has_more: Whether there may be more to delete.
    """

    events: int = 0
    states: dict[UserKey, UserState | None] = field(default_factory=dict)
    deletions: list[tuple[Deletion, str | None]] = field(default_factory=list)
    has_more: bool = False


def sweep(
    connection: Connection,
    tenant: str,
    retention_days: float,
    now: float,
    *,
    start: Evidence,
    hash_user: Callable[[str, str], str],
) -> Sweep:
    """Delete a slice of the expired rankings of a tenant, and some expired judgements of some of its users.

    Users who are being merged or deleted wait. A retraction and the judgement that it retracts are deleted together,
    because the judgement would otherwise count again.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant whose data is deleted.
        retention_days: Days after which data expires.
        now: Unix seconds.
        start: Evidence of a user without feedback.
        hash_user: Function that hashes a tenant's user, for other servers.
    """
    before = now - retention_days * _DAY
    result = Sweep()
    removed = drop_older_rankings(connection, before, tenant).get(tenant)
    result.has_more = removed is not None and removed.has_more
    users = find_users_with_older(connection, tenant, before, USERS_AT_ONCE)
    if not users:
        return result
    lock_tenant(connection, tenant)  # another user may be about to judge a text that would be deleted
    for user in users:
        if result.events >= EVENTS_AT_ONCE:
            result.has_more = True
            break
        oldest = find_older_events(connection, tenant, user, before, EVENTS_AT_ONCE)
        result.has_more |= len(oldest) == EVENTS_AT_ONCE
        seqs = _with_retracted(connection, (tenant, user), oldest)
        features, items = drop_events(connection, tenant, user, seqs)
        state = _shorten(connection, (tenant, user), len(seqs), start)
        result.states[(tenant, user)] = state
        deleted = user if state is None else None
        user_hash = None if deleted is None else hash_user(tenant, deleted)
        result.deletions.append((Deletion(tenant, user_hash, features, items), deleted))
        result.events += len(seqs)
    drop_states(connection, tenant, [user for _, user in result.states])
    result.has_more |= len(users) == USERS_AT_ONCE
    return result


def _shorten(connection: Connection, key: UserKey, events: int, start: Evidence) -> UserState | None:
    """Update a user whose log has lost some events, and return the new state, or None if no event remains."""
    row = find_user(connection, *key)
    if row is None or row.feedback_events <= events:
        drop_user(connection, *key)
        return None
    left = {"feedback_events": row.feedback_events - events, "version": row.version + 1}
    update_user(connection, *key, left)
    row = find_user(connection, *key)
    return None if row is None else build_unlearned_state(row, start)


def _with_retracted(connection: Connection, key: UserKey, events: Sequence[AnyRow]) -> Sequence[int]:
    """Return the places of events (seq, target_event_id), and of the events that they retract."""
    seqs = {event.seq for event in events}
    while retractions := [event for event in events if event.target_event_id is not None]:
        events = [event for event in find_targets(connection, *key, retractions) if event.seq not in seqs]
        seqs |= {event.seq for event in events}
    return sorted(seqs)


class Retention:
    """A chore of the writer's thread that deletes expired data of all tenants in small steps.

    Args:
        tenancy: Settings of tenants, with their retention.
        models: Models of this server. The current one caches the states.
        invalidate: Function that drops deleted data from the caches. It takes the deletion, and the id of its user.
        shared: Whether other servers must be notified.
        telemetry: Telemetry, which counts deleted events and hashes users.
    """

    def __init__(
        self,
        *,
        tenancy: Tenancy,
        models: Models,
        invalidate: Callable[[Deletion, str | None], None],
        shared: bool,
        telemetry: Telemetry,
    ) -> None:
        self._tenancy = tenancy
        self._models = models
        self._invalidate = invalidate
        self._shared = shared
        self._telemetry = telemetry

    def step(self, transact: Transact, now: float) -> bool:
        """Run one transaction for each tenant with a retention limit, and return whether there may be more to delete.

        Args:
            transact: Function that runs work in a write transaction.
            now: Unix seconds.
        """
        has_more = False
        for tenant, days in self._tenancy.get_retention_days().items():
            swept = transact(partial(self._sweep, tenant, days, now))
            for key, state in swept.states.items():
                self._models.current.cache.publish(key, state)
            for deletion, deleted in swept.deletions:
                self._invalidate(deletion, deleted)
            self._telemetry.outlived_events.inc(swept.events)
            has_more = has_more or swept.has_more
        return has_more

    def _sweep(self, tenant: str, days: float, now: float, connection: Connection) -> Sweep:
        start, hash_user = self._models.current.fold.start, self._telemetry.hash_user
        swept = sweep(connection, tenant, days, now, start=start, hash_user=hash_user)
        if self._shared:
            for deletion, _ in swept.deletions:
                announce(connection, deletion, now)
        return swept
