"""What users may ask for: a merge with another id of the same person, and deletion."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import orjson
from sqlalchemy import Connection

from penchant.models.taste.items import item_key
from penchant.service.bundles.served_model import Models
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.trust import TrustState
from penchant.service.feedback.writer import Writer
from penchant.service.privacy.invalidation import CacheInvalidator, Deletion, announce
from penchant.service.ranking.rankings import Rankings
from penchant.service.store.database import Store
from penchant.service.store.events import find_times, move_log
from penchant.service.store.user_data import delete_user, move_requests
from penchant.service.store.users import drop_states, drop_user, find_user, lock_tenant, lock_users, put_user
from penchant.service.telemetry.metrics import Telemetry
from penchant.service.users.fold import Fold
from penchant.service.users.states import UserState, build_unlearned_state


class UserData:
    """Merges and deletes the data of users. Changes run on the writer's thread, between groups of feedback.

    Args:
        writer: Writer, which runs the changes.
        store: The store.
        invalidator: Invalidator of this server's caches.
        rankings: Cache of recent rankings.
        models: Models of this server, with their states and extractors.
        telemetry: Telemetry, which hashes users.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        store: Store,
        invalidator: CacheInvalidator,
        rankings: Rankings,
        models: Models,
        telemetry: Telemetry,
    ) -> None:
        self._writer = writer
        self._store = store
        self._invalidator = invalidator
        self._rankings = rankings
        self._models = models
        self._telemetry = telemetry

    async def delete(self, tenant: str, user: str) -> None:
        """Delete a user from the store and from the memory of all servers, and return when that is durable.

        Raises:
            ApiError: `storage_unavailable`, if the store cannot be written.
        """
        recent = self._rankings.find_texts(tenant, user)

        def delete(connection: Connection) -> Deletion:
            lock_tenant(connection, tenant)  # another user may be about to judge a text of this user
            features, items, shown = delete_user(connection, tenant, user)
            texts = [*recent, *(pair for stored in shown for pair in _shown_texts(stored))]
            keys = [source.extractor.key for source in self._models.sources]
            deletion = Deletion(
                tenant,
                self._telemetry.hash_user(tenant, user),
                [*features, *_cached_keys(keys, texts)],
                [*items, *(item_key(prompt, text) for prompt, text in texts)],
            )
            if self._store.shared:
                announce(connection, deletion, self._store.clock())
            return deletion

        def drop(deletion: Deletion) -> None:
            for model in self._models.held:
                model.cache.publish((tenant, user), None)
            self._invalidator.invalidate(deletion)

        await self._writer.commit(delete, drop)

    async def merge(self, tenant: str, user: str, source: str) -> dict[str, Any]:
        """Give all data of `source` to `user`. The logs are merged by time of arrival, and the state is learned again.

        This is idempotent: if `source` no longer exists, nothing changes.

        Returns:
            `user`, `merged_events`, `feedback_events`, `posterior_version`.

        Raises:
            ApiError: `user_not_found`, if neither user is known.
            ApiError: `storage_unavailable`, if the store cannot be written.
        """
        if user == source:
            raise InvalidRequestError(("/from", "It is the same user."))

        def join(connection: Connection) -> tuple[int, UserState]:
            lock_users(connection, [(tenant, user), (tenant, source)])
            merged, state = _join(connection, tenant, user, source, self._models.current.fold)
            if merged and self._store.shared:
                deletion = Deletion(tenant, self._telemetry.hash_user(tenant, source), erased=False)
                announce(connection, deletion, self._store.clock())
            return merged, state

        def publish(joined: tuple[int, UserState]) -> None:
            merged, state = joined
            if merged:
                cache = self._models.current.cache
                cache.publish((tenant, source), None)
                cache.publish((tenant, user), state)

        merged, state = await self._writer.commit(join, publish)
        self._rankings.reassign(tenant, source, user)
        return {
            "user": user,
            "merged_events": merged,
            "feedback_events": state.feedback_events,
            "posterior_version": state.version,
        }


def _join(connection: Connection, tenant: str, user: str, source: str, fold: Fold) -> tuple[int, UserState]:
    """Merge two users, and return the number of moved events and the user's state, which has learned nothing yet."""
    target_row, source_row = (find_user(connection, tenant, name) for name in (user, source))
    if source_row is None:
        if target_row is None:
            raise ApiError(Code.USER_NOT_FOUND, "Neither user is known.")
        return 0, build_unlearned_state(target_row, fold.start)
    places = merge_places(find_times(connection, tenant, user), find_times(connection, tenant, source))
    move_log(connection, tenant, source, user, {user: places[0], source: places[1]})
    move_requests(connection, tenant, source, user)
    drop_states(connection, tenant, [user, source])
    drop_user(connection, tenant, source)
    known = [row for row in (target_row, source_row) if row is not None]
    trusts = [TrustState.from_stored(row.information_day, row.information, row.trust) for row in known]
    trust = trusts[0] if len(trusts) == 1 else trusts[0].merge_with(trusts[1])
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
    merged = find_user(connection, tenant, user)
    if merged is None:
        raise RuntimeError("the row of the merged user is missing")
    return len(places[1]), build_unlearned_state(merged, fold.start)


def _cached_keys(
    keys: Sequence[Callable[[str, str], bytes]], pairs: Sequence[tuple[str, str]]
) -> list[bytes]:
    """Return the content keys under which the features of texts and of their prompts may be cached."""
    return [
        cached
        for key in keys
        for prompt, text in dict.fromkeys(pairs)
        for cached in (key(text, prompt), key(prompt, ""))
    ]


def _shown_texts(stored: bytes) -> Sequence[tuple[str, str]]:
    """Return the (prompt, text) pairs of a stored ranking."""
    shown = orjson.loads(stored)
    prompts, texts = shown["prompts"], shown["texts"]
    return [(prompts[i if len(prompts) > 1 else 0], text) for i, text in enumerate(texts)]


def merge_places(
    into: Sequence[tuple[int, float]], source: Sequence[tuple[int, float]]
) -> tuple[dict[int, int], dict[int, int]]:
    """Return the places of two logs' events in the merged log, which is ordered by time of arrival.

    Each log keeps its own order even if its clock was set back, so that a judgement stays before its retraction.

    Args:
        into: (seq, received_at) of the remaining user's events, in order.
        source: (seq, received_at) of the other user's events, in order. At equal times they come second.

    Returns:
        New seq, from 1, by old seq, for each of the two logs.
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
