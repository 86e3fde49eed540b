"""What users may ask for: a merge with another id of the same person, and deletion."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from penchant.service.errors import InvalidRequestError
from penchant.service.feedback.writer import Writer
from penchant.service.privacy.merging import MergeStep
from penchant.service.privacy.unfinished import UnfinishedChanges
from penchant.service.ranking.rankings import Rankings

Result = TypeVar("Result")


class UserData:
    """Merges and deletes the data of users. Changes run on the writer's thread, between groups of feedback.

    Args:
        writer: Writer, which runs the changes.
        unfinished: The transactions of a change.
        rankings: Cache of recent rankings.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        unfinished: UnfinishedChanges,
        rankings: Rankings,
    ) -> None:
        self._writer = writer
        self._unfinished = unfinished
        self._rankings = rankings
        self._changes: set[asyncio.Future[Any]] = set()

    async def delete(self, tenant: str, user: str) -> None:
        """Delete a user from the store and from the memory of all servers, and return when that is durable.

        The first of its transactions makes the user unknown. The others run even if the caller disconnects.

        Raises:
            ApiError: `user_busy`, if the user is being merged.
            ApiError: `storage_unavailable`, if the store cannot be written.
        """
        await self._complete(self._delete(tenant, user))

    async def _delete(self, tenant: str, user: str) -> None:
        is_done = False
        while not is_done:
            recent = self._rankings.find_texts(tenant, user)
            step = partial(self._unfinished.delete_step, tenant, user, recent)
            done = await self._writer.commit(step, partial(self._unfinished.publish_deletion, tenant, user))
            is_done = done.is_done

    async def merge(self, tenant: str, user: str, source: str) -> dict[str, Any]:
        """Give all data of `source` to `user`. The logs are merged by time of arrival, and the state is learned again.

        This is idempotent: if `source` no longer exists, nothing changes. Once begun, it completes even if the caller
        leaves.

        Returns:
            `user`, `merged_events`, `feedback_events`, `posterior_version`.

        Raises:
            ApiError: `user_not_found`, if neither user is known.
            ApiError: `user_busy`, if one of them is being deleted, or merged with another user.
            ApiError: `storage_unavailable`, if the store cannot be written.
        """
        if user == source:
            raise InvalidRequestError(("/from", "It is the same user."))
        merged = await self._complete(self._merge(tenant, user, source))
        return {
            "user": user,
            "merged_events": merged.merged,
            "feedback_events": merged.row.feedback_events,
            "posterior_version": merged.row.version,
        }

    async def _merge(self, tenant: str, user: str, source: str) -> MergeStep:
        while True:
            step = partial(self._unfinished.merge_step, tenant, user, source)
            merged: MergeStep = await self._writer.commit(
                step, partial(self._unfinished.publish_merge, tenant, user, source)
            )
            if merged.is_done:
                self._rankings.reassign(tenant, source, user)
                return merged

    async def _complete(self, change: Coroutine[Any, Any, Result]) -> Result:
        """Run a change of several transactions to its end, whether or not the request waits for it."""
        task = asyncio.ensure_future(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)
