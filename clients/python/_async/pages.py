"""Pages of a long list, fetched as they are needed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from penchant._responses import Response

__all__ = ["AsyncPage"]

R = TypeVar("R", bound=Response)


@dataclass(frozen=True)
class AsyncPage(Generic[R]):
    """A page of a list that `AsyncClient` returns.

    Iterating over a page yields its items and those of all following pages, which are fetched as they are needed:

        async for event in await client.users.feedback(user="ana"):
            print(event.event_id)

    Attributes:
        data: Items of this page.
        next_cursor: Cursor of the next page. None on the last page.
        fetch: Function that fetches the page at a cursor.
    """

    data: tuple[R, ...]
    next_cursor: str | None
    fetch: Callable[[str], Awaitable["AsyncPage[R]"]]

    async def __aiter__(self) -> AsyncIterator[R]:
        page = self
        while True:
            for item in page.data:
                yield item
            if page.next_cursor is None:
                return
            page = await page.fetch(page.next_cursor)
