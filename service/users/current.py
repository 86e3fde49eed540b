"""The event loop's way to a user's state: from memory, or caught up from the store in a thread."""

import asyncio
from weakref import WeakValueDictionary

from penchant.models.taste.posterior import UserPosterior
from penchant.service.store import users
from penchant.service.store.database import Store
from penchant.service.users.fold import Fold
from penchant.service.users.replayer import Replayer
from penchant.service.users.states import StateCache, UserKey, UserState


class UserStates:
    """What is known of users, now.

    Where several servers share the store, every answer looks up whether another has written: a user whose feedback was
    acknowledged anywhere finds it reflected everywhere. A server that is alone trusts its memory.

    Args:
        cache: Shared with the writer.
        store: The store.
        replayer: Catches up in them.
        fold: What a state is.
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
        self._under_way: WeakValueDictionary[UserKey, asyncio.Lock] = WeakValueDictionary()

    async def get(self, tenant: str, user: str) -> UserState | None:
        """The state of a user, None for an unknown one.

        Raises:
            SQLAlchemyError: The store cannot be read.
            ApiError: Texts of the user's log had to be read again, and the encoder has no room, or failed.

        Cost: a dictionary look-up where the user is in memory, and one query on a shared store. Otherwise a query; and
        where the saved state is behind the log, a step of the fold for each event that it does not know.
        """
        key = (tenant, user)
        found, state = self._cache.find(key)
        stamp = None
        if self._store.shared:
            stamp = await self._store.read(users.find_version, tenant, user)
            if stamp is None:
                return None
        if found and self._holds(state, stamp):
            return state
        return await self._caught_up(key, stamp)

    def posterior(self, state: UserState | None) -> UserPosterior:
        """What is left now of what was learned; the population's where nothing was."""
        return self.prior if state is None else self._forgetting.aged(state.evidence, self._store.clock())

    def _holds(self, state: UserState | None, stamp: tuple[int, float] | None) -> bool:
        """Whether a state in memory can be answered from; `stamp` is the store's, on a shared one."""
        if not self._store.shared:
            return state is None or state.is_current
        return state is not None and state.is_current and state.stamp == stamp

    async def _caught_up(self, key: UserKey, stamp: tuple[int, float] | None) -> UserState | None:
        under_way = self._under_way.setdefault(key, asyncio.Lock())
        async with under_way:  # one request does the work for all that wait
            found, state = self._cache.find(key)
            if found and self._holds(state, stamp):
                return state
            load = self._cache.begin(key)
            try:
                state = await self._store.run(self._replayer.current, key)
            except BaseException:
                self._cache.abandon(key, load)
                raise
            return self._cache.finish(key, load, state)
