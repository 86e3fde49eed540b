"""Bringing a saved state up to the end of the user's log.

A state records how much of the log it covers (`through_seq`), and learning continues from there. If a later event is a
retraction of a covered one, learning continues from a checkpoint before the retracted event. If no state was saved for
this bundle and this forgetting, the log is read from its start. It is read in parts, so that neither memory nor the time
between two yields grows with the log.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy import Connection

from penchant.service.log.reading import find_withdrawn, in_force
from penchant.service.log.rows import JudgedFeatures
from penchant.service.store import users
from penchant.service.store.events import find_first_seq, find_named_events, find_retractions, has_retraction
from penchant.service.store.judgements import LoggedJudgement, replay_events
from penchant.service.store.long_logs.checkpoints import find_checkpoint
from penchant.service.users.completion import Shortfall, TextExtractor, complete_events
from penchant.service.users.fold import Fold
from penchant.service.users.states import Evidence, UserKey, UserState, read_evidence

CHECKPOINT_EVENTS: Final = 256
"""Number of events of a log from one checkpoint to the next."""

NEAR_EVENTS: Final = 64
"""Largest number of events that a reader's thread learns while it serves a request."""

STEP_EVENTS: Final = 8 * CHECKPOINT_EVENTS
"""Largest number of events that one step of a catch-up learns."""


@dataclass(frozen=True)
class CatchUpResult:
    """A user's state that covers the log, or as much of it as one step learned.

    Attributes:
        state: The state.
        new_features: Features by seq that had to be computed for it and are not stored.
        new_matches: Features by seq of events whose match alone had to be computed and is not stored.
        shortfall: Numbers of events that the saved state did not cover and that cannot be used in full.
        checkpoints: Evidence after some of the events that were learned, by seq.
        replayed_from: Place in the log after which events were learned again. Checkpoints beyond it are outdated.
        is_saved: Whether the store has this very state.
    """

    state: UserState
    new_features: Mapping[int, JudgedFeatures] = field(default_factory=dict)
    new_matches: Mapping[int, JudgedFeatures] = field(default_factory=dict)
    shortfall: Shortfall = field(default_factory=Shortfall)
    checkpoints: Mapping[int, Evidence] = field(default_factory=dict)
    replayed_from: int | None = None
    is_saved: bool = True


def find_state(connection: Connection, key: UserKey, fold: Fold) -> UserState | None:
    """Return the saved state of a user, which may be behind the log, or None for an unknown user. Cost: one query."""
    tenant, user = key
    half_life = fold.forgetting.half_life_days
    row = users.find_users(connection, tenant, [user], fold.bundle_version, half_life).get(user)
    return None if row is None else UserState.from_row(row, fold.start)


def is_near(connection: Connection, key: UserKey, state: UserState) -> bool:
    """Return whether a state can be brought to the end of the log by learning a few events."""
    return state.last_seq - state.through_seq <= NEAR_EVENTS and not has_retraction(
        connection, *key, since=state.through_seq + 1
    )


def catch_up(
    connection: Connection, key: UserKey, fold: Fold, extractor: TextExtractor | None = None
) -> CatchUpResult | None:
    """Return a user's state at the end of the log, or None for an unknown user. Nothing is written.

    This is for callers that do not save what `catch_up_in_steps` yields on the way.

    Raises:
        MissingFeaturesError: If texts have no features and no `extractor` is given.
    """
    state = find_state(connection, key, fold)
    if state is None:
        return None
    result, shortfall = CatchUpResult(state), Shortfall()
    for result in catch_up_in_steps(connection, key, fold, state, extractor):
        shortfall += result.shortfall
    return replace(result, shortfall=shortfall)


def catch_up_in_steps(
    connection: Connection,
    key: UserKey,
    fold: Fold,
    state: UserState,
    extractor: TextExtractor | None = None,
) -> Iterator[CatchUpResult]:
    """Yield a user's states on the way to the end of the log, each after up to `STEP_EVENTS` more events.

    Nothing is written. Each state may be saved, so that an interruption loses at most one step. The last one covers the
    whole log.

    Args:
        connection: Connection with one consistent view of the store.
        key: The user.
        fold: Fold that computes states.
        state: Saved state of the user in this view, as `find_state` returns it.
        extractor: Computes the features of texts that have none, if given.

    Raises:
        MissingFeaturesError: If texts have no features and no `extractor` is given.

    Cost: nothing if the state is current, otherwise one step of the fold for each new event. If one of them withdraws
    an earlier event, the events after that one, and up to `CHECKPOINT_EVENTS` before it, are learned again.
    """
    covered = state.through_seq
    withdrawn: frozenset[int] = frozenset()
    replayed_from = None
    if not state.is_current and has_retraction(connection, *key, since=covered + 1):
        withdrawn, earliest = _find_withdrawn(connection, key, covered, state.last_seq)
        if earliest <= covered:
            replayed_from, evidence = _find_start(connection, key, fold, earliest)
            state = replace(state, evidence=evidence, through_seq=replayed_from)
    replay = _Replay(connection, key, fold, extractor, withdrawn, covered)
    while not state.is_current:
        result = replay.step(state)
        yield replace(result, replayed_from=replayed_from)
        state, replayed_from = result.state, None


def replay_log(
    connection: Connection, key: UserKey, fold: Fold, through: int, extractor: TextExtractor | None = None
) -> tuple[Evidence, Shortfall]:
    """Return the evidence of a user's log up to seq `through`, read from its start. Saved states are ignored.

    Returns:
        The evidence, and the numbers of events that cannot be used in full.

    Raises:
        MissingFeaturesError: If texts have no features and no `extractor` is given.
    """
    withdrawn, _ = _find_withdrawn(connection, key, 0, through)
    state = UserState(0, 0, fold.start, 0.0, last_seq=through)
    log, shortfall = _Replay(connection, key, fold, extractor, withdrawn), Shortfall()
    while not state.is_current:
        result = log.step(state)
        state, shortfall = result.state, shortfall + result.shortfall
    return state.evidence, shortfall


def learn_events(
    fold: Fold, evidence: Evidence, events: Iterable[LoggedJudgement]
) -> tuple[Evidence, dict[int, Evidence]]:
    """Return the evidence after further events of a log, and the evidence at each checkpoint on the way.

    Args:
        fold: Fold that computes states.
        evidence: Evidence before the events.
        events: Events in order. Those that they withdraw must be among them.
    """
    log = list(events)
    retracted = {event.seq for event in log} - {event.seq for event in in_force(log)}
    checkpoints: dict[int, Evidence] = {}
    start = 0
    for end, event in enumerate(log, start=1):
        if event.seq % CHECKPOINT_EVENTS == 0:
            evidence = fold.extend(evidence, [e for e in log[start:end] if e.seq not in retracted])
            checkpoints[event.seq] = evidence
            start = end
    return fold.extend(evidence, [e for e in log[start:] if e.seq not in retracted]), checkpoints


@dataclass(frozen=True)
class _Replay:
    """Learning a user's log, in steps.

    Attributes:
        connection: Connection with one consistent view of the store.
        key: The user.
        fold: Fold that computes states.
        extractor: Computes the features of texts that have none, if given.
        withdrawn: Places of events that do not count.
        covered: Place up to which shortfalls were counted before.
    """

    connection: Connection
    key: UserKey
    fold: Fold
    extractor: TextExtractor | None
    withdrawn: frozenset[int] = frozenset()
    covered: int = 0

    def step(self, state: UserState) -> CatchUpResult:
        """Learn the next events after a state, and return the state after them."""
        evidence, through, learned = state.evidence, state.through_seq, 0
        new_features: dict[int, JudgedFeatures] = {}
        new_matches: dict[int, JudgedFeatures] = {}
        checkpoints: dict[int, Evidence] = {}
        shortfall = Shortfall()
        while through < state.last_seq and learned < STEP_EVENTS:
            # Merged logs have gaps.
            first = find_first_seq(self.connection, *self.key, since=through + 1) or state.last_seq
            through = min(-(-first // CHECKPOINT_EVENTS) * CHECKPOINT_EVENTS, state.last_seq)
            events = self._read(first, through)
            completion = complete_events(self.connection, self.key, events, self.fold, self.extractor)
            evidence = self.fold.extend(evidence, completion.events)
            new_features |= completion.new_features
            new_matches |= completion.new_matches
            shortfall += completion.count_shortfall(after=self.covered)
            learned += len(events)
            if through % CHECKPOINT_EVENTS == 0:
                checkpoints[through] = evidence
        return CatchUpResult(
            replace(state, evidence=evidence, through_seq=through),
            new_features,
            new_matches,
            shortfall,
            checkpoints,
            is_saved=False,
        )

    def _read(self, since: int, until: int) -> list[LoggedJudgement]:
        """Return the judgements in a part of the log that count."""
        events = replay_events(
            self.connection,
            *self.key,
            self.fold.extractor,
            self.fold.match_version,
            reads_prompt_embedding=self.fold.reads_prompt_embedding,
            since=since,
            until=until,
        )
        return [
            event
            for event in events
            if event.target is None and not event.is_replaced and event.seq not in self.withdrawn
        ]


def _find_withdrawn(
    connection: Connection, key: UserKey, covered: int, through: int
) -> tuple[frozenset[int], int]:
    """Return the places of events up to `through` that do not count, and the first that a state may have to learn again.

    That is the earliest event whose standing a retraction after `covered` may have changed; `through` + 1 if there is
    none.
    """
    retractions = [row for row in find_retractions(connection, *key) if row.seq <= through]
    named = find_named_events(connection, *key, {row.target_event_id for row in retractions})
    return find_withdrawn(retractions, named, covered, through)


def _find_start(connection: Connection, key: UserKey, fold: Fold, before: int) -> tuple[int, Evidence]:
    """Return a place before an event, and the evidence there: from the newest checkpoint, or from the log's start."""
    row = find_checkpoint(
        connection, *key, fold.bundle_version, fold.forgetting.half_life_days, before=before
    )
    evidence = None if row is None else read_evidence(row.state, row.as_of, fold.start, "checkpoints")
    return (0, fold.start) if row is None or evidence is None else (row.seq, evidence)
