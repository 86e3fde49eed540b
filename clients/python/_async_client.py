"""`AsyncClient`: the methods of `Client`, to be awaited. What an argument means is written there."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx

from penchant import _calls as calls
from penchant import _responses as responses
from penchant._async_teaching import AsyncTeaching
from penchant._config import DEFAULT_TIMEOUT, Timeout, read_config
from penchant._pages import AsyncPage
from penchant._transport import AsyncTransport

__all__ = ["AsyncClient", "AsyncUsers"]


class AsyncClient(AsyncTeaching):
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
        explain: bool | None = None,
        model: str | None = None,
    ) -> responses.Scores:
        """As `Client.score`."""
        return await self._run(
            calls.score(
                queries=queries, documents=documents, user=self._user(user), explain=explain, model=model
            )
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
        explain: bool | None = None,
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
                explain=explain,
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
        explain: bool | None = None,
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
                explain=explain,
            )
        )

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

    async def export(self, *, user: str | None = None) -> responses.UserExport:
        """As `Users.export`."""
        return await self._client._run(calls.export_user(self._client._named_user(user)))

    async def merge(self, *, provisional: str, user: str | None = None) -> responses.Merged:
        """As `Users.merge`."""
        return await self._client._run(calls.merge_users(self._client._named_user(user), provisional))

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
