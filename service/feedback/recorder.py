"""Records one event: its place in the user's log, its weight, its rows, and the user's state after it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection

from penchant.service.feedback.event_ids import EventIds, NamedEvent
from penchant.service.feedback.jobs import FeedbackJob, ReadyEvent
from penchant.service.feedback.trust import (
    Discount,
    TrustPolicy,
    TrustState,
    compute_discount,
    compute_history_discount,
    find_day,
)
from penchant.service.log.rows import build_event_row, build_feature_rows, build_item_rows
from penchant.service.store import tables, users
from penchant.service.store.event_ids import mark_replaced
from penchant.service.store.events import HISTORY, has_retraction
from penchant.service.store.judgements import LoggedJudgement, replay_events
from penchant.service.store.long_logs.checkpoints import put_checkpoints
from penchant.service.store.statements import add
from penchant.service.users.catching_up import learn_events
from penchant.service.users.fold import Fold
from penchant.service.users.states import (
    UserKey,
    UserState,
    build_checkpoint_row,
    build_state_row,
    build_user_row,
)

MAX_INLINE_EVENTS: Final = 32
"""Maximum number of logged events to replay while others wait for the commit. The replayer does longer replays."""


@dataclass
class Changes:
    """Changes of a job, or of a group of jobs, that are not committed yet.

    The changes of a group also hold what was read from the store for it.

    Attributes:
        states: State of each user.
        busy: Users whose log takes no events, because the user is being merged or deleted.
        answered: (tenant, idempotency key) → (request hash, answer).
        ids: Events that ids name, those that are being added included.
        logs: New events of each user's log.
        history: (tenant, user, UTC day) → information learned from the user's history of that day.
        flags: Reasons for discounts, one entry for each reason and judgement.
        bursts: Number of bursts that began.
        events: New rows of `feedback_events`.
        items: New rows of `judged_items`.
        features: New rows of `features`.
        answers: New rows of `idempotency`.
        answered_users: New rows of `answered_users`.
        checkpoints: New rows of `checkpoints`.
    """

    states: dict[UserKey, UserState] = field(default_factory=dict)
    busy: set[UserKey] = field(default_factory=set)
    answered: dict[tuple[str, str], tuple[bytes, bytes]] = field(default_factory=dict)
    ids: EventIds = field(default_factory=EventIds)
    logs: dict[UserKey, list[LoggedJudgement]] = field(default_factory=dict)
    history: dict[tuple[str, str, int], float] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    bursts: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    answered_users: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, job: "Changes") -> None:
        """Add the changes of a job to those of its group."""
        self.states |= job.states
        self.answered |= job.answered
        self.ids.merge(job.ids)
        self.history |= job.history
        for key, log in job.logs.items():
            self.logs.setdefault(key, []).extend(log)
        self.events += job.events
        self.items += job.items
        self.features += job.features
        self.answers += job.answers
        self.answered_users += job.answered_users
        self.checkpoints += job.checkpoints

    def write(self, connection: Connection, changed: dict[UserKey, UserState], fold: Fold) -> None:
        """Write the new rows, and the states that changed.

        Rows are written in the order of their keys, so that two servers that add the same rows cannot deadlock.
        """
        replaced = set(self.ids.replaced)
        for row in self.events:
            place = (row["tenant"], row["user_id"], row["seq"])
            row["replaced"] = int(place in replaced)
            replaced.discard(place)
        mark_replaced(connection, replaced)
        for table, rows, name in (
            (tables.features, self.features, "feature_key"),
            (tables.judged_items, self.items, "user_id"),
            (tables.feedback_events, self.events, "event_id"),
            (tables.idempotency, self.answers, "key"),
            (tables.answered_users, self.answered_users, "key"),
        ):
            add(connection, table, sorted(rows, key=lambda row: (row["tenant"], row[name])))
        users.put_users(connection, [build_user_row(key, state) for key, state in changed.items()])
        bundle, half_life = fold.bundle_version, fold.forgetting.half_life_days
        current = [(key, state) for key, state in changed.items() if state.is_current]
        users.put_states(
            connection, [build_state_row(key, state, bundle, half_life) for key, state in current]
        )
        put_checkpoints(connection, self.checkpoints)


@dataclass(frozen=True)
class Recorder:
    """Records events in the log and in users' states, under one bundle.

    Attributes:
        fold: Fold that computes states.
        policy: Limits that decide how much a judgement counts.
    """

    fold: Fold
    policy: TrustPolicy

    def record(
        self, job: FeedbackJob, event: ReadyEvent, job_changes: Changes, group_changes: Changes
    ) -> None:
        """Give an event its place in the user's log, decide its weight, and add its rows.

        Args:
            job: The event's request.
            event: An event without a `fault`.
            job_changes: Changes of the job so far, to which this event's are added.
            group_changes: Changes of the jobs before it.
        """
        key, received = (job.tenant, event.user), event.received
        statement, features = event.statement, event.features
        state = (
            job_changes.states.get(key)
            or group_changes.states.get(key)
            or UserState(0, 0, self.fold.start, 0.0)
        )
        seq = state.last_seq + 1
        happened_at, is_history = job.find_time(event), job.is_history(event)
        discount = Discount(1.0)
        trust = TrustState.from_stored(state.information_day, state.information, state.trust)
        stored_trust = state.trust
        if is_history:
            of_day = (*key, find_day(happened_at))
            learned = job_changes.history.get(of_day, group_changes.history.get(of_day, 0.0))
            job_changes.history[of_day], discount = compute_history_discount(
                learned, statement.weight, statement.groups, self.policy
            )
        elif event.target is None:  # decided here only; a replay uses the same discount
            trust, discount = compute_discount(
                trust, statement.weight, statement.groups, job.received_at, self.policy
            )
            stored_trust = trust.to_json()
        job_changes.states[key] = UserState(
            version=state.version + 1,
            feedback_events=state.feedback_events + 1,
            evidence=state.evidence,
            updated_at=job.received_at,
            last_seq=seq,
            through_seq=state.through_seq,
            information_day=trust.day,
            information=trust.information,
            trust=stored_trust,
        )
        job_changes.flags += discount.flags
        job_changes.bursts += discount.begins_burst
        ids = job_changes.ids
        target = None if event.target is None else ids.find(job.tenant, event.target)
        ids.add(NamedEvent((*key, seq), received.event_id, received.content_hash), target)
        fold = self.fold
        is_readable = features is not None and features.extractor == fold.extractor
        logged_event = LoggedJudgement(
            seq=seq,
            event_id=received.event_id,
            type=received.type,
            value=statement.normalised,
            weight=statement.weight,
            discount=discount.factor,
            flags=",".join([HISTORY] * is_history + list(discount.flags)) or None,
            groups=statement.groups,
            target=event.target,
            source=received.event.source,
            received_at=job.received_at,
            happened_at=happened_at,
            item_keys=features.item_keys if features is not None and is_readable else (),
            vectors=features.raw if features is not None and is_readable else None,
            # The request may have been answered by a bundle that does not read prompts.
            is_matched=features is None or fold.match_version in ("", features.match_version),
        )
        job_changes.logs.setdefault(key, []).append(logged_event)
        job_changes.events.append(build_event_row(key, logged_event, received.content_hash, event.payload))
        if features is not None:
            job_changes.items += build_item_rows(job.tenant, event.user, seq, features)
            job_changes.features += build_feature_rows(job.tenant, features)

    def learn(
        self, connection: Connection, key: UserKey, job_changes: Changes, group_changes: Changes
    ) -> int:
        """Update a user's state with the job's new events; return how many change points they revealed.

        If learning would take long or needs the encoder, the state stays behind the log and is caught up later.

        Cost: one step of the fold for each event. If one of them is a retraction or the state was
        behind, a replay of at most `MAX_INLINE_EVENTS` events besides the job's own.
        """
        state, new = job_changes.states[key], job_changes.logs[key]
        was_current = state.through_seq == new[0].seq - 1
        if was_current and all(event.target is None for event in new):
            unlearned, evidence = new, state.evidence
        else:
            start = self._find_valid_seq(connection, key, state, new, group_changes)
            if new[0].seq - 1 - start > MAX_INLINE_EVENTS:
                return 0
            fold = self.fold
            stored = replay_events(
                connection,
                *key,
                fold.extractor,
                fold.match_version,
                reads_prompt_embedding=fold.reads_prompt_embedding,
                since=start + 1,
            )
            in_group = [event for event in group_changes.logs.get(key, ()) if event.seq > start]
            unlearned, evidence = [*stored, *in_group, *new], state.evidence if start else self.fold.start
        if any(
            event.target is None and (event.vectors is None or not event.is_matched) for event in unlearned
        ):
            return 0
        learned, checkpoints = learn_events(self.fold, evidence, unlearned)
        bundle, half_life = self.fold.bundle_version, self.fold.forgetting.half_life_days
        job_changes.checkpoints += [
            build_checkpoint_row(key, seq, at, bundle, half_life) for seq, at in checkpoints.items()
        ]
        job_changes.states[key] = replace(state, evidence=learned, through_seq=state.last_seq)
        changes = learned.posterior.changes - state.evidence.posterior.changes
        if changes <= 0 or not was_current:
            return 0
        if any(event.is_history for event in new):  # it says nothing about the account's present behaviour
            return changes
        trust = TrustState.from_stored(state.information_day, state.information, state.trust)
        for _ in range(changes):
            trust = trust.add_change_point()
        job_changes.states[key] = replace(job_changes.states[key], trust=trust.to_json())
        return changes

    def _find_valid_seq(
        self,
        connection: Connection,
        key: UserKey,
        state: UserState,
        new: Sequence[LoggedJudgement],
        group_changes: Changes,
    ) -> int:
        """Return the seq up to which the user's evidence is valid. 0 if a later event may retract an event in it."""
        unlearned = [
            event for event in (*group_changes.logs.get(key, ()), *new) if event.seq > state.through_seq
        ]
        if any(event.target is not None for event in unlearned):
            return 0
        return 0 if has_retraction(connection, *key, since=state.through_seq + 1) else state.through_seq
