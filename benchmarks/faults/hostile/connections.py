"""What a client can do before any key is checked: endless headers, and connections that say nothing."""

import itertools
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.faults.hostile.cases import Case, Sizes, Target
from benchmarks.faults.hostile.sending import MB, ordinary_ranking, send_raw

_PIECE: Final = b"y" * 2**16
_LINES: Final = b"a: b\r\n" * 10_000
_MARGIN_SECONDS: Final = 5.0
_SPARE_FILES: Final = 256
_START: Final = b"GET /healthz HTTP/1.1\r\n"


def connection_cases(sizes: Sizes) -> Iterator[Case]:
    """Yield the cases. The innocent client opens a connection for each ranking, which must not be refused."""
    ordinary = ordinary_ranking(MB)
    pieces = int(sizes.header_mb * MB) // len(_PIECE)
    lines = sizes.header_lines // 10_000

    def long_header(target: Target) -> Counter[str]:
        return Counter([send_raw(target.server.port, _START + b"X: ", _PIECE, pieces, b"\r\n\r\n")])

    def many_headers(target: Target) -> Counter[str]:
        return Counter([send_raw(target.server.port, _START, _LINES, lines, b"\r\n")])

    refused = frozenset({"431", "closed"})
    yield Case(f"a header of {sizes.header_mb:g} MB", long_header, refused, ordinary, reconnects=True)
    yield Case(f"{sizes.header_lines:,} header lines", many_headers, refused, ordinary, reconnects=True)
    for peers in (["127.0.0.1"], [f"127.0.1.{number}" for number in range(1, 5)]):
        yield Case(
            f"{sizes.connections:,} silent connections of {len(peers)} {'address' if len(peers) == 1 else 'addresses'}",
            lambda target, peers=peers: _say_nothing(target, sizes, peers),  # type: ignore[misc]
            {"closed"},
            ordinary,
            reconnects=True,
        )


def _say_nothing(target: Target, sizes: Sizes, peers: Sequence[str]) -> Counter[str]:
    """Open connections, and return how many the server closed in time and how many it left open."""
    number = sizes.connections
    _allow_files(number + _SPARE_FILES)
    with ExitStack() as stack:
        opened = [
            stack.enter_context(
                socket.create_connection(
                    ("127.0.0.1", target.server.port), timeout=10, source_address=(peer, 0)
                )
            )
            for peer in itertools.islice(itertools.cycle(peers), number)
        ]
        until = time.monotonic() + sizes.first_byte_seconds + _MARGIN_SECONDS
        left = {connection.fileno(): connection for connection in opened}
        poll = select.poll()
        for file in left:
            poll.register(file, select.POLLIN)
        while left and time.monotonic() < until:
            for file, _ in poll.poll(100):
                if _is_closed(left[file]):
                    poll.unregister(file)
                    del left[file]
    return Counter({"closed": number - len(left), "open": len(left)}) - Counter()


def _is_closed(connection: socket.socket) -> bool:
    """Return whether the server closed a connection. It may have said why before."""
    try:
        return not connection.recv(2**16)
    except ConnectionError:
        return True


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
