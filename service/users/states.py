"""A user's state, how it forgets, its rows in the store, and the cache of committed states."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.taste.posterior import PosteriorError, UserPosterior
from penchant.service.cache import BoundedCache
from penchant.service.store.statements import AnyRow
from penchant.service.telemetry.metrics import log

_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was learned about a user.

    Attributes:
        posterior: Posterior right after the last learned judgement.
        learned_at: Time of the newest learned judgement in Unix seconds, at which the evidence has its weight. 0 if
            nothing was learned.
    """

    posterior: UserPosterior
    learned_at: float = 0.0


@dataclass(frozen=True)
class Forgetting:
    """Exponential forgetting: evidence loses half of its weight in each half-life.

    Attributes:
        half_life_days: Half-life in days. None if nothing is forgotten.
    """

    half_life_days: float | None = None

    def decay(self, evidence: Evidence, now: float) -> UserPosterior:
        """Return the posterior that remains at `now` (Unix seconds). A time before `learned_at` changes nothing."""
        posterior, elapsed = evidence.posterior, now - evidence.learned_at
        if self.half_life_days is None or elapsed <= 0 or posterior.judgements == 0:
            return posterior
        return posterior.forget(elapsed, self.half_life_days * _DAY)

    def compute_share(self, elapsed_seconds: float) -> float:
        """Return the share of a judgement's weight that is left after some time. A negative time changes nothing."""
        if self.half_life_days is None:
            return 1.0
        return float(2.0 ** -(max(0.0, elapsed_seconds) / (self.half_life_days * _DAY)))


UserKey = tuple[str, str]
"""(tenant, user)"""

unreadable_states: Final[Counter[str]] = Counter()
"""Number of saved states, by table, that could not be read since the process started. The log is read instead."""


@dataclass(frozen=True, slots=True)
class UserState:
    """The state of a user.

    Attributes:
        version: Number that grows with every event.
        feedback_events: Number of events in the user's log.
        evidence: Evidence from the events up to `through_seq`.
        updated_at: Time of the last event in Unix seconds.
        last_seq: Place of the last event in the log.
        through_seq: Place of the last event that was learned.
        information_day: Day that `information` refers to, in days since 1970 (UTC).
        information: Information learned on that day, in judgement weights.
        trust: Trust state as JSON, as `TrustState.to_json` writes it. None for a fresh account.
    """

    version: int
    feedback_events: int
    evidence: Evidence
    updated_at: float
    last_seq: int = 0
    through_seq: int = 0
    information_day: int = 0
    information: float = 0.0
    trust: str | None = None

    @property
    def is_current(self) -> bool:
        """Whether the evidence covers the whole log."""
        return self.through_seq >= self.last_seq

    @property
    def is_personal(self) -> bool:
        """Whether the evidence holds any judgement. It holds none if all of them are retracted."""
        return self.evidence.posterior.judgements > 0

    @property
    def stamp(self) -> tuple[int, float]:
        """Version and time of the last event, which differ between any two versions of a user's log."""
        return self.version, self.updated_at

    @classmethod
    def from_row(cls, row: AnyRow, start: Evidence) -> "UserState":
        """Build a state from a row of `users.find_users`.

        The evidence is `start`, which covers nothing of the log, if no state was saved or the saved one is unreadable.
        While the log is being merged it cannot be read, and the saved evidence counts as that of the whole log.
        """
        evidence = None if row.state is None else read_evidence(row.state, row.as_of, start, "user_states")
        through_seq = 0 if evidence is None else row.through_seq
        return cls(
            row.version,
            row.feedback_events,
            evidence or start,
            row.updated_at,
            row.last_seq if row.pending is None else through_seq,
            through_seq,
            row.information_day,
            row.information,
            row.trust,
        )


def read_evidence(state: bytes, as_of: float, start: Evidence, table: str) -> Evidence | None:
    """Return the evidence of a stored state. If it is unreadable, count and log that, and return None.

    Args:
        state: The stored bytes.
        as_of: Time at which the evidence has its stored weight, in Unix seconds.
        start: Evidence of a user without feedback, under the same bundle.
        table: Table that it was read from.
    """
    try:
        return Evidence(UserPosterior.from_bytes(state, start.posterior.population), as_of)
    except PosteriorError as error:
        unreadable_states[table] += 1
        log.warning("state_unreadable", table=table, error=str(error))
        return None


def build_unlearned_state(row: AnyRow, start: Evidence) -> UserState:
    """Build a state from a row of `users` that has learned nothing yet. It is caught up when it is needed."""
    return UserState(
        row.version,
        row.feedback_events,
        start,
        row.updated_at,
        row.last_seq,
        0,
        row.information_day,
        row.information,
        row.trust,
    )


def build_user_row(key: UserKey, state: UserState) -> dict[str, Any]:
    """Build a row of the table `users`."""
    return {
        "tenant": key[0],
        "user_id": key[1],
        "version": state.version,
        "feedback_events": state.feedback_events,
        "last_seq": state.last_seq,
        "information_day": state.information_day,
        "information": state.information,
        "trust": state.trust,
        "updated_at": state.updated_at,
        "pending": None,
    }


def build_state_row(
    key: UserKey, state: UserState, bundle_version: str, half_life_days: float | None
) -> dict[str, Any]:
    """Build a row of the table `user_states`."""
    return {
        "tenant": key[0],
        "user_id": key[1],
        "bundle_version": bundle_version,
        "half_life_days": half_life_days,
        "through_seq": state.through_seq,
        "state": state.evidence.posterior.to_bytes(),
        "as_of": state.evidence.learned_at,
    }


def build_checkpoint_row(
    key: UserKey, seq: int, evidence: Evidence, bundle_version: str, half_life_days: float | None
) -> dict[str, Any]:
    """Build a row of the table `checkpoints`: the evidence after the event at `seq`."""
    return {
        "tenant": key[0],
        "user_id": key[1],
        "bundle_version": bundle_version,
        "seq": seq,
        "half_life_days": half_life_days,
        "state": evidence.posterior.to_bytes(),
        "as_of": evidence.learned_at,
    }


def compute_share_of_prior_std(posterior: UserPosterior) -> float:
    """Return the geometric mean, over coordinates, of the posterior's standard deviation divided by the prior's."""
    prior = UserPosterior.at_prior(posterior.population)
    return float(np.exp(np.log(_compute_std(posterior) / _compute_std(prior)).mean()))


def _compute_std(posterior: UserPosterior) -> NDArray[np.float64]:
    """Return the standard deviation of each coordinate of the user under the whole mixture, `[q]`."""
    beliefs = posterior.beliefs
    second = np.diagonal(beliefs.covariances, axis1=1, axis2=2) + beliefs.means**2
    variance: NDArray[np.float64] = beliefs.weights @ second - (beliefs.weights @ beliefs.means) ** 2
    return np.sqrt(variance)


@dataclass(eq=False)
class _Load:
    """A read of the store in progress. A write in the meantime makes its result stale.

    Attributes:
        is_stale: Whether a write happened since the read began.
        saw_deletion: Whether such a write deleted the user.
        newest: State that the last such write published.
    """

    is_stale: bool = False
    saw_deletion: bool = False
    newest: UserState | None = None


MAX_UNKNOWN_USERS: Final = 1000
"""Users without feedback that a server remembers, so that it does not look for them in the store each time."""


class StateCache:
    """An LRU cache of user states. The event loop reads it and the writer publishes to it.

    Anybody can name users that do not exist, so these are remembered apart, and never take the place of a state.

    Args:
        max_users: Maximum number of users with a state.
    """

    def __init__(self, max_users: int) -> None:
        self._states: BoundedCache[UserKey, UserState] = BoundedCache(max_users)
        self._unknown: BoundedCache[UserKey, bool] = BoundedCache(MAX_UNKNOWN_USERS)
        self._loads: dict[UserKey, list[_Load]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of cached states."""
        return len(self._states)

    def find(self, key: UserKey) -> tuple[bool, UserState | None]:
        """Return whether the user is cached, and the user's state. The state of an unknown user is None."""
        with self._lock:
            state = self._states.get(key)
            return (True, state) if state is not None else (self._unknown.get(key) is not None, None)

    def publish(self, key: UserKey, state: UserState | None) -> None:
        """Make a committed state visible. None means that the user was deleted."""
        with self._lock:
            for load in self._loads.get(key, ()):
                load.is_stale, load.newest = True, state
                load.saw_deletion |= state is None
            self._unknown.remove(key)
            if state is None:
                self._states.remove(key)
            else:
                self._states.put(key, state)

    def begin_load(self, key: UserKey) -> _Load:
        """Announce a read of the store, so that its result cannot replace the state of a later write."""
        with self._lock:
            load = _Load()
            self._loads.setdefault(key, []).append(load)
            return load

    def finish_load(self, key: UserKey, load: _Load, state: UserState | None) -> UserState | None:
        """Cache the result of a read unless a write has made it stale. Return the state to use.

        If the write left the user behind the log, the newer state takes over the evidence that was read.
        """
        with self._lock:
            self._remove_load(key, load)
            newest = load.newest
            if not load.is_stale:
                if state is None:
                    self._states.remove(key)
                    self._unknown.put(key, True)
                else:
                    self._states.put(key, state)
                return state
            if newest is None or newest.is_current or load.saw_deletion or state is None:
                return newest
            if newest.through_seq < state.through_seq:
                newest = replace(newest, evidence=state.evidence, through_seq=state.through_seq)
                if self._states.peek(key) is load.newest:
                    self._states.put(key, newest)
            return newest if newest.is_current else state

    def abort_load(self, key: UserKey, load: _Load) -> None:
        """End a read that failed."""
        with self._lock:
            self._remove_load(key, load)

    def advance(self, key: UserKey, state: UserState) -> None:
        """Replace a cached state by one of the same log that has learned more of it."""
        with self._lock:
            cached = self._states.peek(key)
            if cached is not None and cached.stamp == state.stamp and cached.through_seq < state.through_seq:
                self._states.replace(key, state)

    def drop(self, unwanted: Callable[[UserKey], bool]) -> None:
        """Remove the users for whom `unwanted` returns true. Cost: one call for each cached user, without the lock."""
        with self._lock:
            keys = [key for key, _ in self._states.items()]
        dropped = [key for key in keys if unwanted(key)]
        with self._lock:
            for key in dropped:
                self._states.remove(key)

    def clear(self) -> None:
        """Remove all users, after others changed the store."""
        with self._lock:
            self._states.clear()
            self._unknown.clear()

    def _remove_load(self, key: UserKey, load: _Load) -> None:
        loads = self._loads[key]
        loads.remove(load)
        if not loads:
            del self._loads[key]
