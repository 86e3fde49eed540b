"""The result of one part of the benchmark."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.faults.audit import Audit, Replay
from benchmarks.faults.load import Ledger


@dataclass
class Beside:
    """What an innocent client experienced beside one kind of attack, and what it cost the server.

    Attributes:
        case: Name of the attack.
        rankings: Number of the client's rankings.
        p50_ms: Median wait for a ranking.
        p99_ms: 99th percentile of the waits.
        longest_ms: Longest wait.
        longest_vote_ms: Longest wait for a vote. None if the client did not vote.
        memory_above_mb: Peak memory of the server above that of an ordinary request of as many bytes, in MiB.
        attack_seconds: Duration of one attack.
        answers: Number of answers to the attack by status.
        faults: Descriptions of everything that went wrong.
    """

    case: str
    rankings: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    longest_vote_ms: float | None
    memory_above_mb: float
    attack_seconds: float
    answers: dict[str, int]
    faults: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """The result of one part on one store.

    Attributes:
        part: Name of the part.
        store: Kind of database.
        rounds: Number of times that the fault was injected.
        audit: Audit of the log at the end. None if no events were sent.
        replays: Results of every comparison of the states.
        figures: Other measurements; names carry their units.
        faults: Descriptions of everything that went wrong.
        beside: Results of every case of an attack.
    """

    part: str
    store: str
    rounds: int
    audit: Audit | None = None
    replays: list[Replay] = field(default_factory=list)
    figures: dict[str, float | int | str | dict[str, int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    beside: list[Beside] = field(default_factory=list)

    def attack(self, row: Beside) -> None:
        """Record the result of an attack."""
        self.beside.append(row)
        self.faults += [f"{row.case}: {fault}" for fault in row.faults]

    def check(self, audit: Audit, when: str) -> None:
        """Record an audit of the log."""
        self.audit = audit
        if not audit.is_clean:
            self.faults.append(f"{when}: {audit}")

    def compare(self, replay: Replay, when: str) -> None:
        """Record a comparison of the states."""
        self.replays.append(replay)
        if replay.different:
            self.faults.append(f"{when}: {replay}")

    def listen(self, ledger: Ledger) -> None:
        """Record the answers that clients received."""
        self.faults += sorted(set(ledger.surprises))
        self.figures["answers"] = {str(status or "none"): n for status, n in sorted(ledger.statuses.items())}
        self.figures["rejected"] = dict(Counter(ledger.rejected))

    def as_json(self) -> dict[str, Any]:
        """Return the outcome for the results file."""
        return asdict(self)
