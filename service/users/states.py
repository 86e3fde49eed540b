"""A user's state: what was learned from the user's log, how it ages, and the cache of states that are durable."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.taste.posterior import UserPosterior
from penchant.service.cache import BoundedCache
from penchant.service.store.statements import AnyRow

_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was learned of a user.

    Attributes:
        posterior: As it stood
        as_of: then: when the last judgement was learned, Unix seconds.
    """

    posterior: UserPosterior
    as_of: float = 0.0


@dataclass(frozen=True)
class Forgetting:
    """After every half-life what was learned counts half as much.

    Attributes:
        half_life_days: None: nothing is ever forgotten.
    """

    half_life_days: float | None = None

    def aged(self, evidence: Evidence, now: float) -> UserPosterior:
        """What is left at `now` (Unix seconds). A clock that was set back makes nothing younger."""
        posterior, elapsed = evidence.posterior, now - evidence.as_of
        if self.half_life_days is None or elapsed <= 0 or posterior.judgements == 0:
            return posterior
        return posterior.forget(elapsed, self.half_life_days * _DAY)


UserKey = tuple[str, str]
"""(tenant, user)"""


@dataclass(frozen=True, slots=True)
class UserState:
    """Where a user stands.

    Attributes:
        version: Grows with every event.
        feedback_events: Events in the user's log.
        evidence: What was learned from them,
        updated_at: Unix seconds of the last event.
        last_seq: Place of the last event in the log.
        through_seq: the events up to this one.
        information_day: Days since 1970 (UTC) of the last event.
        information: What the log told on that day.
        trust: What is held of the user's reliability, JSON.
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
        """Whether the evidence knows the whole log."""
        return self.through_seq >= self.last_seq

    @property
    def is_personal(self) -> bool:
        """Whether anything was learned of the user: not where all was taken back."""
        return self.evidence.posterior.judgements > 0

    @property
    def stamp(self) -> tuple[int, float]:
        """Tells two states of a user's log apart."""
        return self.version, self.updated_at

    @classmethod
    def from_row(cls, row: AnyRow, start: Evidence) -> "UserState":
        """What `users.find_users` found; `start` where no state was saved."""
        evidence = start
        if row.state is not None:
            posterior = UserPosterior.from_bytes(row.state, start.posterior.population)
            evidence = Evidence(posterior, row.as_of)
        return cls(
            row.version,
            row.feedback_events,
            evidence,
            row.updated_at,
            row.last_seq,
            row.through_seq or 0,
            row.information_day,
            row.information,
            row.trust,
        )


def unlearned(row: AnyRow, start: Evidence) -> UserState:
    """Where a user stands by a row of `users`, when no state is known: whoever needs it catches up."""
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


def user_row(key: UserKey, state: UserState) -> dict[str, Any]:
    """Row of `users`."""
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
    }


def state_row(
    key: UserKey, state: UserState, bundle_version: str, half_life_days: float | None
) -> dict[str, Any]:
    """Row of `user_states`."""
    return {
        "tenant": key[0],
        "user_id": key[1],
        "bundle_version": bundle_version,
        "half_life_days": half_life_days,
        "through_seq": state.through_seq,
        "state": state.evidence.posterior.to_bytes(),
        "as_of": state.evidence.as_of,
    }


def share_of_prior_std(posterior: UserPosterior) -> float:
    """What is not known yet: standard deviation over the prior's, geometric mean over the user's coordinates."""
    prior = UserPosterior.at_prior(posterior.population)
    return float(np.exp(np.log(_std(posterior) / _std(prior)).mean()))


def _std(posterior: UserPosterior) -> NDArray[np.float64]:
    """Standard deviation of each of the user's coordinates over the whole mixture, `[q]`."""
    beliefs = posterior.beliefs
    second = np.diagonal(beliefs.covariances, axis1=1, axis2=2) + beliefs.means**2
    variance: NDArray[np.float64] = beliefs.weights @ second - (beliefs.weights @ beliefs.means) ** 2
    return np.sqrt(variance)


@dataclass(eq=False)
class _Load:
    """A read of the store that is under way; a write meanwhile makes its result worthless."""

    overtaken: bool = False
    deleted: bool = False
    newest: UserState | None = None


class StateCache:
    """LRU of user states, unknown users included, shared by the event loop, which reads, and the writer.

    Args:
        max_users: Bound.
    """

    def __init__(self, max_users: int) -> None:
        self._states: BoundedCache[UserKey, UserState | None] = BoundedCache(max_users)
        self._loads: dict[UserKey, list[_Load]] = {}
        self._lock = threading.Lock()

    def find(self, key: UserKey) -> tuple[bool, UserState | None]:
        """Whether the user is in memory, and the state (None: unknown user)."""
        with self._lock:
            if key not in self._states:
                return False, None
            return True, self._states.get(key)

    def publish(self, key: UserKey, state: UserState | None) -> None:
        """Makes a committed state visible; None after the user was deleted."""
        with self._lock:
            for load in self._loads.get(key, ()):
                load.overtaken, load.newest = True, state
                load.deleted |= state is None
            self._states.put(key, state)

    def begin(self, key: UserKey) -> _Load:
        """Announces a read of the store, so that a write cannot be undone by it."""
        with self._lock:
            load = _Load()
            self._loads.setdefault(key, []).append(load)
            return load

    def finish(self, key: UserKey, load: _Load, state: UserState | None) -> UserState | None:
        """Keeps what was read unless a write overtook it; returns what holds.

        A write that left the user's state behind the log takes over what was learned here, as far as it goes.
        """
        with self._lock:
            self._leave(key, load)
            newest = load.newest
            if not load.overtaken:
                self._states.put(key, state)
                return state
            if newest is None or newest.is_current or load.deleted or state is None:
                return newest
            if newest.through_seq < state.through_seq:
                newest = replace(newest, evidence=state.evidence, through_seq=state.through_seq)
                if self._states.peek(key) is load.newest:
                    self._states.put(key, newest)
            return newest if newest.is_current else state

    def advance(self, key: UserKey, state: UserState) -> None:
        """Takes over what was learned of a user who is in memory, behind the same log."""
        with self._lock:
            held = self._states.peek(key)
            if held is not None and held.stamp == state.stamp and held.through_seq < state.through_seq:
                self._states.replace(key, state)

    def drop(self, unwanted: Callable[[UserKey], bool]) -> None:
        """Forgets some users, whom another server changed or removed. Cost: a call for each user in memory."""
        with self._lock:
            for key in [key for key, _ in self._states.items() if unwanted(key)]:
                self._states.remove(key)

    def clear(self) -> None:
        """Forgets everything: the store was changed by others."""
        with self._lock:
            self._states.clear()

    def abandon(self, key: UserKey, load: _Load) -> None:
        """The read failed."""
        with self._lock:
            self._leave(key, load)

    def _leave(self, key: UserKey, load: _Load) -> None:
        loads = self._loads[key]
        loads.remove(load)
        if not loads:
            del self._loads[key]
