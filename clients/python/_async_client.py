"""`AsyncClient`: the methods of `Client`, to be awaited. What an argument means is written there."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from penchant import _calls as calls
from penchant import _responses as responses
from penchant._base import BaseClient
from penchant._config import DEFAULT_TIMEOUT, Timeout, read_config
from penchant._pages import AsyncPage
from penchant._transport import AsyncTransport

__all__ = ["AsyncClient", "AsyncUsers"]


class AsyncClient(BaseClient[AsyncTransport]):
    """A client of one penchant server, for asyncio. Close it, or use it in an ``async with`` block.

    The arguments are those of `Client`, with an `httpx.AsyncClient`.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: Timeout = None,
        max_retries: int | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        http = http_client or httpx.AsyncClient(timeout=DEFAULT_TIMEOUT)
        super().__init__(
            read_config(base_url, api_key, timeout, max_retries),
            AsyncTransport(http),
            owned=http_client is None,
        )

    @property
    def users(self) -> "AsyncUsers":
        """As `Client.users`."""
        return AsyncUsers(self)

    async def score(
        self,
        *,
        queries: str | Sequence[str],
        documents: str | Sequence[str],
        user: str | None = None,
        model: str | None = None,
    ) -> responses.Scores:
        """As `Client.score`."""
        return await self._run(
            calls.score(queries=queries, documents=documents, user=self._user(user), model=model)
        )

    async def rerank(
        self,
        *,
        query: str,
        documents: Sequence[calls.Document],
        user: str | None = None,
        top_n: int | None = None,
        return_documents: bool | None = None,
        max_tokens_per_doc: int | None = None,
        model: str | None = None,
    ) -> responses.Ranking:
        """As `Client.rerank`."""
        return await self._run(
            calls.rerank(
                query=query,
                documents=documents,
                user=self._user(user),
                top_n=top_n,
                return_documents=return_documents,
                max_tokens_per_doc=max_tokens_per_doc,
                model=model,
            )
        )

    async def best_of_n(
        self,
        *,
        candidates: Sequence[str],
        prompt: str | None = None,
        user: str | None = None,
        strategy: calls.Strategy | None = None,
        accept_threshold: float | None = None,
        n_return: int | None = None,
    ) -> responses.BestOfN:
        """As `Client.best_of_n`."""
        return await self._run(
            calls.best_of_n(
                candidates=candidates,
                prompt=prompt,
                user=self._user(user),
                strategy=strategy,
                accept_threshold=accept_threshold,
                n_return=n_return,
            )
        )

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
            weight=weight,
            source=source,
            rank_id=rank_id,
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

    async def models(self) -> AsyncPage[responses.ModelCard]:
        """As `Client.models`."""
        return await self._models(None)

    async def ready(self) -> responses.Readiness:
        """As `Client.ready`."""
        return await self._run(calls.ready())

    async def close(self) -> None:
        """As `Client.close`."""
        if self._owned:
            await self._transport.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _models(self, cursor: str | None) -> AsyncPage[responses.ModelCard]:
        listing = await self._run(calls.models(cursor))
        return AsyncPage(listing.data, listing.cursor, self._models)

    async def _run(self, call: calls.Call[calls.T]) -> calls.T:
        return await self._transport.run(call, self._config)


class AsyncUsers:
    """As `Users`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def get(self, *, user: str | None = None) -> responses.User:
        """As `Users.get`."""
        return await self._client._run(calls.get_user(self._client._named_user(user)))

    async def delete(self, *, user: str | None = None) -> None:
        """As `Users.delete`."""
        await self._client._run(calls.delete_user(self._client._named_user(user)))

    async def feedback(
        self, *, user: str | None = None, limit: int | None = None
    ) -> AsyncPage[responses.LoggedEvent]:
        """As `Users.feedback`."""
        return await self._feedback(self._client._named_user(user), limit, None)

    async def _feedback(
        self, user: str, limit: int | None, cursor: str | None
    ) -> AsyncPage[responses.LoggedEvent]:
        listing = await self._client._run(calls.user_feedback(user, limit, cursor))
        return AsyncPage(listing.data, listing.cursor, lambda cursor: self._feedback(user, limit, cursor))
