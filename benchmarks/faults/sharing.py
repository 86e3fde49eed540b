"""Two replicas on one database, with many clients that write about one user."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from benchmarks.faults.audit import learn_again, read_back
from benchmarks.faults.load import Ledger
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.processes import client_of
from benchmarks.faults.stores import Store

WRITERS: Final = 32
USER: Final = "everybody's"
_RANKING: Final[dict[str, Any]] = {"query": "q", "documents": ["a text", "another"], "user": USER}


@dataclass
class _Tally:
    """A record shared by all writers.

    Attributes:
        ledger: Events sent and acknowledged.
        reads: Number of reads of the user on the other replica.
        stale: Descriptions of reads that returned fewer events than had been acknowledged before the read.
    """

    ledger: Ledger = field(default_factory=Ledger)
    reads: int = 0
    stale: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def replicas(store: Store, seconds: float, writers: int = WRITERS) -> Outcome:
    """Let writers send events of one user, each alternating between two servers, and check counts and visibility.

    After each write, the writer queries the *other* replica for the user and for a ranking. It must see at least as
    many events as had been acknowledged to any writer before the query.
    """
    outcome = Outcome("replicas", store.kind, 1)
    tally = _Tally()
    launcher = store.launcher()
    with launcher.serving() as one, launcher.serving() as other:
        urls = [one.url, other.url]
        with ThreadPoolExecutor(writers) as threads, ExitStack() as stack:
            clients = [[stack.enter_context(client_of(url)) for url in urls] for _ in range(writers)]
            until = time.monotonic() + seconds
            for done in [threads.submit(_write, tally, n, clients[n], until) for n in range(writers)]:
                done.result()
        for server in (one, other):
            with server.client() as client:
                outcome.check(read_back(client, tally.ledger, [USER]), f"on {server.url}")
        one.stop()
        other.stop()
    outcome.compare(learn_again(store), "at the end")
    outcome.listen(tally.ledger)
    outcome.faults += tally.stale[:5]
    outcome.figures |= {
        "writers": writers,
        "seconds": seconds,
        "events_a_second": round(len(tally.ledger.acknowledged) / seconds, 1),
        "reads_on_the_other_replica": tally.reads,
        "stale_reads": len(tally.stale),
    }
    return outcome


def _write(tally: _Tally, writer: int, clients: list[httpx.Client], until: float) -> None:
    number = 0
    while time.monotonic() < until:
        here, there = clients[number % 2], clients[(number + 1) % 2]
        if _teach(tally, here, f"w{writer}-{number}"):
            _look(tally, there)
        number += 1


def _teach(tally: _Tally, client: httpx.Client, event_id: str) -> bool:
    event = {"event_id": event_id, "user": USER, "type": "vote", "text": f"text {event_id[-1]}", "value": 1}
    tally.ledger.sent[event_id] = USER
    while True:
        answer = client.post("/v1/feedback", json=event)
        with tally.lock:
            tally.ledger.statuses[answer.status_code] += 1
        if answer.status_code not in {429, 503}:
            break
        time.sleep(0.05)
    if answer.status_code != httpx.codes.OK:
        tally.ledger.surprises.append(f"{answer.status_code}: {answer.text[:300]}")
        return False
    with tally.lock:
        tally.ledger.acknowledged.add(event_id)
    return True


def _look(tally: _Tally, client: httpx.Client) -> None:
    with tally.lock:
        known = len(tally.ledger.acknowledged)
    told = client.get(f"/v1/users/{USER}")
    ranked = client.post("/v1/rerank", json=_RANKING)
    for answer in (told, ranked):
        if answer.status_code != httpx.codes.OK:
            tally.ledger.surprises.append(f"{answer.status_code}: {answer.text[:300]}")
            return
    seen = {
        "user": told.json()["feedback_events"],
        "ranking": ranked.json()["meta"]["personalization"]["feedback_events"],
    }
    with tally.lock:
        tally.reads += len(seen)
        tally.stale += [f"{what}: saw {n} of {known} events" for what, n in seen.items() if n < known]
