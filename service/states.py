"""What is known of users, in memory over the store. A state is seen here only after it is durable."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penchant.models.population import Population
from penchant.models.posterior import UserPosterior
from penchant.service.forgetting import Evidence, Forgetting
from penchant.service.store.database import Database
from penchant.service.store.queries import AnyRow, find_states

UserKey = tuple[str, str]
"""(tenant, user)"""


@dataclass(frozen=True, slots=True)
class UserState:
    """Where a user stands.

    Attributes:
        version: Grows with every event.
        feedback_events: Events in the user's log.
        evidence: What was learned from them.
        updated_at: Unix seconds of the last event.
    """

    version: int
    feedback_events: int
    evidence: Evidence
    updated_at: float

    @property
    def is_personal(self) -> bool:
        """Whether anything was learned of the user: not where all was taken back."""
        return self.evidence.posterior.judgements > 0

    @classmethod
    def from_row(cls, row: AnyRow, population: Population) -> "UserState":
        """A stored state."""
        posterior = UserPosterior.from_bytes(row.state, population)
        return cls(row.version, row.feedback_events, Evidence(posterior, row.as_of), row.updated_at)


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
    newest: UserState | None = None


@dataclass
class StateCache:
    """LRU of user states, unknown users included, shared by the event loop, which reads, and the writer.

    Attributes:
        max_users: Bound.
    """

    max_users: int
    _states: OrderedDict[UserKey, UserState | None] = field(default_factory=OrderedDict)
    _loads: dict[UserKey, list[_Load]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, key: UserKey) -> tuple[bool, UserState | None]:
        """Whether the user is in memory, and the state (None: unknown user)."""
        with self._lock:
            if key not in self._states:
                return False, None
            self._states.move_to_end(key)
            return True, self._states[key]

    def publish(self, key: UserKey, state: UserState | None) -> None:
        """Makes a committed state visible; None after the user was deleted."""
        with self._lock:
            for load in self._loads.get(key, ()):
                load.overtaken, load.newest = True, state
            self._keep(key, state)

    def begin(self, key: UserKey) -> _Load:
        """Announces a read of the store, so that a write cannot be undone by it."""
        with self._lock:
            load = _Load()
            self._loads.setdefault(key, []).append(load)
            return load

    def finish(self, key: UserKey, load: _Load, state: UserState | None) -> UserState | None:
        """Keeps what was read unless a write overtook it; returns what holds."""
        with self._lock:
            self._leave(key, load)
            if load.overtaken:
                return load.newest
            self._keep(key, state)
            return state

    def abandon(self, key: UserKey, load: _Load) -> None:
        """The read failed."""
        with self._lock:
            self._leave(key, load)

    def _leave(self, key: UserKey, load: _Load) -> None:
        loads = self._loads[key]
        loads.remove(load)
        if not loads:
            del self._loads[key]

    def _keep(self, key: UserKey, state: UserState | None) -> None:
        self._states[key] = state
        self._states.move_to_end(key)
        while len(self._states) > self.max_users:
            self._states.popitem(last=False)


class UserStates:
    """The event loop's way to a user's state.

    Args:
        cache: Shared with the writer.
        database: Asked for users that are not in memory.
        readers: Threads in which it is asked.
        population: Prior of all users.
        forgetting: How judgements lose weight.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        cache: StateCache,
        database: Database,
        readers: Executor,
        population: Population,
        forgetting: Forgetting,
        clock: Callable[[], float],
    ) -> None:
        self.population = population
        self.prior = UserPosterior.at_prior(population)
        self._forgetting = forgetting
        self._clock = clock
        self._cache = cache
        self._database = database
        self._readers = readers

    async def get(self, tenant: str, user: str) -> UserState | None:
        """The state of a user, None for an unknown one. Cost: a dictionary look-up, or one query."""
        key = (tenant, user)
        found, state = self._cache.find(key)
        if found:
            return state
        load = self._cache.begin(key)
        try:
            state = await asyncio.get_running_loop().run_in_executor(self._readers, self._read, tenant, user)
        except BaseException:
            self._cache.abandon(key, load)
            raise
        return self._cache.finish(key, load, state)

    def posterior(self, state: UserState | None) -> UserPosterior:
        """What is left now of what was learned; the population's where nothing was."""
        return self.prior if state is None else self._forgetting.aged(state.evidence, self._clock())

    def _read(self, tenant: str, user: str) -> UserState | None:
        with self._database.reading() as connection:
            row = find_states(connection, tenant, [user]).get(user)
        return None if row is None else UserState.from_row(row, self.population)
