"""What is older than a tenant keeps it is removed, some users at a time, and what was learned from it with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy import Connection

from penchant.service.access.tenancy import Tenancy
from penchant.service.bundles.served_model import Models
from penchant.service.feedback.commits import Transact
from penchant.service.privacy.forgotten import Forgotten, announce
from penchant.service.store.events import drop_events, find_events, find_older_events, find_users_with_older
from penchant.service.store.requests import drop_older_rankings
from penchant.service.store.users import drop_states, drop_user, find_user, lock_tenant, update_user
from penchant.service.telemetry.metrics import Telemetry
from penchant.service.users.states import Evidence, UserKey, UserState, unlearned

_DAY: Final = 86_400.0

USERS_AT_ONCE: Final = 20
"""In one transaction; feedback waits for it."""


@dataclass
class Swept:
    """What one transaction removed.

    Attributes:
        events: How many.
        states: Of the users whose log is shorter now; None of those of whose log nothing is left.
        forgotten: What may not be remembered.
        more: Whether there may be more to remove.
    """

    events: int = 0
    states: dict[UserKey, UserState | None] = field(default_factory=dict)
    forgotten: list[Forgotten] = field(default_factory=list)
    more: bool = False


def sweep(
    connection: Connection,
    tenant: str,
    retention_days: float,
    now: float,
    *,
    start: Evidence,
    hash_user: Callable[[str, str], str],
) -> Swept:
    """Removes judgements and rankings of a tenant that were received too long ago, of up to `USERS_AT_ONCE` users.

    A retraction goes with what it takes back, and takes it along: else that would count again.

    Args:
        connection: A write transaction.
        tenant: Whose.
        retention_days: After so many days they go.
        now: Unix seconds.
        start: Evidence of a user of whom nothing was learned.
        hash_user: What others hear of a user who is gone.
    """
    before = now - retention_days * _DAY
    found = Swept()
    drop_older_rankings(connection, before, tenant)
    users = find_users_with_older(connection, tenant, before, USERS_AT_ONCE)
    if not users:
        return found
    lock_tenant(connection, tenant)  # somebody may be about to judge a text that would be removed
    for user in users:
        seqs = _with_targets(connection, (tenant, user), before)
        features, items = drop_events(connection, tenant, user, seqs)
        state = _shortened(connection, (tenant, user), len(seqs), start)
        found.states[(tenant, user)] = state
        gone = hash_user(tenant, user) if state is None else None
        found.forgotten.append(Forgotten(tenant, gone, features, items))
        found.events += len(seqs)
    drop_states(connection, tenant, users)
    found.more = len(users) == USERS_AT_ONCE
    return found


def _shortened(connection: Connection, key: UserKey, events: int, start: Evidence) -> UserState | None:
    """The state of a user whose log has so many events less; None where nothing is left."""
    row = find_user(connection, *key)
    if row is None or row.feedback_events <= events:
        drop_user(connection, *key)
        return None
    left = {"feedback_events": row.feedback_events - events, "version": row.version + 1}
    update_user(connection, *key, left)
    row = find_user(connection, *key)
    return None if row is None else unlearned(row, start)


def _with_targets(connection: Connection, key: UserKey, before: float) -> Sequence[int]:
    """Places of what is too old, and of what it takes back."""
    events = find_older_events(connection, *key, before)
    seqs = {event.seq for event in events}
    while targets := [event.target_event_id for event in events if event.target_event_id is not None]:
        events = [event for event in find_events(connection, *key, targets) if event.seq not in seqs]
        seqs |= {event.seq for event in events}
    return sorted(seqs)


class Retention:
    """Keeps to what the tenants say, step by step. The writer's thread runs it.

    Args:
        tenancy: How long each tenant keeps judgements.
        models: The current one has the states in memory.
        forget: Drops from memory what was removed from the store.
        shared: Whether other servers must be told.
        telemetry: Counts, and knows the users' hashes.
    """

    def __init__(
        self,
        *,
        tenancy: Tenancy,
        models: Models,
        forget: Callable[[Forgotten], None],
        shared: bool,
        telemetry: Telemetry,
    ) -> None:
        self._tenancy = tenancy
        self._models = models
        self._forget = forget
        self._shared = shared
        self._telemetry = telemetry

    def step(self, transact: Transact, now: float) -> bool:
        """One transaction for each tenant that forgets; returns whether there may be more to remove.

        Args:
            transact: How the store is changed.
            now: Unix seconds.
        """
        more = False
        for tenant, days in self._tenancy.get_retention_days().items():
            swept = transact(partial(self._sweep, tenant, days, now))
            for key, state in swept.states.items():
                self._models.current.cache.publish(key, state)
            for forgotten in swept.forgotten:
                self._forget(forgotten)
            self._telemetry.outlived_events.inc(swept.events)
            more = more or swept.more
        return more

    def _sweep(self, tenant: str, days: float, now: float, connection: Connection) -> Swept:
        start, hash_user = self._models.current.fold.start, self._telemetry.hash_user
        swept = sweep(connection, tenant, days, now, start=start, hash_user=hash_user)
        if self._shared:
            for forgotten in swept.forgotten:
                announce(connection, forgotten, now)
        return swept
