"""Pages of a long list. Iterating one goes through it and all that follow, fetched as they are needed."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from penchant._responses import Response

__all__ = ["AsyncPage", "Page"]

R = TypeVar("R", bound=Response)


@dataclass(frozen=True)
class Page(Generic[R]):
    """One page of a list, from `Client`.

    Attributes:
        data: Its items.
        next_cursor: What the next page is asked for with; None at the end.
    """

    data: tuple[R, ...]
    next_cursor: str | None
    fetch: Callable[[str], "Page[R]"]

    def __iter__(self) -> Iterator[R]:
        page = self
        while True:
            yield from page.data
            if page.next_cursor is None:
                return
            page = page.fetch(page.next_cursor)


@dataclass(frozen=True)
class AsyncPage(Generic[R]):
    """One page of a list, from `AsyncClient`.

    Attributes:
        data: Its items.
        next_cursor: What the next page is asked for with; None at the end.
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
