"""What a case of an attack is, and the measurement of one."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.faults.hostile.innocent import Experience, Plan, innocent_client, spread_waits
from benchmarks.faults.hostile.memory import peak_of
from benchmarks.faults.hostile.sending import Request, send_all
from benchmarks.faults.outcome import Beside
from benchmarks.faults.processes import Server
from benchmarks.faults.stores import Store

P99_MS: Final = 250.0
"""Limit of the 99th percentile of the innocent client's waits."""

MEMORY_MB: Final = 64.0
"""Limit of the peak memory above that of an ordinary request."""

VOTE_MS: Final = 1000.0
"""Limit of the innocent client's longest wait for a vote."""


@dataclass(frozen=True)
class Sizes:
    """How large the attacks are.

    Attributes:
        rankings: Rankings of the innocent client beside each case.
        pace_seconds: Time from one of these rankings to the next.
        body_mb: Sizes of hostile bodies, in MiB.
        users: Unknown users in one request.
        texts: Texts to explain.
        large_events: Events of almost `large_event_mb` each in one log.
        large_event_mb: Size of one of these events, in MiB.
        header_mb: Size of an endless header, in MiB.
        header_lines: Number of header lines.
        connections: Connections that say nothing.
        first_byte_seconds: Limit of the server for the first byte of a connection.
        log_events: Events in a long log.
        stored_answers: Stored answers to requests with an idempotency key.
        deletions: Users that are deleted.
        store_timeout_seconds: Limit of the server for a call to a database that hangs.
        shutdown_seconds: Limit of the server for its last answers after a stop signal.
    """

    rankings: int = 1000
    pace_seconds: float = 0.005
    body_mb: tuple[float, ...] = (1.0, 7.9)
    users: int = 100_000
    texts: int = 1000
    large_events: int = 58
    large_event_mb: float = 7.5
    header_mb: float = 80.0
    header_lines: int = 2_000_000
    connections: int = 1100
    first_byte_seconds: float = 2.0
    log_events: int = 20_000
    stored_answers: int = 100_000
    deletions: int = 60
    store_timeout_seconds: float = 10.0
    shutdown_seconds: int = 5


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Attributes:
        server: The server.
        store: Its store.
    """

    server: Server
    store: Store

    def send(self, *requests: Request) -> Counter[str]:
        """Send requests one after another, and return the number of answers by status."""
        return send_all(self.server.port, *requests)


@dataclass(frozen=True)
class Case:
    """One kind of attack.

    Attributes:
        name: Name.
        attack: Carries it out once, and returns the number of answers by status.
        expected: Statuses that the attack may be answered with. `0` means no answer, `closed` a closed connection.
        ordinary: A request of as many bytes that is served, with whose peak memory the attack's is compared.
        repeats: Whether it is repeated as long as the innocent client needs for its rankings.
        reconnects: Whether the innocent client opens a connection for each ranking.
        votes: Whether the innocent client also votes.
        check: Returns what is wrong after the attack.
    """

    name: str
    attack: Callable[[Target], Counter[str]]
    expected: Collection[str]
    ordinary: Request
    repeats: bool = True
    reconnects: bool = False
    votes: bool = False
    check: Callable[[Target], Sequence[str]] = field(default=lambda _target: ())


def measure(case: Case, target: Target, sizes: Sizes) -> Beside:
    """Carry out an attack beside an innocent client, and return what the client and the server experienced."""
    pid = target.server.process.pid
    with peak_of(pid) as ordinary:
        refused = target.send(case.ordinary) - Counter({"200": 1})
    plan = Plan(target.server.port, sizes.rankings, sizes.pace_seconds, case.reconnects, case.votes)
    with innocent_client(plan) as innocent, peak_of(pid) as peak:
        answers, seconds = _attack(case, target, sizes.rankings * sizes.pace_seconds)
        seen = innocent.finish()
    waits = spread_waits(seen.waits, sizes.pace_seconds)
    row = Beside(
        case=case.name,
        rankings=len(seen.waits),
        p50_ms=_quantile_ms(waits, 0.5),
        p99_ms=_quantile_ms(waits, 0.99),
        longest_ms=_quantile_ms(waits, 1.0),
        longest_vote_ms=_quantile_ms(sorted(seen.vote_waits), 1.0) if case.votes else None,
        memory_above_mb=round(peak.mb - ordinary.mb, 1),
        attack_seconds=round(seconds, 2),
        answers=dict(answers),
    )
    if refused:
        row.faults.append(f"the ordinary request was answered {', '.join(refused)}")
    row.faults += _find_faults(case, row, seen)
    row.faults += case.check(target)
    return row


def _attack(case: Case, target: Target, enough_seconds: float) -> tuple[Counter[str], float]:
    """Carry out an attack at least once. Return the answers, and the seconds that one attack took on average."""
    started, rounds = time.monotonic(), 0
    answers: Counter[str] = Counter()
    while rounds == 0 or (case.repeats and time.monotonic() - started < enough_seconds):
        answers += case.attack(target)
        rounds += 1
    return answers, (time.monotonic() - started) / rounds


def _find_faults(case: Case, row: Beside, seen: Experience) -> list[str]:
    faults = []
    if not_served := {status: number for status, number in seen.answers.items() if status != "200"}:
        faults.append(f"an innocent client was answered {not_served}")
    if unexpected := {status: n for status, n in row.answers.items() if status not in case.expected}:
        faults.append(f"the attack was answered {unexpected}")
    if row.p99_ms > P99_MS:
        faults.append(f"p99 is {row.p99_ms} ms")
    if row.memory_above_mb > MEMORY_MB:
        faults.append(f"the peak memory is {row.memory_above_mb} MB above that of an ordinary request")
    if row.longest_vote_ms is not None and row.longest_vote_ms > VOTE_MS:
        faults.append(f"a vote took {row.longest_vote_ms} ms")
    return faults


def _quantile_ms(waits: Sequence[float], share: float) -> float:
    return round(waits[min(len(waits) - 1, int(len(waits) * share))] * 1000, 1) if waits else 0.0
