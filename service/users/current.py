"""Access to current user states from the event loop: from memory, or caught up from the store in a thread."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from penchant.models.taste.posterior import UserPosterior
from penchant.service.store import users
from penchant.service.store.database import Store
from penchant.service.users.fold import Fold
from penchant.service.users.replayer import Replayer
from penchant.service.users.states import StateCache, UserKey, UserState

USERS_AT_ONCE: Final = 500
"""Largest number of users whose states are loaded together. It is as many as one query can name."""


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
        self._fold = fold
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

    async def get_many(
        self, tenant: str, names: Iterable[str], *, is_kept: bool = True
    ) -> dict[str, UserState]:
        """Return the states of users. Unknown users are left out.

        Args:
            tenant: Tenant of the users.
            names: Ids of up to `USERS_AT_ONCE` users.
            is_kept: Whether states that are read from the store may take the place of others in memory.

        Raises:
            SQLAlchemyError: If the store cannot be read.
            ApiError: If texts of a user's log must be encoded again and the encoder is overloaded or fails.

        Cost: one query for all users who are not in memory, and one more if the store is shared. Users who are behind
            their log are caught up one after the other, as `get` does.
        """
        known, missing = await self._find_cached(tenant, list(dict.fromkeys(names)))
        if not missing:
            return known
        loaded = await self._load_many(tenant, missing, is_kept=is_kept)
        for user, state in loaded.items():
            # One at a time, so that other requests find a free reader.
            current = state if state.is_current else await self.get(tenant, user)
            if current is not None:
                known[user] = current
        return known

    async def _find_cached(self, tenant: str, names: Sequence[str]) -> tuple[dict[str, UserState], list[str]]:
        """Return the states in memory that are valid, and the users who are not known to be in memory."""
        cached = {user: found for user in names if (found := self._cache.find((tenant, user)))[0]}
        stamps: dict[str, tuple[int, float]] = {}
        if self._store.shared and cached:
            stamps = await self._store.read(users.find_versions, tenant, list(cached))
        valid = {
            user: state for user, (_, state) in cached.items() if self._is_valid(state, stamps.get(user))
        }
        known = {user: state for user, state in valid.items() if state is not None}
        return known, [user for user in names if user not in valid]

    async def _load_many(self, tenant: str, names: Sequence[str], *, is_kept: bool) -> dict[str, UserState]:
        """Read the states of users, some of which may be behind the log. Cache those that are not, if `is_kept`."""
        if not is_kept:
            return await self._store.read(self._read_states, tenant, names)
        loads = {user: self._cache.begin_load((tenant, user)) for user in names}
        try:
            read = await self._store.read(self._read_states, tenant, names)
        except BaseException:
            for user, load in loads.items():
                self._cache.abort_load((tenant, user), load)
            raise
        loaded: dict[str, UserState] = {}
        for user, load in loads.items():
            state = read.get(user)
            if state is None or state.is_current:
                state = self._cache.finish_load((tenant, user), load, state)
            else:
                self._cache.abort_load((tenant, user), load)
            if state is not None:
                loaded[user] = state
        return loaded

    def _read_states(self, connection: Connection, tenant: str, names: Sequence[str]) -> dict[str, UserState]:
        """Return the saved states of known users, which may be behind the log."""
        fold = self._fold
        rows = users.find_users(
            connection, tenant, names, fold.bundle_version, fold.forgetting.half_life_days
        )
        return {user: UserState.from_row(row, fold.start) for user, row in rows.items()}

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
