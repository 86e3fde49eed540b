"""A TCP proxy in front of PostgreSQL that can stop forwarding, as a broken network device does."""

import socket
import threading
from contextlib import suppress
from typing import Final, Literal

from sqlalchemy import make_url

_CHUNK: Final = 65_536
Lost = Literal["nothing", "requests", "answers"]


class FreezableProxy:
    """Forwards connections on loopback to the Unix socket of a PostgreSQL server.

    A frozen connection acknowledges what it receives and forwards nothing: neither side learns of it.

    Args:
        url: Address of a database on the server.

    Attributes:
        url: Address of the same database through the proxy.
        lose_new: What connections lose that are opened from now on.
    """

    def __init__(self, url: str) -> None:
        target = make_url(url)
        self._path = f"{target.query['host']}/.s.PGSQL.5432"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lost: list[dict[str, Lost]] = []
        self._sockets: list[socket.socket] = []
        self.lose_new: Lost = "nothing"
        self.url = f"postgresql://postgres@127.0.0.1:{self._listening.getsockname()[1]}/{target.database}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def freeze(self, lose: Lost = "requests", *, new: bool = False) -> None:
        """Freeze all connections, and those that are opened from now on if `new`.

        Args:
            lose: Whether requests do not reach the server, or answers do not leave it.
            new: Whether later connections are frozen, too.
        """
        for lost in self._lost:
            lost["now"] = lose
        if new:
            self.lose_new = lose

    def close(self) -> None:
        """Close everything."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()
        for some in self._sockets:
            with suppress(OSError):
                some.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for some in self._sockets:
            some.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._path)
            lost: dict[str, Lost] = {"now": self.lose_new}
            self._lost.append(lost)
            self._sockets += [client, server]
            for pair in ((client, server, "requests"), (server, client, "answers")):
                self._threads.append(threading.Thread(target=_forward, args=(*pair, lost)))
                self._threads[-1].start()


def _forward(source: socket.socket, target: socket.socket, what: Lost, lost: dict[str, Lost]) -> None:
    with suppress(OSError):
        while content := source.recv(_CHUNK):
            if lost["now"] != what:
                target.sendall(content)
        if lost["now"] == "nothing":
            target.shutdown(socket.SHUT_WR)
