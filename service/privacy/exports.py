"""Exports of users, each written to a temporary file from one snapshot of the store, before any of it is sent.

A client may read as slowly as it likes. Until it has read everything, it holds the file, but neither a connection of
the store nor a snapshot, which would keep SQLite's write-ahead log from being reused. The file has no name, so that
nothing is left of it if the server is killed. An export of up to a megabyte stays in memory.
"""

import asyncio
from collections.abc import Callable
from tempfile import SpooledTemporaryFile
from typing import Final

from penchant.service.bundles.served_model import Models
from penchant.service.errors import ApiError, Code, OverloadedError
from penchant.service.privacy.user_export import write_export
from penchant.service.store.database import Store
from penchant.service.users.fold import Fold

_MEMORY_BYTES: Final = 2**20
_PIECE_BYTES: Final = 256 * 1024


class Export:
    """A complete export, which is read piece by piece. Close it.

    Args:
        file: The export as JSON, at its end.
        on_close: Function to call when it is closed.

    Attributes:
        size: Length in bytes.
    """

    def __init__(self, file: SpooledTemporaryFile[bytes], on_close: Callable[[], None]) -> None:
        self.size = file.tell()
        self._file = file
        self._on_close = on_close
        file.seek(0)

    async def read(self) -> bytes:
        """Return the next piece. It is empty at the end."""
        return await asyncio.to_thread(self._file.read, _PIECE_BYTES)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._on_close()


class Exports:
    """Writes exports, one at a time, and limits how many exist.

    Args:
        store: The store.
        models: Models of this server. The current one describes the state of a user.
        limit: Largest number of exports that are written or sent at the same time.
    """

    def __init__(self, store: Store, models: Models, limit: int) -> None:
        self._store = store
        self._models = models
        self._limit = limit
        self._number = 0
        self._writing = asyncio.Lock()  # leaves readers of the store to others

    async def open(self, tenant: str, user: str) -> Export:
        """Return everything that is stored about a user.

        Raises:
            ApiError: `user_not_found`, if nothing is stored.
            OverloadedError: If there are too many exports.
        """
        if self._number >= self._limit:
            raise OverloadedError("export", self._limit, 1.0)
        self._number += 1
        try:
            async with self._writing:
                fold = self._models.current.fold
                file = await self._store.run(self._write, tenant, user, fold)
        except BaseException:
            self._leave()
            raise
        if file is None:
            self._leave()
            raise ApiError(Code.USER_NOT_FOUND, "Nothing is stored about this user.")
        return Export(file, self._leave)

    def _leave(self) -> None:
        self._number -= 1

    def _write(self, tenant: str, user: str, fold: Fold) -> SpooledTemporaryFile[bytes] | None:
        """Return the written file. Return None if nothing is stored."""
        file = SpooledTemporaryFile[bytes](_MEMORY_BYTES)
        try:
            with self._store.reading() as connection:
                if write_export(connection, tenant, user, file, fold=fold, now=self._store.clock()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None
