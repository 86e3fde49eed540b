"""A user's data as the user's own: told, given to another id of the same person, forgotten."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import orjson
from sqlalchemy import Connection

from penchant.models.taste.reward import item_key
from penchant.service.bundles.served_model import Models
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.trust import TrustState
from penchant.service.feedback.writer import Writer
from penchant.service.privacy.forgotten import Forgotten, Memories, announce
from penchant.service.privacy.user_export import exported
from penchant.service.ranking.rankings import Rankings
from penchant.service.store.database import Store
from penchant.service.store.events import find_times, move_log
from penchant.service.store.user_data import delete_user, find_user_rows, move_requests
from penchant.service.store.users import drop_states, drop_user, find_user, lock_tenant, lock_users, put_user
from penchant.service.telemetry.metrics import Telemetry
from penchant.service.users.fold import Fold
from penchant.service.users.states import UserState, unlearned


class UserData:
    """Does what users may ask for with their data. Changes run on the writer's thread, between feedback.

    Args:
        writer: Runs them.
        store: The store.
        memories: What this server holds in memory.
        rankings: Recent ones, to be renamed.
        models: States in memory, what a state is, keys of texts.
        telemetry: The hash under which others hear of a user.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        store: Store,
        memories: Memories,
        rankings: Rankings,
        models: Models,
        telemetry: Telemetry,
    ) -> None:
        self._writer = writer
        self._store = store
        self._memories = memories
        self._rankings = rankings
        self._models = models
        self._telemetry = telemetry

    async def forget(self, tenant: str, user: str) -> None:
        """Removes a user from store and memory, here and on other servers; returns when that is durable.

        Raises:
            ApiError: `storage_unavailable`.
        """
        held = self._rankings.texts_of(tenant, user)

        def remove(connection: Connection) -> Forgotten:
            lock_tenant(connection, tenant)  # somebody may be about to judge a text of this user's
            quoted = orjson.dumps(user).decode()
            features, items, shown = delete_user(connection, tenant, user, quoted)
            texts = [*held, *(pair for stored in shown for pair in _shown_texts(stored))]
            keys = [source.extractor.key for source in self._models.sources]
            forgotten = Forgotten(
                tenant,
                self._telemetry.hash_user(tenant, user),
                [*features, *(key(text, prompt) for key in keys for prompt, text in texts)],
                [*items, *(item_key(prompt, text) for prompt, text in texts)],
            )
            if self._store.shared:
                announce(connection, forgotten, self._store.clock())
            return forgotten

        def drop(forgotten: Forgotten) -> None:
            for model in self._models.held:
                model.cache.publish((tenant, user), None)
            self._memories.forget(forgotten)

        await self._writer.alone(remove, drop)

    async def merge(self, tenant: str, user: str, source: str) -> dict[str, Any]:
        """Gives all that is known of `source` to `user`: logs in the order in which they were received, states anew.

        Idempotent: where `source` is no more, nothing changes.

        Returns:
            `user`, `merged_events`, `feedback_events`, `posterior_version`.

        Raises:
            ApiError: `user_not_found` where neither is known; `storage_unavailable`.
        """
        if user == source:
            raise InvalidRequestError(("/from", "It is the same user."))

        def join(connection: Connection) -> tuple[int, UserState]:
            lock_users(connection, [(tenant, user), (tenant, source)])
            merged, state = _join(connection, tenant, user, source, self._models.current.fold)
            if merged and self._store.shared:
                gone = Forgotten(tenant, self._telemetry.hash_user(tenant, source), erased=False)
                announce(connection, gone, self._store.clock())
            return merged, state

        def publish(joined: tuple[int, UserState]) -> None:
            merged, state = joined
            if merged:
                cache = self._models.current.cache
                cache.publish((tenant, source), None)
                cache.publish((tenant, user), state)

        merged, state = await self._writer.alone(join, publish)
        self._rankings.rename(tenant, source, user)
        return {
            "user": user,
            "merged_events": merged,
            "feedback_events": state.feedback_events,
            "posterior_version": state.version,
        }

    def export(self, tenant: str, user: str) -> dict[str, Any]:
        """All that is held on a user. To be called in a thread: it asks the database.

        Raises:
            ApiError: `user_not_found`.
        """
        with self._store.reading() as connection:
            held = find_user_rows(connection, tenant, user, orjson.dumps(user).decode())
        if held.user is None and not (held.rankings or held.answers):
            raise ApiError(Code.USER_NOT_FOUND, "Nothing is held on this user.")
        return exported(user, held, self._models.current.fold, self._store.clock())


def _join(connection: Connection, tenant: str, user: str, source: str, fold: Fold) -> tuple[int, UserState]:
    """How many events were given to the user, and the user's state: behind its log."""
    mine, theirs = (find_user(connection, tenant, name) for name in (user, source))
    if theirs is None:
        if mine is None:
            raise ApiError(Code.USER_NOT_FOUND, "Nothing is known of either user.")
        return 0, unlearned(mine, fold.start)
    places = merged_places(find_times(connection, tenant, user), find_times(connection, tenant, source))
    move_log(connection, tenant, source, user, {user: places[0], source: places[1]})
    quoted = (orjson.dumps(source).decode(), orjson.dumps(user).decode())
    move_requests(connection, tenant, source, user, quoted)
    drop_states(connection, tenant, [user, source])
    drop_user(connection, tenant, source)
    trusts = [
        TrustState.read(r.information_day, r.information, r.trust) for r in (mine, theirs) if r is not None
    ]
    trust = trusts[0] if len(trusts) == 1 else trusts[0].joined(trusts[1])
    known = [row for row in (mine, theirs) if row is not None]
    events = sum(len(some) for some in places)
    row = {
        "version": sum(row.version for row in known) + 1,
        "feedback_events": events,
        "last_seq": events,
        "information_day": trust.day,
        "information": trust.information,
        "trust": trust.to_json(),
        "updated_at": max(row.updated_at for row in known),
    }
    put_user(connection, tenant, user, row)
    found = find_user(connection, tenant, user)
    if found is None:
        raise RuntimeError("a user that was just written is not there")
    return len(places[1]), unlearned(found, fold.start)


def _shown_texts(stored: bytes) -> Sequence[tuple[str, str]]:
    """(prompt, text) of a stored ranking."""
    shown = orjson.loads(stored)
    prompts, texts = shown["prompts"], shown["texts"]
    return [(prompts[i if len(prompts) > 1 else 0], text) for i, text in enumerate(texts)]


def merged_places(
    into: Sequence[tuple[int, float]], source: Sequence[tuple[int, float]]
) -> tuple[dict[int, int], dict[int, int]]:
    """Where the events of two logs stand in the one that they become: by the time at which they were received.

    Each log keeps its own order, whatever its clock said: what was taken back comes before what takes it back.

    Args:
        into: (seq, received_at) of the log that stays, in order.
        source: Of the other. At equal times it comes after.

    Returns:
        Old seq → new seq, from 1, of both.
    """
    timed = [
        (latest, which, seq)
        for which, log in enumerate((into, source))
        for (seq, _), latest in zip(log, accumulate((at for _, at in log), max), strict=True)
    ]
    places: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for place, (_, which, seq) in enumerate(sorted(timed), start=1):
        places[which][seq] = place
    return places
