"""`AsyncTeaching`: the methods of `Teaching`, to be awaited. What an argument means is written there."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from penchant import _calls as calls
from penchant import _responses as responses
from penchant._base import BaseClient
from penchant._transport import AsyncTransport

__all__ = ["AsyncTeaching"]


class AsyncTeaching(BaseClient[AsyncTransport]):
    """The half of `AsyncClient` that sends feedback."""

    async def feedback(
        self,
        *,
        events: Sequence[Mapping[str, Any]],
        user: str | None = None,
        idempotency_key: str | None = None,
    ) -> responses.FeedbackReceipt:
        """As `Client.feedback`."""
        return await self._run(calls.feedback(events, self._user(user), idempotency_key))

    async def prefer(
        self,
        *,
        chosen: str,
        rejected: str,
        prompt: str | None = None,
        strength: float | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        rank_id: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """As `Client.prefer`."""
        event = calls.preference(
            chosen=chosen,
            rejected=rejected,
            prompt=prompt,
            strength=strength,
            weight=weight,
            source=source,
            rank_id=rank_id,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.feedback_event(event, self._user(user)))

    async def choose(
        self,
        *,
        index: int,
        candidates: Sequence[str] | None = None,
        prompt: str | None = None,
        rank_id: str | None = None,
        seen: Sequence[int] | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """As `Client.choose`."""
        event = calls.choice(
            index=index,
            candidates=candidates,
            prompt=prompt,
            rank_id=rank_id,
            seen=seen,
            weight=weight,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.feedback_event(event, self._user(user)))

    async def rank(
        self,
        *,
        order: Sequence[str | Sequence[str]],
        prompt: str | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        rank_id: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """As `Client.rank`."""
        event = calls.ranking(
            order=order,
            prompt=prompt,
            weight=weight,
            source=source,
            rank_id=rank_id,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.feedback_event(event, self._user(user)))

    async def edit(
        self,
        *,
        original: str,
        edited: str,
        prompt: str | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        rank_id: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """As `Client.edit`."""
        event = calls.edit(
            original=original,
            edited=edited,
            prompt=prompt,
            weight=weight,
            source=source,
            rank_id=rank_id,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.feedback_event(event, self._user(user)))

    async def retract(
        self,
        *,
        target_event_id: str,
        user: str | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """As `Client.retract`."""
        event = calls.retraction(
            target_event_id=target_event_id,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.feedback_event(event, self._user(user)))

    async def vote(
        self,
        *,
        value: Literal[1, -1],
        text: str | None = None,
        prompt: str | None = None,
        rank_id: str | None = None,
        index: int | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """As `Client.vote`."""
        event = calls.vote(
            value=value,
            text=text,
            prompt=prompt,
            rank_id=rank_id,
            index=index,
            weight=weight,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.feedback_event(event, self._user(user)))

    async def rate(
        self,
        *,
        value: float,
        scale: tuple[float, float],
        text: str | None = None,
        prompt: str | None = None,
        rank_id: str | None = None,
        index: int | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """As `Client.rate`."""
        event = calls.rating(
            value=value,
            scale=scale,
            text=text,
            prompt=prompt,
            rank_id=rank_id,
            index=index,
            weight=weight,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.feedback_event(event, self._user(user)))

    async def _run(self, call: calls.Call[calls.T]) -> calls.T:
        return await self._transport.run(call, self._config)
