"""Texts that wait for the encoder, and whose turn it is. No threads here: the owner holds a lock.

Each request is a flow of deficit round robin (Shreedhar and Varghese 1996), its texts weighed by their tokens. A
request's first turn is as large as a batch, so that ordinary requests are served whole, in the order in which they came;
its later turns are a quarter of that, so that a large request leaves room in every batch for whoever came after it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from penchant.models.encoding.features import ReadText

LATER_TURNS: Final = 4
"""A request's turns after its first are so many times smaller."""

READ_TEXTS: Final = 32
READ_CHARS: Final = 32_000
"""Texts of one request that are read at a time, before another request's are; at least one."""

Pair = tuple[str, str]


@dataclass(eq=False, slots=True)
class Entry:
    """A (text, prompt) that somebody waits for; it is read and encoded once for all who do.

    Attributes:
        pair: Text and prompt.
        size: Tokens, estimated until it is read.
        read: What reading it gave.
        taken: Whether it is in a batch.
        waiting: Who waits, and for which rows of theirs.
    """

    pair: Pair
    size: int
    read: ReadText | None = None
    taken: bool = False
    waiting: "dict[Job, list[int]]" = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Job:
    """One request's texts.

    Attributes:
        texts: How many it has.
        left: Entries that it still waits for.
        tokens: Their sizes.
        credit: Tokens that it may yet take in its turn; below 0 what it took too much.
        begun: Whether it has had a turn.
    """

    texts: int
    left: int = 0
    tokens: int = 0
    credit: int = 0
    begun: bool = False
    _unread: deque[Entry] = field(default_factory=deque)
    _ready: deque[Entry] = field(default_factory=deque)


class FairQueue:
    """What waits.

    Args:
        estimate: About how many tokens a text has.

    Attributes:
        texts: Of all jobs that wait, each as often as it was asked for.
    """

    def __init__(self, estimate: Callable[[str], int]) -> None:
        self.texts = 0
        self._estimate = estimate
        self._jobs: dict[Job, None] = {}
        self._entries: dict[Pair, Entry] = {}
        self._to_read: deque[Job] = deque()
        self._turns: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def is_read(self) -> bool:
        """Whether nothing waits to be read. Cost: linear in the texts that wait."""
        return all(entry.read is not None for entry in self._entries.values())

    def add(self, job: Job, pairs: Sequence[Pair]) -> None:
        """Has a job wait for its texts, row by row."""
        self._jobs[job] = None
        self.texts += job.texts
        for row, pair in enumerate(pairs):
            entry = self._entries.get(pair)
            if entry is None:
                entry = self._entries[pair] = Entry(pair, self._estimate(pair[0]))
            rows = entry.waiting.get(job)
            if rows is not None:
                rows.append(row)
                continue
            entry.waiting[job] = [row]
            job.left += 1
            job.tokens += entry.size
            (job._unread if entry.read is None else job._ready).append(entry)
        if job._unread:
            self._to_read.append(job)
        if job._ready:
            self._turns.append(job)

    def abandon(self, job: Job) -> None:
        """Nobody waits for a job any longer: texts that no other job waits for are never encoded."""
        if job not in self._jobs:
            return
        for entry in [entry for entry in self._entries.values() if job in entry.waiting]:
            self._leave(job, entry)
        self._remove(job)

    def ahead(self, tokens: int, turn: int) -> int:
        """Tokens that will be encoded before a new job of so many is done, where a first turn is `turn`."""
        most = max(tokens, turn)
        return sum(min(job.tokens, most) for job in self._jobs)

    # Reading

    def to_read(self, ahead: int) -> list[Entry]:
        """Texts of one job that should be read now; a job of which `ahead` tokens were read waits."""
        for _ in range(len(self._to_read)):
            job = self._to_read.popleft()
            if job not in self._jobs:
                continue
            entries = list(_chunk(job._unread)) if _tokens(job._ready) < ahead else []
            if job._unread:
                self._to_read.append(job)
            if entries:
                return entries
        return []

    def was_read(self, texts: Iterable[tuple[Entry, ReadText]]) -> None:
        """What reading gave: their jobs may have a turn."""
        for entry, read in texts:
            entry.read = read
            change, entry.size = read.size - entry.size, read.size
            for job in entry.waiting:
                job.tokens += change
                self._make_ready(job, entry)

    # Encoding

    def take(self, budget: int, most: int) -> list[Entry]:
        """The next batch, of at most so many texts, and tokens unless one text alone has more; shortest first."""
        batch: list[Entry] = []
        room = budget
        while self._turns:
            job = self._turns.popleft()
            if job.credit <= 0:
                job.credit += max(1, budget // LATER_TURNS) if job.begun else budget
                job.begun = True
            while job._ready and job.credit > 0:
                entry = job._ready[0]
                if not entry.taken and entry.waiting:
                    if batch and (entry.size > room or len(batch) >= most):
                        self._turns.appendleft(job)  # the rest of its turn opens the next batch
                        return _shortest_first(batch)
                    entry.taken = True
                    batch.append(entry)
                    room -= entry.size
                    job.credit -= entry.size
                job._ready.popleft()
            if job._ready:
                self._turns.append(job)
        return _shortest_first(batch)

    def done(self, entry: Entry) -> dict[Job, list[int]]:
        """An entry was encoded: who waited for it, and for which rows. Jobs with none left are gone."""
        waiting, entry.waiting = entry.waiting, {}
        self._entries.pop(entry.pair, None)
        for job in waiting:
            job.left -= 1
            job.tokens -= entry.size
            if not job.left:
                self._remove(job)
        return waiting

    def give_back(self, entry: Entry) -> None:
        """An entry of a batch that failed because of another job waits again, for those who still want it."""
        entry.taken = False
        for job in entry.waiting:
            self._make_ready(job, entry)

    def _make_ready(self, job: Job, entry: Entry) -> None:
        if not job._ready:
            self._turns.append(job)
        job._ready.append(entry)

    def _leave(self, job: Job, entry: Entry) -> None:
        del entry.waiting[job]
        if not entry.waiting and not entry.taken:
            del self._entries[entry.pair]

    def _remove(self, job: Job) -> None:
        del self._jobs[job]
        self.texts -= job.texts
        job._unread.clear()
        job._ready.clear()


def _chunk(unread: deque[Entry]) -> Iterator[Entry]:
    """Takes from the front what is to be read at a time."""
    texts = chars = 0
    while unread and texts < READ_TEXTS and chars < READ_CHARS:
        entry = unread.popleft()
        if entry.read is None and entry.waiting:
            texts, chars = texts + 1, chars + len(entry.pair[0])
            yield entry


def _tokens(ready: deque[Entry]) -> int:
    return sum(entry.size for entry in ready if not entry.taken)


def _shortest_first(batch: list[Entry]) -> list[Entry]:
    batch.sort(key=lambda entry: entry.size)
    return batch
