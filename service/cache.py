"""`BoundedCache`, the least-recently-used cache that the whole service uses, limited in entries or in bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, ItemsView
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class BoundedCache(Generic[_Key, _Value]):
    """A cache that drops its least recently used entries when it exceeds its limit.

    `put` and `get` mark an entry as used; `peek` and `replace` do not. A cache that is only read with `peek` drops
    entries in order of insertion. Not thread-safe.

    Args:
        limit: Largest total size of the entries; 0 keeps only the `min_entries` most recent ones.
        size: Function that returns the size of a value in the unit of the limit; it must not change while the value is
            cached. By default every entry has size 1, so that the limit is a number of entries.
        min_entries: Number of most recent entries that are kept whatever their size.
        on_eviction: Function that is called with the key and the value of each entry that is dropped for lack of space.

    Attributes:
        size: Total size of the entries.

    Cost: among a million entries, about 1.3 µs for `get` and 2 µs for `put`, and 108 bytes for each entry in
        addition to its key and value.
    """

    def __init__(
        self,
        limit: int,
        *,
        size: Callable[[_Value], int] | None = None,
        min_entries: int = 0,
        on_eviction: Callable[[_Key, _Value], object] | None = None,
    ) -> None:
        self.size = 0
        self._limit = limit
        self._min_entries = min_entries
        self._size_of = size or _count_one
        self._on_eviction = on_eviction
        self._entries: OrderedDict[_Key, _Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: _Key) -> _Value | None:
        """Return the value of a key and mark it as used. Return None if there is no entry."""
        value = self._entries.get(key)
        if value is not None or key in self._entries:
            self._entries.move_to_end(key)
        return value

    def peek(self, key: _Key) -> _Value | None:
        """Return the value of a key without marking it as used. Return None if there is no entry."""
        return self._entries.get(key)

    def items(self) -> ItemsView[_Key, _Value]:
        """Return a view of the entries, least recently used first."""
        return self._entries.items()

    def put(self, key: _Key, value: _Value) -> None:
        """Add an entry or replace it, mark it as used, and drop others while the limit is exceeded."""
        self.remove(key)
        self._entries[key] = value
        self.size += self._size_of(value)
        while self.size > self._limit and len(self._entries) > self._min_entries:
            evicted, dropped = self._entries.popitem(last=False)
            self.size -= self._size_of(dropped)
            if self._on_eviction is not None:
                self._on_eviction(evicted, dropped)

    def replace(self, key: _Key, value: _Value) -> None:
        """Replace the value of an entry that must not grow, without marking it as used.

        Raises:
            KeyError: If there is no entry.
        """
        self.size += self._size_of(value) - self._size_of(self._entries[key])
        self._entries[key] = value

    def remove(self, key: _Key) -> None:
        """Remove an entry if it exists."""
        if key in self._entries:
            self.size -= self._size_of(self._entries.pop(key))

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self.size = 0


def _count_one(_value: object) -> int:
    return 1
