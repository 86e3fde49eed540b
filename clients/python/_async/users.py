"""The methods that read, merge and delete the data of a user."""

from penchant import _calls as calls
from penchant import _responses as responses
from penchant._async.base import AsyncBaseClient
from penchant._async.pages import AsyncPage

__all__ = ["AsyncUsers"]


class AsyncUsers:
    """The data of users, as ``client.users``.

    Each method takes the user from its ``user`` argument or else from `AsyncClient.for_user`, and raises `ValueError`
    if neither names one.
    """

    def __init__(self, client: AsyncBaseClient) -> None:
        self._client = client

    async def get(self, *, user: str | None = None) -> responses.User:
        """Return the state of a user, and how the user differs from the population (``reasons``).

            ana = await client.users.get(user="ana")
            print(ana.feedback_events, ana.archetype_weights)

        Args:
            user: User id. Defaults to the client's user.

        Raises:
            NotFoundError: If the user has given no feedback.
        """
        return await self._client._run(calls.get_user(self._client._require_user(user)))

    async def delete(self, *, user: str | None = None) -> None:
        """Delete the state, the feedback log and the rankings of a user. An unknown user is not an error.

        Args:
            user: User id. Defaults to the client's user.
        """
        await self._client._run(calls.delete_user(self._client._require_user(user)))

    async def export(self, *, user: str | None = None) -> responses.UserExport:
        """Return all data that the server holds on a user: log, states, rankings, stored answers and trust.

        Args:
            user: User id. Defaults to the client's user.

        Raises:
            NotFoundError: If the server holds no data on the user.
        """
        return await self._client._run(calls.export_user(self._client._require_user(user)))

    async def merge(self, *, provisional: str, user: str | None = None) -> responses.Merged:
        """Move everything that was learned about a provisional user to the user it turned out to be.

            await client.users.merge(provisional="session-7f3a", user="ana")

        The provisional user no longer exists afterwards. Repeating a merge changes nothing.

        Args:
            provisional: Id that was used before the person was known.
            user: Id that receives the feedback. Defaults to the client's user.

        Raises:
            NotFoundError: If the server knows neither user.
        """
        return await self._client._run(calls.merge_users(self._client._require_user(user), provisional))

    async def feedback(
        self, *, user: str | None = None, limit: int | None = None
    ) -> AsyncPage[responses.LoggedEvent]:
        """Return the feedback log of a user, oldest event first.

            async for logged in await client.users.feedback(user="ana"):
                print(logged.event_id, logged.event["type"])

        Args:
            user: User id. Defaults to the client's user.
            limit: Number of events per page. Defaults to the server's page size.

        Raises:
            NotFoundError: If the user has given no feedback.
        """
        return await self._fetch_feedback(self._client._require_user(user), limit, None)

    async def _fetch_feedback(
        self, user: str, limit: int | None, cursor: str | None
    ) -> AsyncPage[responses.LoggedEvent]:
        listing = await self._client._run(calls.list_feedback(user, limit, cursor))
        return AsyncPage(
            listing.data, listing.cursor, lambda cursor: self._fetch_feedback(user, limit, cursor)
        )
