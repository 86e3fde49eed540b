"""Concurrent clients that record what was acknowledged to them."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

from benchmarks.faults.events import Author, Request
from benchmarks.faults.processes import client_of

_OK: Final = 200
_TRY_LATER: Final = frozenset({409, 429, 503})
_PAUSE_SECONDS: Final = 0.05


@dataclass
class Ledger:
    """A record of everything that the clients sent and received.

    Attributes:
        sent: Event id → user, for every event ever sent.
        acknowledged: Ids of the events whose request was answered and that were not rejected.
        rejected: Number of events that the server rejected, by reason.
        statuses: Number of answers by status; status 0 stands for no answer.
        surprises: Answers that no fault explains.
    """

    sent: dict[str, str] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    rejected: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)


class Load:
    """Several clients that send every kind of event for several users.

    A request without an answer is sent again, unchanged, by the same client to the next server.

    Args:
        clients: Number of concurrent clients.
        users: Users for whom every client sends.
        seed: Seed of the events.
    """

    def __init__(self, clients: int, users: Sequence[str], seed: int = 0) -> None:
        self.ledger = Ledger()
        self.users = list(users)
        self._authors = [Author(f"c{n}", self.users, seed * 1000 + n) for n in range(clients)]
        self._unanswered: dict[str, Request] = {}
        self._grown = threading.Condition()

    @contextmanager
    def sending(self, urls: Sequence[str], *, patient: bool = False) -> Iterator[None]:
        """Let all clients send until the block ends, each to one of the servers.

        Args:
            urls: Addresses of the servers.
            patient: Whether a client continues after its connection breaks. Otherwise it stops sending.
        """
        ended = threading.Event()
        threads = [
            threading.Thread(target=self._send, args=(author, url, ended, patient), name=author.name)
            for author, url in zip(self._authors, itertools.cycle(urls), strict=False)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def wait_for(self, events: int, timeout: float = 60.0) -> bool:
        """Wait until this many more events are acknowledged. Return False after `timeout` seconds."""
        goal = len(self.ledger.acknowledged) + events
        with self._grown:
            return self._grown.wait_for(lambda: len(self.ledger.acknowledged) >= goal, timeout)

    def settle(self, url: str) -> None:
        """Send every unanswered request until it is answered."""
        with client_of(url) as client:
            for author in self._authors:
                while author.name in self._unanswered:
                    self._exchange(client, author)

    def _send(self, author: Author, url: str, ended: threading.Event, patient: bool) -> None:
        with client_of(url) as client:
            while not ended.is_set():
                if not self._exchange(client, author) and not patient:
                    return

    def _exchange(self, client: httpx.Client, author: Author) -> bool:
        """Send one request, a new or an unanswered one. Return False if there was no answer."""
        request = self._unanswered.get(author.name) or author.request()
        self._unanswered[author.name] = request
        self.ledger.sent |= {event["event_id"]: event["user"] for event in request.events}
        try:
            answer = client.post(
                "/v1/feedback",
                json={"events": request.events},
                headers={"Idempotency-Key": request.key} if request.key else {},
            )
        except httpx.TransportError:
            self._count(0)
            time.sleep(_PAUSE_SECONDS)
            return False
        self._count(answer.status_code)
        if answer.status_code in _TRY_LATER:
            if "retry-after" not in answer.headers:
                self.ledger.surprises.append(f"{answer.status_code} without Retry-After")
            time.sleep(_PAUSE_SECONDS)
            return True
        del self._unanswered[author.name]
        if answer.status_code != _OK:
            self.ledger.surprises.append(f"{answer.status_code}: {answer.text[:300]}")
            return True
        self._acknowledge(author, request, answer)
        return True

    def _acknowledge(self, author: Author, request: Request, answer: httpx.Response) -> None:
        rejected = {entry["index"]: entry["problem"]["code"] for entry in answer.json()["rejected"]}
        accepted = [event for index, event in enumerate(request.events) if index not in rejected]
        author.learned(Request(accepted, request.key))
        with self._grown:
            self.ledger.rejected.update(rejected.values())
            self.ledger.acknowledged.update(event["event_id"] for event in accepted)
            self._grown.notify_all()

    def _count(self, status: int) -> None:
        with self._grown:
            self.ledger.statuses[status] += 1
