"""A client that asks for a small cached ranking at a steady pace, in a process of its own.

It comes from another address than the attacks, as an innocent client does, and imports only the standard library, so
that it starts quickly.
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

ADDRESS: Final = "127.0.0.2"
"""Address on loopback from which the innocent client connects."""

_RANKING: Final = json.dumps({"query": "q", "documents": ["a", "b", "c"], "user": "innocent"}).encode()
_WARM_UP: Final = 20
_TIMEOUT_SECONDS: Final = 30.0
_MOST_FAILURES: Final = 5
_VOTE_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Plan:
    """What the client does.

    Attributes:
        port: Port of the server.
        rankings: Number of rankings that it asks for at least.
        pace_seconds: Time from one ranking to the next.
        reconnects: Whether each ranking uses a new connection.
        votes: Whether another connection sends votes meanwhile.
    """

    port: int
    rankings: int
    pace_seconds: float
    reconnects: bool = False
    votes: bool = False


@dataclass
class Experience:
    """What the client experienced.

    Attributes:
        waits: Seconds that each ranking took.
        vote_waits: Seconds that each vote took until it was durable.
        answers: Number of answers by status. Status 0 means no answer.
    """

    waits: list[float] = field(default_factory=list)
    vote_waits: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)


class Innocent:
    """The running client, seen from the process that attacks.

    Args:
        process: Its process, which has sent its first rankings.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def finish(self) -> Experience:
        """Tell the client that the attack is over, and return what it experienced when it has enough rankings."""
        output, _ = self._process.communicate("")
        told = json.loads(output)
        return Experience(told["waits"], told["vote_waits"], Counter(told["answers"]))


@contextmanager
def innocent_client(plan: Plan) -> Iterator[Innocent]:
    """Start the client and yield it when its rankings are cached. It is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.faults.hostile.innocent", json.dumps(vars(plan))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    with process:
        try:
            if process.stdout is not None:
                process.stdout.readline()  # "ready"
            yield Innocent(process)
        finally:
            process.kill()


def spread_waits(waits: list[float], pace_seconds: float) -> list[float]:
    """Return the waits in order of size, with those of the requests that a long wait kept from being sent.

    One client that waits a second sends nothing during that second. Clients that arrive at a steady pace would all have
    waited: the first one for a second, and each later one for less.
    """
    spread = list(waits)
    for wait in waits:
        rest = wait - pace_seconds
        while rest >= pace_seconds:
            spread.append(rest)
            rest -= pace_seconds
    return sorted(spread)


class _Sender:
    """One connection of the client, opened again after a failure."""

    def __init__(self, port: int, path: str, answers: Counter[str]) -> None:
        self._port = port
        self._path = path
        self._answers = answers
        self._connection: HTTPConnection | None = None

    def send(self, body: bytes) -> float:
        """Send a request, count its answer, and return the seconds that it took."""
        started = time.perf_counter()
        try:
            if self._connection is None:
                self._connection = HTTPConnection(
                    "127.0.0.1", self._port, timeout=_TIMEOUT_SECONDS, source_address=(ADDRESS, 0)
                )
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            answer.read()
            self._answers[str(answer.status)] += 1
        except (OSError, HTTPException):
            self._answers["0"] += 1
            self.close()
        return time.perf_counter() - started

    def close(self) -> None:
        """Close the connection. The next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _vote(plan: Plan, ended: threading.Event, seen: Experience) -> None:
    sender, number = _Sender(plan.port, "/v1/feedback", seen.answers), 0
    while not ended.wait(_VOTE_PAUSE_SECONDS):
        vote = {"type": "vote", "user": "innocent voter", "text": f"text {number % 7}", "value": 1}
        seen.vote_waits.append(sender.send(json.dumps(vote).encode()))
        number += 1
    sender.close()


def _rank(plan: Plan, attacked: threading.Event, seen: Experience) -> None:
    sender = _Sender(plan.port, "/v1/rerank", seen.answers)
    for _ in range(_WARM_UP):
        sender.send(_RANKING)
    print("ready", flush=True)
    while attacked.is_set() or len(seen.waits) < plan.rankings:
        if plan.reconnects:
            sender.close()
        wait = sender.send(_RANKING)
        seen.waits.append(wait)
        if seen.answers["0"] >= _MOST_FAILURES:
            break
        time.sleep(max(0.0, plan.pace_seconds - wait))
    sender.close()


def _main(plan: Plan) -> None:
    seen, attacked, ended = Experience(), threading.Event(), threading.Event()
    attacked.set()

    def listen() -> None:
        sys.stdin.read()
        attacked.clear()

    threading.Thread(target=listen, daemon=True).start()
    voting = threading.Thread(target=_vote, args=(plan, ended, seen))
    if plan.votes:
        voting.start()
    _rank(plan, attacked, seen)
    ended.set()
    if plan.votes:
        voting.join()
    told: dict[str, Any] = vars(seen)
    print(json.dumps(told))


if __name__ == "__main__":
    _main(Plan(**json.loads(sys.argv[1])))
