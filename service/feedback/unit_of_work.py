"""What a job, or a group of them, changes: states, events and rows that are not in the database yet."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from penchant.service.store import tables, users
from penchant.service.store.events import LoggedJudgement
from penchant.service.store.statements import add
from penchant.service.users.fold import Fold
from penchant.service.users.states import UserKey, UserState, state_row, user_row


@dataclass
class Changes:
    """What a job, or a group, changes; of a group also what it found in the store.

    Attributes:
        states: Where users stand.
        answered: (request hash, answer) by (tenant, idempotency key).
        known: (content hash, user) by (tenant, event id), of events that are in the log or will be.
        logs: Events that are new in users' logs.
        flags: Why judgements were discounted, one a reason and judgement.
        bursts: Bursts that began.
        events: Rows to be written,
        items: and of judged items,
        features: of features,
        answers: of stored answers.
    """

    states: dict[UserKey, UserState] = field(default_factory=dict)
    answered: dict[tuple[str, str], tuple[bytes, bytes]] = field(default_factory=dict)
    known: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    logs: dict[UserKey, list[LoggedJudgement]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    bursts: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, other: "Changes") -> None:
        """Takes over what a job changed."""
        self.states |= other.states
        self.answered |= other.answered
        self.known |= other.known
        for key, log in other.logs.items():
            self.logs.setdefault(key, []).extend(log)
        self.events += other.events
        self.items += other.items
        self.features += other.features
        self.answers += other.answers

    def write(self, connection: Connection, changed: dict[UserKey, UserState], fold: Fold) -> None:
        """Writes the rows, and where the users that changed stand now.

        In the order of their keys: two servers that add the same rows never wait for each other in a circle.
        """
        for table, rows, name in (
            (tables.features, self.features, "feature_key"),
            (tables.judged_items, self.items, "user_id"),
            (tables.feedback_events, self.events, "event_id"),
            (tables.idempotency, self.answers, "key"),
        ):
            add(connection, table, sorted(rows, key=lambda row: (row["tenant"], row[name])))
        users.put_users(connection, [user_row(key, state) for key, state in changed.items()])
        bundle, half_life = fold.bundle_version, fold.forgetting.half_life_days
        learned = [(key, state) for key, state in changed.items() if state.is_current]
        users.put_states(connection, [state_row(key, state, bundle, half_life) for key, state in learned])


def known_event(event_id: str, tenant: str, mine: Changes, group: Changes) -> tuple[bytes, str] | None:
    """(content hash, user) of an event that is in the log, or will be with this group."""
    return mine.known.get((tenant, event_id)) or group.known.get((tenant, event_id))


def state_of(key: UserKey, mine: Changes, group: Changes) -> UserState | None:
    """Where a user stands after what a job has changed so far."""
    return mine.states.get(key) or group.states.get(key)
