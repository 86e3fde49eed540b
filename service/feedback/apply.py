"""One judgement more: its place in the user's log, how much it counts, and what is learned from it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import Connection

from penchant.service.feedback.jobs import FeedbackJob, ReadyEvent
from penchant.service.feedback.trust import TrustPolicy, TrustState, Weighed, weigh
from penchant.service.feedback.unit_of_work import Changes, state_of
from penchant.service.log.rows import event_row, feature_rows, item_rows
from penchant.service.store.events import LoggedJudgement, has_retraction, replay_events
from penchant.service.users.fold import Fold
from penchant.service.users.states import UserKey, UserState

MAX_INLINE_EVENTS: Final = 32
"""So many events of a log are learned while others wait for the commit; a longer way to go is left to the replayer."""


class Lessons:
    """Logs and learns the events of one bundle's users.

    Args:
        fold: Learns.
        policy: How much a judgement counts.
    """

    def __init__(self, fold: Fold, policy: TrustPolicy) -> None:
        self._fold = fold
        self._policy = policy

    def log(self, job: FeedbackJob, event: ReadyEvent, mine: Changes, group: Changes) -> None:
        """One event: its place in the log, and its rows."""
        judged, features, key = event.judged, event.features, (job.tenant, event.user)
        if judged is None:
            raise ValueError("an event without judgement can only be a duplicate")
        state = state_of(key, mine, group) or UserState(0, 0, self._fold.start, 0.0)
        seq = state.last_seq + 1
        weighed, trust = Weighed(1.0), TrustState.read(state.information_day, state.information, state.trust)
        told = state.trust
        if judged.target is None:  # decided once and for all
            trust, weighed = weigh(trust, judged.weight, judged.groups, job.received_at, self._policy)
            told = trust.to_json()
        mine.states[key] = UserState(
            version=state.version + 1,
            feedback_events=state.feedback_events + 1,
            evidence=state.evidence,
            updated_at=job.received_at,
            last_seq=seq,
            through_seq=state.through_seq,
            information_day=trust.day,
            information=trust.information,
            trust=told,
        )
        mine.flags += weighed.flags
        mine.bursts += weighed.begins_burst
        mine.known[(job.tenant, event.parsed.event_id)] = (event.parsed.content_hash, event.user)
        legible = features is not None and features.extractor == self._fold.extractor
        logged = LoggedJudgement(
            seq=seq,
            event_id=event.parsed.event_id,
            type=judged.type,
            value=judged.value,
            weight=judged.weight,
            discount=weighed.discount,
            flags=",".join(weighed.flags) or None,
            groups=judged.groups,
            target=judged.target,
            source=judged.source,
            received_at=job.received_at,
            item_keys=features.item_keys if features is not None and legible else (),
            vectors=features.vectors if features is not None and legible else None,
        )
        mine.logs.setdefault(key, []).append(logged)
        mine.events.append(event_row(key, logged, event.parsed.content_hash, judged.payload))
        if features is not None:
            mine.items += item_rows(job.tenant, event.user, seq, features)
            mine.features += feature_rows(job.tenant, features)

    def learn(self, connection: Connection, key: UserKey, mine: Changes, group: Changes) -> int:
        """What a job's events make of a user's state; returns how many change points they brought to light.

        Where that would hold the others up, or takes the encoder, the state is left behind the log: whoever needs it
        catches up.

        Cost: one step of the fold an event; with a retraction among them, one replay of the user's log. Of at most
        `MAX_INLINE_EVENTS` each, beside the job's own.
        """
        state, new = mine.states[key], mine.logs[key]
        was_current = state.through_seq == new[0].seq - 1
        if was_current and all(event.target is None for event in new):
            unknown, evidence = new, state.evidence
        else:
            start = self._unknown_since(connection, key, state, new, group)
            if new[0].seq - 1 - start > MAX_INLINE_EVENTS:
                return 0
            stored = replay_events(connection, *key, self._fold.extractor, since=start + 1)
            waiting = [event for event in group.logs.get(key, ()) if event.seq > start]
            unknown, evidence = [*stored, *waiting, *new], state.evidence if start else self._fold.start
        if any(event.vectors is None and event.target is None for event in unknown):
            return 0
        learned = self._fold.onward(evidence, unknown)
        mine.states[key] = replace(state, evidence=learned, through_seq=state.last_seq)
        found = learned.posterior.changes - state.evidence.posterior.changes
        if found <= 0 or not was_current:
            return 0
        trust = TrustState.read(state.information_day, state.information, state.trust)
        for _ in range(found):
            trust = trust.changed()
        mine.states[key] = replace(mine.states[key], trust=trust.to_json())
        return found

    def _unknown_since(
        self,
        connection: Connection,
        key: UserKey,
        state: UserState,
        new: Sequence[LoggedJudgement],
        group: Changes,
    ) -> int:
        """Up to which seq what is known of a user can stay; 0 where something is taken back."""
        targets = [
            event.target for event in (*group.logs.get(key, ()), *new) if event.seq > state.through_seq
        ]
        taken_back = any(target is not None for target in targets)
        if taken_back or has_retraction(connection, *key, since=state.through_seq + 1):
            return 0
        return state.through_seq
