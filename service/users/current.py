"""Access to current user states from the event loop: from memory, or caught up from the store in a thread."""

import asyncio
from weakref import WeakValueDictionary

from penchant.models.taste.posterior import UserPosterior
from penchant.service.store import users
from penchant.service.store.database import Store
from penchant.service.users.fold import Fold
from penchant.service.users.replayer import Replayer
from penchant.service.users.states import StateCache, UserKey, UserState


class UserStates:
    """The current states of users.

    If several servers share the store, every call checks whether another server has written, so that feedback
    acknowledged by one server is visible on all of them. A server that has the store to itself relies on its memory.

    Args:
        cache: Cache of states, which the writer shares.
        store: The store.
        replayer: Catches users up.
        fold: Fold that computes states.
    """

    def __init__(
        self,
        *,
        cache: StateCache,
        store: Store,
        replayer: Replayer,
        fold: Fold,
    ) -> None:
        self.prior = fold.start.posterior
        self._forgetting = fold.forgetting
        self._cache = cache
        self._store = store
        self._replayer = replayer
        self._locks: WeakValueDictionary[UserKey, asyncio.Lock] = WeakValueDictionary()

    async def get(self, tenant: str, user: str) -> UserState | None:
        """Return the state of a user, or None for an unknown user.

        Raises:
            SQLAlchemyError: If the store cannot be read.
            ApiError: If texts of the user's log must be encoded again and the encoder is overloaded or fails.

        Cost: one dictionary look-up if the user is in memory, and one query if the store is shared. Otherwise one query,
        and one step of the fold for each event that the saved state does not cover.
        """
        key = (tenant, user)
        is_cached, state = self._cache.find(key)
        stamp = None
        if self._store.shared:
            stamp = await self._store.read(users.find_version, tenant, user)
            if stamp is None:
                return None
        if is_cached and self._is_valid(state, stamp):
            return state
        return await self._catch_up(key, stamp)

    def compute_posterior(self, state: UserState | None) -> UserPosterior:
        """Return a user's posterior as of now, after forgetting. For an unknown user it is the prior."""
        return self.prior if state is None else self._forgetting.decay(state.evidence, self._store.clock())

    def _is_valid(self, state: UserState | None, stamp: tuple[int, float] | None) -> bool:
        """Return whether a cached state is up to date; `stamp` is that of the store if the store is shared."""
        if not self._store.shared:
            return state is None or state.is_current
        return state is not None and state.is_current and state.stamp == stamp

    async def _catch_up(self, key: UserKey, stamp: tuple[int, float] | None) -> UserState | None:
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:  # one request does the work for all that wait
            is_cached, state = self._cache.find(key)
            if is_cached and self._is_valid(state, stamp):
                return state
            load = self._cache.begin_load(key)
            try:
                state = await self._replayer.load_state(key)
            except BaseException:
                self._cache.abort_load(key, load)
                raise
            return self._cache.finish_load(key, load, state)
