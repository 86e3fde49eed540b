"""`Client`: every endpoint as a method. `AsyncClient` has the same ones, to be awaited."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx

from penchant import _calls as calls
from penchant import _responses as responses
from penchant._config import DEFAULT_TIMEOUT, Timeout, read_config
from penchant._pages import Page
from penchant._teaching import Teaching
from penchant._transport import Transport

__all__ = ["Client", "Users"]


class Client(Teaching):
    """A client of one penchant server. Threads may share it; close it, or use it in a ``with`` block.

    Args:
        base_url: Where the server is; else ``PENCHANT_BASE_URL``, else this machine at port 8642.
        api_key: Else ``PENCHANT_API_KEY``; none is needed on loopback.
        timeout: Seconds for each phase of a request, or an `httpx.Timeout`; 10 s, and 2 s to connect.
        max_retries: Tries after the first, on 408, 409, 429, 5xx and when no answer came.
        http_client: Your own `httpx.Client` (proxies, certificates, …). It stays yours: closing this does not
            close it, and its timeout holds where ``timeout`` is not given.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: Timeout = None,
        max_retries: int | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        http = http_client or httpx.Client(timeout=DEFAULT_TIMEOUT)
        super().__init__(
            read_config(base_url, api_key, timeout, max_retries), Transport(http), owned=http_client is None
        )

    @property
    def users(self) -> "Users":
        """What is known of users."""
        return Users(self)

    def score(
        self,
        *,
        queries: str | Sequence[str],
        documents: str | Sequence[str],
        user: str | None = None,
        explain: bool | None = None,
        model: str | None = None,
    ) -> responses.Scores:
        """Utility of each text for the user, raw and unbounded, in the order given.

        Args:
            queries: One prompt for all documents, or one for each.
            documents: The texts.
            user: Whose taste; without one the population's.
            explain: Whether to say of each result what it is made of.
            model: A name from `models`.
        """
        return self._run(
            calls.score(
                queries=queries, documents=documents, user=self._user(user), explain=explain, model=model
            )
        )

    def rerank(
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
        """The documents in the user's order of preference, best first.

        Args:
            query: What they answer.
            documents: Texts, or mappings with ``text``.
            user: Whose taste; without one the population's.
            top_n: How many to return; all unless given.
            return_documents: Whether the answer repeats the texts.
            max_tokens_per_doc: Where to cut long texts.
            explain: Whether to say of each result what moved it up or down for this user.
            model: A name from `models`.
        """
        return self._run(
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

    def best_of_n(
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
        """The candidate to show, and how sure that is.

        Args:
            candidates: The texts to choose from.
            prompt: What they answer.
            user: Whose taste; without one the population's.
            strategy: ``mean`` unless given.
            accept_threshold: Least ``probability_acceptable`` of the best, in [0, 1]; below it there is none.
            n_return: How many candidates to return; all unless given.
            explain: Whether to say of each result what moved it up or down for this user.
        """
        return self._run(
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

    def models(self) -> Page[responses.ModelCard]:
        """The models that rankings may name, with their limits."""
        return self._models(None)

    def ready(self) -> responses.Readiness:
        """Whether the server can answer. A server that is up but not ready is an answer, not an error."""
        return self._run(calls.ready())

    def close(self) -> None:
        """Closes the connections, unless ``http_client`` was yours."""
        if self._owned:
            self._transport.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _models(self, cursor: str | None) -> Page[responses.ModelCard]:
        listing = self._run(calls.models(cursor))
        return Page(listing.data, listing.cursor, self._models)


class Users:
    """``client.users``: what is known of users."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, *, user: str | None = None) -> responses.User:
        """A user's state, and how the user differs from others (``reasons``).

        Raises:
            NotFoundError: The user has taught nothing.
        """
        return self._client._run(calls.get_user(self._client._named_user(user)))

    def delete(self, *, user: str | None = None) -> None:
        """Forgets a user: state and log. Deleting one who is unknown is fine."""
        self._client._run(calls.delete_user(self._client._named_user(user)))

    def export(self, *, user: str | None = None) -> responses.UserExport:
        """All that is held on a user: log, what was made of it, what was shown, kept answers, trust.

        Raises:
            NotFoundError: Nothing is held.
        """
        return self._client._run(calls.export_user(self._client._named_user(user)))

    def merge(self, *, provisional: str, user: str | None = None) -> responses.Merged:
        """Gives a user what was learned of another id of the same person, which is no more afterwards.

        Merging again changes nothing.

        Args:
            provisional: The id from before the person was known.
            user: Who it turned out to be.

        Raises:
            NotFoundError: Nothing is known of either.
        """
        return self._client._run(calls.merge_users(self._client._named_user(user), provisional))

    def feedback(self, *, user: str | None = None, limit: int | None = None) -> Page[responses.LoggedEvent]:
        """The user's feedback, as it was sent, oldest first.

        Args:
            user: Whose.
            limit: Events a page.
        """
        return self._feedback(self._client._named_user(user), limit, None)

    def _feedback(self, user: str, limit: int | None, cursor: str | None) -> Page[responses.LoggedEvent]:
        listing = self._client._run(calls.user_feedback(user, limit, cursor))
        return Page(listing.data, listing.cursor, lambda cursor: self._feedback(user, limit, cursor))
