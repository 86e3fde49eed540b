"""The load, as a process of its own: `python -m benchmarks.serving.client SPEC` prints what it measured as JSON.

It uses bare asyncio streams. A client that parses and validates would use more of the machine than the server it
measures.
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
"""Pause of a client that was refused without `Retry-After`, in seconds."""


@dataclass(frozen=True)
class Spec:
    """A load.

    Attributes:
        port: Port of the server on loopback.
        path: Path of the requests.
        kind: `new` (each request ranks new texts), `same` (all requests rank the same texts), or `vote`.
        seconds: Duration.
        concurrency: Number of clients, each of which waits for an answer before its next request.
        rate: Requests per second regardless of the answers, in place of `concurrency`.
        seed: Seed of the texts.
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
    """The result of a load.

    Attributes:
        seconds: Time from the first request to the last answer.
        statuses: Number of answers by status; 0 for a broken connection, -1 for requests that could not be sent.
        latencies: Latencies of the answers with status 200, in seconds, sorted.
        without_retry: Number of 429 answers without `Retry-After`.
    """

    seconds: float
    statuses: dict[str, int]
    latencies: list[float]
    without_retry: int

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies. Infinite if there are none."""
        if not self.latencies:
            return float("inf")
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


def bodies(spec: Spec) -> Iterator[bytes]:
    """Return the bodies of the requests, one after the other."""
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
    """Send the load. It takes `seconds`, plus the time of the last answers."""
    supply, statuses, latencies, bare = bodies(spec), Counter[str](), [], 0
    started = time.perf_counter()
    end = started + spec.seconds

    async def one(connection: "Connection") -> tuple[int, float]:
        """Send a request. Return its status and the seconds to wait before the next attempt."""
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
                if status != _OK:  # refused; an immediate retry would be another load
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
    """Send at a rate. Connections are reused, and new ones are opened when needed, up to a bound."""
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
    """A persistent connection to a server on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and headers of the answer. The status is 0 if the connection broke."""
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
        """Close the connection. The next request opens a new one."""
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def load(spec: Spec) -> Load:
    """Send a load from another process."""
    command = [sys.executable, "-m", "benchmarks.serving.client", json.dumps(asdict(spec))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=spec.seconds + 300)
    return Load(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(measured(Spec(**json.loads(sys.argv[1])))))))
