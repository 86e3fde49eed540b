"""The result of one part of the benchmark."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.faults.audit import Audit, Replay
from benchmarks.faults.load import Ledger


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
    """

    part: str
    store: str
    rounds: int
    audit: Audit | None = None
    replays: list[Replay] = field(default_factory=list)
    figures: dict[str, float | int | str | dict[str, int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

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
