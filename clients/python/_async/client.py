"""`AsyncClient`, with one method for each endpoint of the server."""

from collections.abc import Sequence

import httpx

from penchant import _calls as calls
from penchant import _responses as responses
from penchant._async.feedback import AsyncFeedbackClient
from penchant._async.pages import AsyncPage
from penchant._async.transport import AsyncTransport
from penchant._async.users import AsyncUsers
from penchant._config import DEFAULT_TIMEOUT, Timeout, read_config

__all__ = ["AsyncClient"]


class AsyncClient(AsyncFeedbackClient):
    """An asynchronous client of a penchant server.

        async with AsyncClient() as client:
            ana = client.for_user("ana")
            await ana.prefer(prompt="Tea?", chosen="Yes.", rejected="I would be delighted to have some.")
            ranking = await ana.rerank(query="Coffee?", documents=["No.", "I am afraid I have to decline."])
            print(ranking.order)

    Tasks of one event loop can share a client. Call `close` when you are done, or use an ``async with`` block.

    Args:
        base_url: Address of the server. Defaults to ``PENCHANT_BASE_URL``, else ``http://127.0.0.1:8642``.
        api_key: API key. Defaults to ``PENCHANT_API_KEY``. A server on the loopback interface needs none.
        timeout: Seconds for each phase of a request, or an `httpx.Timeout`. Defaults to 10 s, and 2 s to connect.
        max_retries: Attempts after the first, if the response has status 408, 409, 429 or 5xx or if there is none.
            Defaults to 2.
        http_client: Your own `httpx.AsyncClient`, for proxies, certificates and the like. Closing this client does not
            close it, and its timeout applies if ``timeout`` is not given.

    Raises:
        PenchantError: If the address or the key is malformed.
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
            owns_http=http_client is None,
        )

    @property
    def users(self) -> AsyncUsers:
        """Methods that read, merge and delete the data of users."""
        return AsyncUsers(self)

    async def score(
        self,
        *,
        queries: str | Sequence[str],
        documents: str | Sequence[str],
        user: str | None = None,
        explain: bool | None = None,
        personalization: float | None = None,
        model: str | None = None,
    ) -> responses.Scores:
        """Return the utility of each text for the user, in the order given. Utilities are raw and unbounded.

            scores = await client.score(queries="Tea?", documents=["Yes.", "No, thank you."], user="ana")
            print([score.score for score in scores.data])

        Args:
            queries: One prompt for all documents, or one for each.
            documents: Texts to score.
            user: User whose taste counts. Defaults to the client's user, else to the population.
            explain: Whether each result carries an `Explanation`.
            personalization: How far the answer departs from the population's towards the user's, from 0 to 1. Defaults
                to the server's setting, which is 1 unless its operator changed it.
            model: Name of a model from `models`.
        """
        return await self._run(
            calls.score(
                queries=queries,
                documents=documents,
                user=self._resolve_user(user),
                explain=explain,
                personalization=personalization,
                model=model,
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
        personalization: float | None = None,
        model: str | None = None,
    ) -> responses.Ranking:
        """Return the documents in the user's order of preference, best first.

            ranking = await client.rerank(query="Tea?", documents=["Yes.", "No, thank you."], user="ana")
            picked = ranking.results[0].index  # the user picked the first result
            await client.choose(rank_id=ranking.id, index=picked, user="ana")

        Args:
            query: Prompt that the documents answer.
            documents: Texts, or mappings that hold the text under ``text``.
            user: User whose taste counts. Defaults to the client's user, else to the population.
            top_n: Number of documents to return. Defaults to all.
            return_documents: Whether each result carries its text.
            max_tokens_per_doc: Number of tokens to which each document is cut. The limits of the server apply anyway.
            explain: Whether each result carries an `Explanation`.
            personalization: How far the answer departs from the population's towards the user's, from 0 to 1. Defaults
                to the server's setting, which is 1 unless its operator changed it.
            model: Name of a model from `models`.
        """
        return await self._run(
            calls.rerank(
                query=query,
                documents=documents,
                user=self._resolve_user(user),
                top_n=top_n,
                return_documents=return_documents,
                max_tokens_per_doc=max_tokens_per_doc,
                explain=explain,
                personalization=personalization,
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
        personalization: float | None = None,
    ) -> responses.BestOfN:
        """Return the candidate to show the user, and the probability that the user finds it good enough.

            answer = await client.best_of_n(prompt="Tea?", candidates=drafts, user="ana", accept_threshold=0.6)
            if answer.best is not None:
                print(drafts[answer.best.index])

        Args:
            candidates: Texts to choose from.
            prompt: Prompt that the candidates answer.
            user: User whose taste counts. Defaults to the client's user, else to the population.
            strategy: How uncertainty is treated. Defaults to ``mean``.
            accept_threshold: Lowest ``probability_acceptable`` of a candidate that may be chosen, in [0, 1]. If no
                candidate reaches it, ``best`` is None.
            n_return: Number of candidates to return. Defaults to all.
            explain: Whether each result carries an `Explanation`.
            personalization: How far the answer departs from the population's towards the user's, from 0 to 1. Defaults
                to the server's setting, which is 1 unless its operator changed it.
        """
        return await self._run(
            calls.best_of_n(
                candidates=candidates,
                prompt=prompt,
                user=self._resolve_user(user),
                strategy=strategy,
                accept_threshold=accept_threshold,
                n_return=n_return,
                explain=explain,
                personalization=personalization,
            )
        )

    async def models(self) -> AsyncPage[responses.ModelCard]:
        """Return the models that a ranking may name, with their limits."""
        return await self._fetch_models(None)

    async def ready(self) -> responses.Readiness:
        """Return whether the server can serve requests.

            if not await client.ready():
                print("The server is still starting.")

        A server that runs but is not ready is a result, not an error.
        """
        return await self._run(calls.check_readiness())

    async def _fetch_models(self, cursor: str | None) -> AsyncPage[responses.ModelCard]:
        listing = await self._run(calls.list_models(cursor))
        return AsyncPage(listing.data, listing.cursor, self._fetch_models)
