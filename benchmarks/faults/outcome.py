"""What a part of the benchmark found."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.faults.audit import Audit, Replay
from benchmarks.faults.load import Ledger


@dataclass
class Outcome:
    """One part on one store.

    Attributes:
        part: Which.
        store: Kind of database.
        rounds: How often the fault came.
        audit: The log at the end, where events were sent.
        replays: The states, each time that they were compared.
        figures: What else was measured; names carry their units.
        faults: What must not be, in words.
    """

    part: str
    store: str
    rounds: int
    audit: Audit | None = None
    replays: list[Replay] = field(default_factory=list)
    figures: dict[str, float | int | str | dict[str, int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def check(self, audit: Audit, when: str) -> None:
        """Takes the log as it was read back."""
        self.audit = audit
        if not audit.is_clean:
            self.faults.append(f"{when}: {audit}")

    def compare(self, replay: Replay, when: str) -> None:
        """Takes the states as they were learned again."""
        self.replays.append(replay)
        if replay.different:
            self.faults.append(f"{when}: {replay}")

    def listen(self, ledger: Ledger) -> None:
        """Takes what clients were told."""
        self.faults += sorted(set(ledger.surprises))
        self.figures["answers"] = {str(status or "none"): n for status, n in sorted(ledger.statuses.items())}
        self.figures["rejected"] = dict(Counter(ledger.rejected))

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)
