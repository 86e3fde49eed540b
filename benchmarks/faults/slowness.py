"""Clients that send or read slowly, and their effect on other clients."""

import json
import socket
import statistics
import threading
import time
from contextlib import ExitStack
from typing import Final

from benchmarks.faults.outcome import Outcome
from benchmarks.faults.processes import Server
from benchmarks.faults.stores import Store

_BODY_SECONDS: Final = 2.0
_DRIP_SECONDS: Final = 0.1
_ASKS: Final = 60
_SLOWEST_RATIO: Final = 10.0
_LARGE: Final = {
    "query": "q",
    "documents": [f"document {n} " + "x" * 2000 for n in range(400)],
    "return_documents": True,
}
_SMALL: Final = {"query": "q", "documents": ["a", "b", "c"]}


def slow(store: Store, clients: int) -> Outcome:
    """Let half of the slow clients send an endless body, and the other half request a large answer without reading it.

    An endless body must be refused (408) when its time is over. Other clients must be served as usual meanwhile and
    afterwards.
    """
    outcome = Outcome("slow", store.kind, 1)
    with (
        store.launcher().serving(PENCHANT_BODY_TIMEOUT_SECONDS=str(_BODY_SECONDS)) as server,
        ExitStack() as stack,
    ):
        before = _ask(server, outcome)
        drips = [stack.enter_context(_connected(server)) for _ in range(clients // 2)]
        deaf = [stack.enter_context(_connected(server)) for _ in range(clients - clients // 2)]
        for connection in deaf:
            connection.sendall(_request(_LARGE))
        ended = threading.Event()
        dripping = threading.Thread(target=_drip, args=(drips, ended))
        dripping.start()
        during = _ask(server, outcome)
        refused = sum(_status(connection) == 408 for connection in drips)
        ended.set()
        dripping.join()
        after = _ask(server, outcome)
        with server.client() as client:
            ready = client.get("/readyz").status_code
        server.stop()
    outcome.figures |= {
        "slow_senders": len(drips),
        "slow_readers": len(deaf),
        "refused_after_their_time": refused,
        "median_ms_before": before,
        "median_ms_during": during,
        "median_ms_after": after,
    }
    if refused != len(drips):
        outcome.faults.append(f"{len(drips) - refused} of {len(drips)} slow bodies were not refused")
    if during > max(before, 1.0) * _SLOWEST_RATIO:
        outcome.faults.append(f"others waited {during} ms, {before} ms without slow clients")
    if ready != 200:
        outcome.faults.append(f"/readyz is {ready} at the end")
    return outcome


def _ask(server: Server, outcome: Outcome) -> float:
    """Return the median time of a small ranking, in milliseconds."""
    took = []
    with server.client(timeout=10) as client:
        for _ in range(_ASKS):
            started = time.perf_counter()
            answer = client.post("/v1/rerank", json=_SMALL)
            took.append(time.perf_counter() - started)
            if answer.status_code != 200:
                outcome.faults.append(f"a quick client got {answer.status_code}")
    return round(statistics.median(took) * 1000, 3)


def _connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=_BODY_SECONDS * 5)


def _request(body: dict[str, object], *, length: int | None = None) -> bytes:
    data = json.dumps(body).encode()
    lines = [
        "POST /v1/rerank HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(data) if length is None else length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (data if length is None else b"")


def _drip(connections: list[socket.socket], ended: threading.Event) -> None:
    """Send headers that announce a long body, then one byte at a time."""
    for connection in connections:
        connection.sendall(_request({}, length=100_000))
    while not ended.wait(_DRIP_SECONDS):
        for connection in connections:
            try:
                connection.sendall(b" ")
            except OSError:  # already refused, as expected
                continue


def _status(connection: socket.socket) -> int:
    try:
        line = connection.recv(64).split(b" ")
        return int(line[1])
    except (OSError, IndexError, ValueError):
        return 0
