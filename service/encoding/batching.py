"""Two threads between requests and the encoder: one reads texts ahead, the other owns the encoder.

request → admitted, or 429 → `FairQueue` ─ reader thread: tokens, attributes ─→ owner thread: batch after batch → rows
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from penchant.models.encoding.features import FeatureExtractor, Features
from penchant.service.encoding.fair_queue import Entry, FairQueue, Job
from penchant.service.errors import ApiError, OverloadedError, internal_error
from penchant.service.settings import Settings
from penchant.service.telemetry.metrics import Telemetry, log_failure

MIN_BATCH_TOKENS: Final = 2048
"""However slow the encoder: smaller batches would make it slower still."""

_MEMORY: Final = 0.8  # of a measurement, a batch later
_READ_AHEAD: Final = 2  # batches that may be read of one request


@dataclass(frozen=True)
class Extracted:
    """Features of the texts of one request, and how long it waited and was encoded, in seconds."""

    features: Features
    queue_seconds: float
    encode_seconds: float


@dataclass(eq=False)
class _Asked:
    """A request that waits, and what is known of its answer."""

    job: Job
    done: "asyncio.Future[Extracted]"
    features: Features
    asked_at: float = field(default_factory=time.perf_counter)
    encode_seconds: float = 0.0

    def answer(self) -> Extracted:
        """Its answer, once all rows are there."""
        took = time.perf_counter() - self.asked_at
        return Extracted(self.features, max(0.0, took - self.encode_seconds), self.encode_seconds)


class Speed:
    """Tokens a second, of the last few batches; large ones count more."""

    def __init__(self) -> None:
        self._tokens, self._seconds = 1000.0, 0.1

    @property
    def tokens_per_second(self) -> float:
        """The estimate; 10,000 before anything was measured."""
        return self._tokens / self._seconds

    def measured(self, tokens: int, seconds: float) -> None:
        """Takes a batch into account."""
        self._tokens = _MEMORY * self._tokens + max(1, tokens)
        self._seconds = _MEMORY * self._seconds + max(1e-6, seconds)


class MicroBatcher:
    """Merges waiting requests into batches for one encoder.

    A text that several requests wait for is encoded once; one that nobody waits for any longer, not at all.

    Args:
        extractor: Used by these threads alone.
        settings: Bounds of queue and batch.
        telemetry: Where batches are counted.
    """

    def __init__(self, extractor: FeatureExtractor, settings: Settings, telemetry: Telemetry) -> None:
        self._extractor = extractor
        self._settings = settings
        self._telemetry = telemetry
        self._changed = threading.Condition()  # guards all that follows
        self._queue = FairQueue(extractor.estimate)
        self._asked: dict[Job, _Asked] = {}
        self._speed = Speed()
        self._stopping = False
        self._threads = (
            threading.Thread(target=self._own, args=(self._read_next,), name="penchant-reader", daemon=True),
            threading.Thread(
                target=self._own, args=(self._encode_next,), name="penchant-encoder", daemon=True
            ),
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    # On the event loop

    def start(self) -> None:
        """Starts the threads; to be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Encodes what waits, then ends the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    @property
    def is_busy(self) -> bool:
        """Whether texts wait for the encoder, or are in it. Any thread may ask."""
        return len(self._queue) > 0

    @property
    def is_read(self) -> bool:
        """Whether all that waits has been read."""
        with self._changed:
            return self._queue.is_read

    @property
    def alive(self) -> bool:
        """Whether the threads run."""
        return all(thread.is_alive() for thread in self._threads)

    async def extract(self, texts: Sequence[str], prompts: Sequence[str]) -> Extracted:
        """Features of n texts (n prompts, read by a joint encoder alone).

        Raises:
            OverloadedError: The queue has no room for n more texts, or they would wait too long.
            ApiError: The encoder failed on these texts.
        """
        joint, n = self._extractor.encoder.joint, len(texts)
        pairs = [(text, prompt if joint else "") for text, prompt in zip(texts, prompts, strict=True)]
        done: asyncio.Future[Extracted] = asyncio.get_running_loop().create_future()
        rows = Features(
            np.empty((n, self._extractor.dim), np.float16), np.zeros(n, np.int64), np.zeros(n, np.bool_)
        )
        job = Job(n)
        with self._changed:
            self._admit(texts)
            self._asked[job] = _Asked(job, done, rows)
            self._queue.add(job, pairs)
            self._changed.notify_all()
        self._telemetry.queued_texts.inc(n)  # of all encoders: around an upgrade there may be two
        try:
            return await done
        finally:
            self._telemetry.queued_texts.dec(n)
            with self._changed:
                if self._asked.pop(job, None) is not None:
                    self._telemetry.abandoned_texts.inc(job.left)
                    self._queue.abandon(job)
                    self._changed.notify_all()

    def _admit(self, texts: Sequence[str]) -> None:
        """Refuses what would wait longer than is allowed; a large request may wait as long again as it takes."""
        if not len(self._queue):
            return
        limit, speed = self._settings.max_queued_texts, self._speed.tokens_per_second
        tokens = sum(map(self._extractor.estimate, texts))
        wait = self._queue.ahead(tokens, self._budget()) / speed
        longest = self._settings.max_queue_seconds + tokens / speed
        if self._queue.texts + len(texts) > limit or wait > longest:
            self._telemetry.overloads.labels("encoder").inc()
            raise OverloadedError("encoder", limit, wait - min(longest, wait / 2))

    def _budget(self) -> int:
        """Tokens of a batch: what the encoder reads in `batch_seconds`, within bounds."""
        settings = self._settings
        wanted = int(self._speed.tokens_per_second * settings.batch_seconds)
        return min(settings.max_batch_tokens, max(MIN_BATCH_TOKENS, wanted))

    # On the threads

    def _own(self, work: Callable[[], bool]) -> None:
        """Works until told to stop, and nothing is left."""
        while True:
            try:
                if not work():
                    return
            except Exception as error:  # whatever it is, the thread goes on and nobody waits for ever
                log_failure("encoder_thread_failed", error)
                self._fail_all()

    def _wait_for(self, find: Callable[[], list[Entry]]) -> list[Entry]:
        """What there is to do; nothing once the batcher stops and nobody waits."""
        with self._changed:
            while not (found := find()):
                if self._stopping and not len(self._queue):
                    self._changed.notify_all()
                    return []
                self._changed.wait()
            self._changed.notify_all()  # the reader may go on where the encoder took something
            return found

    def _read_next(self) -> bool:
        entries = self._wait_for(lambda: self._queue.to_read(_READ_AHEAD * self._budget()))
        if not entries:
            return False
        try:
            self._read(entries)
        except Exception:  # whatever it is: one text must not fail another
            for entry in entries:
                self._read_alone(entry)
        return True

    def _read_alone(self, entry: Entry) -> None:
        try:
            self._read([entry])
        except Exception as error:
            self._fail(tuple(entry.waiting), error)

    def _read(self, entries: Sequence[Entry]) -> None:
        texts, prompts = zip(*(entry.pair for entry in entries), strict=True)
        read = self._extractor.read(texts, prompts)
        with self._changed:
            self._queue.was_read(zip(entries, read, strict=True))
            self._changed.notify_all()

    def _encode_next(self) -> bool:
        settings = self._settings
        batch = self._wait_for(lambda: self._queue.take(self._budget(), settings.max_batch_texts))
        if batch:
            self._encode(batch)
        return bool(batch)

    def _encode(self, batch: Sequence[Entry]) -> None:
        started = time.perf_counter()
        try:
            features = self._extractor.encode([entry.read for entry in batch if entry.read is not None])
            if not np.isfinite(features.vectors).all():
                raise ArithmeticError("features are not finite")
        except Exception as error:
            self._telemetry.encoder_failures.inc()
            self._without_culprit(batch, error)
            return
        took, tokens = time.perf_counter() - started, int(features.tokens.sum())
        self._telemetry.batch_texts.observe(len(batch))
        self._telemetry.batch_tokens.observe(tokens)
        self._telemetry.encoded_texts.inc(len(batch))
        self._telemetry.encoded_tokens.inc(tokens)
        self._telemetry.encoder_seconds.inc(took)
        with self._changed:
            self._speed.measured(tokens, took)
            finished = self._hand_out(batch, features, took)
        self._resolve([(asked, asked.answer()) for asked in finished])

    def _hand_out(self, batch: Sequence[Entry], features: Features, took: float) -> list[_Asked]:
        """Copies rows to whoever waits for them; requests that have all of theirs."""
        served: dict[Job, None] = {}
        for place, entry in enumerate(batch):
            for job, rows in self._queue.done(entry).items():
                served[job] = None
                own = self._asked[job].features
                own.vectors[rows] = features.vectors[place]
                own.tokens[rows] = features.tokens[place]
                own.truncated[rows] = features.truncated[place]
        for job in served:
            self._asked[job].encode_seconds += took
        return [self._asked.pop(job) for job in served if not job.left]

    def _without_culprit(self, batch: Sequence[Entry], error: Exception) -> None:
        """Encodes each request's part of a batch that failed by itself; the one that is alone has failed."""
        with self._changed:
            shares: dict[Job | None, list[Entry]] = {}
            for entry in batch:
                shares.setdefault(next(iter(entry.waiting), None), []).append(entry)
            for entry in shares.pop(None, []):  # nobody waits for it any longer
                self._queue.done(entry)
        if len(shares) > 1:
            for share in shares.values():
                self._encode(share)
            return
        for job, share in shares.items():
            if job is not None:
                self._fail((job,), error, share)

    def _fail(self, jobs: Iterable[Job], error: Exception, batch: Sequence[Entry] = ()) -> None:
        """Answers requests with an error; what others want of their batch waits again."""
        log_failure("encoder_failed", error)
        with self._changed:
            failed = [asked for job in jobs if (asked := self._asked.pop(job, None)) is not None]
            for asked in failed:
                self._queue.abandon(asked.job)
            for entry in batch:
                if entry.waiting:
                    self._queue.give_back(entry)
                else:
                    self._queue.done(entry)
            self._changed.notify_all()
        self._resolve([(asked, internal_error()) for asked in failed])

    def _fail_all(self) -> None:
        """After what nobody foresaw: starts with an empty queue."""
        with self._changed:
            failed, self._asked = list(self._asked.values()), {}
            for asked in failed:
                self._queue.abandon(asked.job)
            self._queue = FairQueue(self._extractor.estimate)
        self._resolve([(asked, internal_error()) for asked in failed])

    def _resolve(self, answers: list[tuple[_Asked, Extracted | ApiError]]) -> None:
        """Hands answers to the event loop, in one step."""
        if self._loop is None:
            raise RuntimeError("the batcher was not started")
        if answers:
            self._loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: Sequence[tuple[_Asked, Extracted | ApiError]]) -> None:
    for asked, answer in answers:
        if asked.done.done():
            continue
        if isinstance(answer, ApiError):
            asked.done.set_exception(answer)
        else:
            asked.done.set_result(answer)
