"""The load, as a process of its own: `python -m benchmarks.serving.client SPEC`; prints what it measured as JSON.

Bare asyncio streams: a client that parses and validates would take more of the machine than the server it measures.
"""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from benchmarks.serving.texts import Texts, rerank_body

_OK: Final = 200
_HEADER_END: Final = b"\r\n\r\n"
_MAX_WAITING: Final = 2000
_PAUSE_SECONDS: Final = 0.05
"""Of a client that was refused and not told when to come again."""


@dataclass(frozen=True)
class Spec:
    """A load.

    Attributes:
        port: Where the server listens on loopback.
        path: What is posted to.
        kind: `new` (each request ranks texts nobody has seen), `same` (always the same ones), or `vote`.
        seconds: For how long.
        concurrency: Clients that wait for each answer before they ask again.
        rate: Requests a second, whatever the answers, in place of `concurrency`.
        seed: Of the texts.
        more: Further fields of the body.
    """

    port: int
    path: str = "/v1/rerank"
    kind: str = "new"
    seconds: float = 5.0
    concurrency: int = 1
    rate: float = 0.0
    seed: int = 0
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """What came of it.

    Attributes:
        seconds: From the first request to the last answer.
        statuses: How many answers of each; 0 for a broken connection, -1 for requests that could not be sent.
        latencies: Of the answers with status 200, in seconds, sorted.
        without_retry: 429s without `Retry-After`.
    """

    seconds: float
    statuses: dict[str, int]
    latencies: list[float]
    without_retry: int

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Of the latencies; infinite where there are none."""
        if not self.latencies:
            return float("inf")
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


def bodies(spec: Spec) -> Iterator[bytes]:
    """What is sent, request after request."""
    texts = Texts(spec.seed)
    if spec.kind == "vote":
        users, events = spec.more["users"], itertools.count()
        for number in events:
            vote = {
                "type": "vote",
                "rank_id": spec.more["rank_id"],
                "index": number % spec.more["candidates"],
            }
            yield json.dumps(vote | {"value": 1, "user": f"u{number % users}"}).encode()
    same = rerank_body(texts.texts(), **spec.more)
    while True:
        yield same if spec.kind == "same" else rerank_body(texts.texts(), **spec.more)


async def measured(spec: Spec) -> Load:
    """Sends the load; takes `seconds`, and as long as the last answers take."""
    supply, statuses, latencies, bare = bodies(spec), Counter[str](), [], 0
    started = time.perf_counter()
    end = started + spec.seconds

    async def one(connection: "Connection") -> tuple[int, float]:
        """Its status, and seconds after which to come again."""
        nonlocal bare
        asked = time.perf_counter()
        status, headers = await connection.post(spec.path, next(supply))
        statuses[str(status)] += 1
        if status == _OK:
            latencies.append(time.perf_counter() - asked)
        wait = _retry_after(headers)
        bare += status == 429 and wait is None
        return status, _PAUSE_SECONDS if wait is None else wait

    if spec.rate:
        statuses.update(await _at_rate(spec, end, one))
    else:

        async def client() -> None:
            connection = Connection(spec.port)
            while time.perf_counter() < end:
                status, wait = await one(connection)
                if status != _OK:  # refused: at once again would be another load
                    await asyncio.sleep(max(0.0, min(wait, end - time.perf_counter())))
            await connection.close()

        await asyncio.gather(*(client() for _ in range(spec.concurrency)))
    return Load(time.perf_counter() - started, dict(statuses), sorted(latencies), bare)


def _retry_after(headers: bytes) -> float | None:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"retry-after":
            return float(value)
    return None


async def _at_rate(spec: Spec, end: float, one: Callable[["Connection"], Any]) -> Counter[str]:
    """Sends at a rate; connections are used again, and there are as many as are needed, up to a bound."""
    free: list[Connection] = []
    waiting: set[asyncio.Task[None]] = set()
    missed: Counter[str] = Counter()
    due = time.perf_counter()

    async def ask() -> None:
        connection = free.pop() if free else Connection(spec.port)
        await one(connection)
        free.append(connection)

    while (now := time.perf_counter()) < end:
        if now < due:
            await asyncio.sleep(due - now)
        due += 1 / spec.rate
        if len(waiting) >= _MAX_WAITING:
            missed["-1"] += 1
            continue
        task = asyncio.ensure_future(ask())
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    for connection in free:
        await connection.close()
    return missed


class Connection:
    """A kept connection to a server on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and headers of the answer; status 0 where the connection broke."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
            reader, writer = self._streams
            writer.write(head.encode() + body)
            headers = await reader.readuntil(_HEADER_END)
            length = next(
                int(line.partition(b":")[2])
                for line in headers.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(length)
        except (OSError, EOFError):
            await self.close()
            return 0, b""
        if b"connection: close" in headers.lower():
            await self.close()
        return int(headers[9:12]), headers

    async def close(self) -> None:
        """Ends it; the next request makes a new one."""
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def load(spec: Spec) -> Load:
    """Sends a load from another process."""
    command = [sys.executable, "-m", "benchmarks.serving.client", json.dumps(asdict(spec))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=spec.seconds + 300)
    return Load(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(measured(Spec(**json.loads(sys.argv[1])))))))
