"""Bringing a saved state up to the end of the user's log.

A state records how much of the log it covers (`through_seq`), and learning continues from there. The log is read from
its start if a later event is a retraction, or if no state was saved for this bundle and this forgetting.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from penchant.service.log.rows import JudgedFeatures
from penchant.service.store import users
from penchant.service.store.events import LoggedJudgement, replay_events
from penchant.service.users.completion import Shortfall, TextExtractor, complete_events
from penchant.service.users.fold import Fold
from penchant.service.users.states import Evidence, UserKey, UserState


@dataclass(frozen=True)
class CatchUpResult:
    """A user's state that covers the whole log.

    Attributes:
        state: The state.
        new_features: Features by seq that had to be computed for it and are not stored.
        new_matches: Features by seq of events whose match alone had to be computed and is not stored.
        shortfall: Numbers of events that the saved state did not cover and that cannot be used in full.
        is_saved: Whether the store has this very state.
    """

    state: UserState
    new_features: Mapping[int, JudgedFeatures] = field(default_factory=dict)
    new_matches: Mapping[int, JudgedFeatures] = field(default_factory=dict)
    shortfall: Shortfall = field(default_factory=Shortfall)
    is_saved: bool = True


def catch_up(
    connection: Connection, key: UserKey, fold: Fold, extractor: TextExtractor | None = None
) -> CatchUpResult | None:
    """Return a user's state at the end of the log, or None for an unknown user. Nothing is written.

    Args:
        connection: Connection with one consistent view of the store.
        key: The user.
        fold: Fold that computes states.
        extractor: Computes the features of texts that have none, if given.

    Raises:
        MissingFeaturesError: If texts have no features and no `extractor` is given.

    Cost: one query if the saved state is current, otherwise also one step of the fold for each new event.
    """
    tenant, user = key
    half_life = fold.forgetting.half_life_days
    row = users.find_users(connection, tenant, [user], fold.bundle_version, half_life).get(user)
    if row is None:
        return None
    state = UserState.from_row(row, fold.start)
    if state.is_current:
        return CatchUpResult(state)
    events = _read_events(connection, key, fold, state.through_seq + 1, state.last_seq)
    evidence = state.evidence
    if state.through_seq > 0 and any(event.target is not None for event in events):
        events = _read_events(connection, key, fold, 1, state.through_seq) + events
        evidence = fold.start
    completion = complete_events(connection, key, events, fold, extractor)
    evidence = fold.extend(evidence, completion.events)
    return CatchUpResult(
        replace(state, evidence=evidence, through_seq=state.last_seq),
        completion.new_features,
        completion.new_matches,
        completion.count_shortfall(after=state.through_seq),
        is_saved=False,
    )


def replay_log(
    connection: Connection, key: UserKey, fold: Fold, through: int, extractor: TextExtractor | None = None
) -> tuple[Evidence, Shortfall]:
    """Return the evidence of a user's log up to seq `through`, read from its start. Saved states are ignored.

    Returns:
        The evidence, and the numbers of events that cannot be used in full.

    Raises:
        MissingFeaturesError: If texts have no features and no `extractor` is given.
    """
    events = _read_events(connection, key, fold, 1, through)
    completion = complete_events(connection, key, events, fold, extractor)
    return fold.replay(completion.events), completion.count_shortfall()


def _read_events(
    connection: Connection, key: UserKey, fold: Fold, since: int, until: int
) -> list[LoggedJudgement]:
    return list(
        replay_events(
            connection,
            *key,
            fold.extractor,
            fold.match_version,
            reads_prompt_embedding=fold.reads_prompt_embedding,
            since=since,
            until=until,
        )
    )
