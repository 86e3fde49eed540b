"""A queue that shares the encoder fairly between requests. It is not thread-safe: the caller holds a lock.

Each request is a flow of deficit round robin (Shreedhar and Varghese 1996), in which a text costs its number of tokens.
The first turn of a request is as large as a batch, so that ordinary requests are served whole, in order of arrival. Its
later turns are a quarter of that, so that a large request leaves room in every batch for requests that arrive after it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from penchant.models.encoding.features import ReadText

LATER_TURNS: Final = 4
"""Ratio of a request's first turn to its later turns."""

READ_TEXTS: Final = 32
"""Largest number of texts of one request that are read before another request has its turn."""

READ_CHARS: Final = 32_000
"""Number of characters after which another request has its turn at being read. At least one text is read."""

Pair = tuple[str, str]


@dataclass(eq=False, slots=True)
class Entry:
    """A (text, prompt) that is waiting. It is read and encoded a single time for all jobs that need it.

    Attributes:
        pair: Text and prompt.
        size: Number of tokens, estimated until the text is read.
        read: The text with its tokens and attributes. None until it is read.
        is_taken: Whether a batch contains the entry.
        waiting: Jobs that wait for the entry, and the rows of each that it fills.
    """

    pair: Pair
    size: int
    read: ReadText | None = None
    is_taken: bool = False
    waiting: "dict[Job, list[int]]" = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Job:
    """The texts of one request.

    Attributes:
        n_texts: Number of texts.
        n_pending: Number of entries that it still waits for.
        tokens: Number of tokens in those entries.
        credit: Number of tokens that it may still take in its turn. Negative if it took more than its share.
        has_started: Whether it has had a turn.
    """

    n_texts: int
    n_pending: int = 0
    tokens: int = 0
    credit: int = 0
    has_started: bool = False
    _unread: deque[Entry] = field(default_factory=deque)
    _ready: deque[Entry] = field(default_factory=deque)


class FairQueue:
    """A queue of texts, fair between jobs.

    Args:
        estimate: Function that estimates the number of tokens in a text.

    Attributes:
        n_texts: Number of texts in all waiting jobs. Repeated texts are counted each time.
    """

    def __init__(self, estimate: Callable[[str], int]) -> None:
        self.n_texts = 0
        self._estimate = estimate
        self._jobs: dict[Job, None] = {}
        self._entries: dict[Pair, Entry] = {}
        self._read_turns: deque[Job] = deque()
        self._encode_turns: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def has_read_all(self) -> bool:
        """Whether all waiting texts have been read. Cost: linear in the number of waiting texts."""
        return all(entry.read is not None for entry in self._entries.values())

    def add(self, job: Job, pairs: Sequence[Pair]) -> None:
        """Add a job with one (text, prompt) for each of its rows."""
        self._jobs[job] = None
        self.n_texts += job.n_texts
        for row, pair in enumerate(pairs):
            entry = self._entries.get(pair)
            if entry is None:
                entry = self._entries[pair] = Entry(pair, self._estimate(pair[0]))
            rows = entry.waiting.get(job)
            if rows is not None:
                rows.append(row)
                continue
            entry.waiting[job] = [row]
            job.n_pending += 1
            job.tokens += entry.size
            (job._unread if entry.read is None else job._ready).append(entry)
        if job._unread:
            self._read_turns.append(job)
        if job._ready:
            self._encode_turns.append(job)

    def abandon(self, job: Job) -> None:
        """Remove a job whose caller has left. Its texts are not encoded, unless another job waits for them."""
        if job not in self._jobs:
            return
        for entry in [entry for entry in self._entries.values() if job in entry.waiting]:
            self._detach(job, entry)
        self._remove(job)

    def estimate_backlog(self, tokens: int, turn: int) -> int:
        """Estimate how many tokens are encoded before a new job is done.

        Args:
            tokens: Number of tokens in the new job.
            turn: Size of a job's first turn, in tokens.
        """
        share = max(tokens, turn)
        return sum(min(job.tokens, share) for job in self._jobs)

    # Reading

    def take_unread(self, read_ahead: int) -> list[Entry]:
        """Take the next texts to read, all of one job. Skip jobs with `read_ahead` tokens ready to be encoded."""
        for _ in range(len(self._read_turns)):
            job = self._read_turns.popleft()
            if job not in self._jobs:
                continue
            entries = list(_take_chunk(job._unread)) if _count_tokens(job._ready) < read_ahead else []
            if job._unread:
                self._read_turns.append(job)
            if entries:
                return entries
        return []

    def add_read(self, texts: Iterable[tuple[Entry, ReadText]]) -> None:
        """Make entries that have been read available to batches."""
        for entry, read in texts:
            entry.read = read
            change, entry.size = read.size - entry.size, read.size
            for job in entry.waiting:
                job.tokens += change
                self._make_ready(job, entry)

    # Encoding

    def take_batch(self, max_tokens: int, max_texts: int) -> list[Entry]:
        """Take the next batch, shortest texts first. A text that exceeds `max_tokens` is a batch on its own."""
        batch: list[Entry] = []
        room = max_tokens
        while self._encode_turns:
            job = self._encode_turns.popleft()
            if job.credit <= 0:
                job.credit += max(1, max_tokens // LATER_TURNS) if job.has_started else max_tokens
                job.has_started = True
            while job._ready and job.credit > 0:
                entry = job._ready[0]
                if not entry.is_taken and entry.waiting:
                    if batch and (entry.size > room or len(batch) >= max_texts):
                        self._encode_turns.appendleft(job)  # the rest of its turn starts the next batch
                        return _sort_by_size(batch)
                    entry.is_taken = True
                    batch.append(entry)
                    room -= entry.size
                    job.credit -= entry.size
                job._ready.popleft()
            if job._ready:
                self._encode_turns.append(job)
        return _sort_by_size(batch)

    def complete(self, entry: Entry) -> dict[Job, list[int]]:
        """Remove an encoded entry, and jobs that wait for no other. Return the rows that it fills, by job."""
        waiting, entry.waiting = entry.waiting, {}
        self._entries.pop(entry.pair, None)
        for job in waiting:
            job.n_pending -= 1
            job.tokens -= entry.size
            if not job.n_pending:
                self._remove(job)
        return waiting

    def requeue(self, entry: Entry) -> None:
        """Return an entry to the queue, after its batch failed because of another job."""
        entry.is_taken = False
        for job in entry.waiting:
            self._make_ready(job, entry)

    def _make_ready(self, job: Job, entry: Entry) -> None:
        if not job._ready:
            self._encode_turns.append(job)
        job._ready.append(entry)

    def _detach(self, job: Job, entry: Entry) -> None:
        del entry.waiting[job]
        if not entry.waiting and not entry.is_taken:
            del self._entries[entry.pair]

    def _remove(self, job: Job) -> None:
        del self._jobs[job]
        self.n_texts -= job.n_texts
        job._unread.clear()
        job._ready.clear()


def _take_chunk(unread: deque[Entry]) -> Iterator[Entry]:
    """Take the texts that are read in one turn."""
    texts = chars = 0
    while unread and texts < READ_TEXTS and chars < READ_CHARS:
        entry = unread.popleft()
        if entry.read is None and entry.waiting:
            texts, chars = texts + 1, chars + len(entry.pair[0])
            yield entry


def _count_tokens(ready: deque[Entry]) -> int:
    return sum(entry.size for entry in ready if not entry.is_taken)


def _sort_by_size(batch: list[Entry]) -> list[Entry]:
    batch.sort(key=lambda entry: entry.size)
    return batch
