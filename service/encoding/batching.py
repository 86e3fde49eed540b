"""Merges requests into batches. One thread reads texts ahead of the encoder, and another runs the encoder.

request → admitted, or 429 → `FairQueue` ─ reader thread: tokens, attributes ─→ encoder thread: batches → rows
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from penchant.models.encoding.features import Features, ReadText
from penchant.service.encoding.fair_queue import Entry, FairQueue, Job
from penchant.service.errors import ApiError, OverloadedError, internal_error
from penchant.service.settings import Settings
from penchant.service.telemetry.metrics import Telemetry, log_failure

MIN_BATCH_TOKENS: Final = 2048
"""Smallest token budget of a batch. Smaller batches would slow the encoder down."""

_DECAY: Final = 0.8  # weight of the earlier batches, after each new batch
_READ_AHEAD: Final = 2  # batches of one request that are read before they are encoded


class BatchedEncoder(Protocol):
    """The encoder of a `TwoStepExtractor`, as far as a batcher uses it."""

    @property
    def joint(self) -> bool:
        """Whether prompt and text are read in one sequence."""


class TwoStepExtractor(Protocol):
    """Computes features in two steps, each on a thread of the batcher. `FeatureExtractor` is one."""

    @property
    def encoder(self) -> BatchedEncoder:
        """The encoder."""

    def estimate(self, text: str) -> int:
        """Estimate how many tokens of a text the encoder will read."""

    def read(self, texts: Sequence[str], prompts: Sequence[str]) -> list[ReadText]:
        """Return the texts, ready to be encoded: the first step."""

    def encode(self, texts: Sequence[ReadText]) -> Features:
        """Return the features of texts from one or several calls of `read`: the second step."""


@dataclass(frozen=True)
class ExtractionResult:
    """Features of the texts of one request, with the time that it took.

    Attributes:
        features: Features of the texts.
        queue_seconds: Time that the request waited, in seconds.
        encode_seconds: Total time of the batches that contained its texts, in seconds.
    """

    features: Features
    queue_seconds: float
    encode_seconds: float


@dataclass(eq=False)
class _PendingRequest:
    """A waiting request, and the row of each of its texts in the features of a batch, once the batch is complete."""

    job: Job
    future: "asyncio.Future[ExtractionResult]"
    rows: list[tuple[Features, int] | None]
    started_at: float = field(default_factory=time.perf_counter)
    encode_seconds: float = 0.0

    def to_result(self) -> ExtractionResult:
        """Return the result. Call this when all rows are complete."""
        seconds = time.perf_counter() - self.started_at
        rows = [row for row in self.rows if row is not None]
        features = Features(
            np.stack([batch.vectors[i] for batch, i in rows]),
            np.array([batch.tokens[i] for batch, i in rows], np.int64),
            np.array([batch.truncated[i] for batch, i in rows], np.bool_),
            tuple(batch.windows[i] for batch, i in rows),
        )
        return ExtractionResult(features, max(0.0, seconds - self.encode_seconds), self.encode_seconds)


class ThroughputEstimate:
    """An estimate of the encoder's throughput from the latest batches, in which large batches weigh more."""

    def __init__(self) -> None:
        self._tokens, self._seconds = 1000.0, 0.1

    @property
    def tokens_per_second(self) -> float:
        """Estimated number of tokens per second; 10,000 before the first batch."""
        return self._tokens / self._seconds

    def update(self, tokens: int, seconds: float) -> None:
        """Update the estimate with the tokens and the duration of a batch."""
        self._tokens = _DECAY * self._tokens + max(1, tokens)
        self._seconds = _DECAY * self._seconds + max(1e-6, seconds)


class MicroBatcher:
    """A batcher that merges waiting requests into batches for one encoder.

    A text that several requests wait for is encoded a single time. A text whose callers have all left is not encoded.

    Args:
        extractor: Extractor with the encoder. Only the batcher's threads may run it.
        settings: Limits of the queue and of a batch.
        telemetry: Metrics, in which texts and batches are counted.
    """

    def __init__(self, extractor: TwoStepExtractor, settings: Settings, telemetry: Telemetry) -> None:
        self._extractor = extractor
        self._settings = settings
        self._telemetry = telemetry
        self._changed = threading.Condition()  # guards the attributes below, up to `_stopping`
        self._queue = FairQueue(extractor.estimate)
        self._requests: dict[Job, _PendingRequest] = {}
        self._throughput = ThroughputEstimate()
        self._stopping = False
        self._threads = (
            threading.Thread(target=self._run, args=(self._read_next,), name="penchant-reader", daemon=True),
            threading.Thread(
                target=self._run, args=(self._encode_next,), name="penchant-encoder", daemon=True
            ),
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    # On the event loop

    def start(self) -> None:
        """Start the threads. Call this on the event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def stop(self, seconds: float | None = None) -> bool:
        """Encode the waiting texts, then end the threads. Return whether they have ended.

        Args:
            seconds: Longest wait for each of the two threads. None: as long as it takes.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, seconds)
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def is_busy(self) -> bool:
        """Whether texts are waiting or being encoded. Any thread may read this."""
        return len(self._queue) > 0

    @property
    def has_read_all(self) -> bool:
        """Whether all waiting texts have been read."""
        with self._changed:
            return self._queue.has_read_all

    def find_fault(self) -> str | None:
        """Return why no text can be encoded any more, or None."""
        return None if all(thread.is_alive() for thread in self._threads) else "its thread has ended"

    async def extract(self, texts: Sequence[str], prompts: Sequence[str]) -> ExtractionResult:
        """Return the features of n texts, each an answer to one of n prompts. Only a joint encoder reads the prompts.

        Raises:
            OverloadedError: If the queue has no room for n more texts, or if they would wait too long.
            ApiError: If the encoder fails on these texts.
        """
        joint, n = self._extractor.encoder.joint, len(texts)
        pairs = [(text, prompt if joint else "") for text, prompt in zip(texts, prompts, strict=True)]
        future: asyncio.Future[ExtractionResult] = asyncio.get_running_loop().create_future()
        job = Job(n)
        with self._changed:
            self._admit(texts)
            self._requests[job] = _PendingRequest(job, future, [None] * n)
            self._queue.add(job, pairs)
            self._changed.notify_all()
        self._telemetry.queued_texts.inc(n)  # added up, since an upgrade may run two encoders
        try:
            return await future
        finally:
            self._telemetry.queued_texts.dec(n)
            with self._changed:
                if self._requests.pop(job, None) is not None:
                    self._telemetry.abandoned_texts.inc(job.n_pending)
                    self._queue.abandon(job)
                    self._changed.notify_all()

    def _admit(self, texts: Sequence[str]) -> None:
        """Raise `OverloadedError` if texts would exceed the limits of the queue. An empty queue admits any request.

        A request may wait for `max_queue_seconds` plus the time that its own texts take.
        """
        if not len(self._queue):
            return
        limit, throughput = self._settings.max_queued_texts, self._throughput.tokens_per_second
        tokens = sum(map(self._extractor.estimate, texts))
        wait = self._queue.estimate_backlog(tokens, self._compute_token_budget()) / throughput
        max_wait = self._settings.max_queue_seconds + tokens / throughput
        if self._queue.n_texts + len(texts) > limit or wait > max_wait:
            self._telemetry.overloads.labels("encoder").inc()
            raise OverloadedError("encoder", limit, wait - min(max_wait, wait / 2))

    def _compute_token_budget(self) -> int:
        """Return the token budget of a batch: what the encoder processes in `batch_seconds`, within limits."""
        settings = self._settings
        tokens = int(self._throughput.tokens_per_second * settings.batch_seconds)
        return min(settings.max_batch_tokens, max(MIN_BATCH_TOKENS, tokens))

    # On the threads

    def _run(self, step: Callable[[], bool]) -> None:
        """Repeat a step until it returns False."""
        while True:
            try:
                if not step():
                    return
            except Exception as error:  # the thread must go on, and no caller may wait forever
                log_failure("encoder_thread_failed", error)
                self._fail_all()

    def _wait_for(self, take: Callable[[], list[Entry]]) -> list[Entry]:
        """Wait until there are entries to take. Return none if the batcher is stopping and its queue is empty."""
        with self._changed:
            while not (entries := take()):
                if self._stopping and not len(self._queue):
                    self._changed.notify_all()
                    return []
                self._changed.wait()
            self._changed.notify_all()  # a taken batch lets the reader read further ahead
            return entries

    def _read_next(self) -> bool:
        """Read the next texts. Return False if the batcher has stopped."""
        entries = self._wait_for(lambda: self._queue.take_unread(_READ_AHEAD * self._compute_token_budget()))
        if not entries:
            return False
        try:
            self._read(entries)
        except Exception:  # one text must not fail another
            for entry in entries:
                self._read_single(entry)
        return True

    def _read_single(self, entry: Entry) -> None:
        """Read one text. If it fails, fail the requests that wait for it."""
        try:
            self._read([entry])
        except Exception as error:
            self._fail(tuple(entry.waiting), error)

    def _read(self, entries: Sequence[Entry]) -> None:
        texts, prompts = zip(*(entry.pair for entry in entries), strict=True)
        read = self._extractor.read(texts, prompts)
        with self._changed:
            self._queue.add_read(zip(entries, read, strict=True))
            self._changed.notify_all()

    def _encode_next(self) -> bool:
        """Encode the next batch. Return False if the batcher has stopped."""
        settings = self._settings
        batch = self._wait_for(
            lambda: self._queue.take_batch(self._compute_token_budget(), settings.max_batch_texts)
        )
        if batch:
            self._encode(batch)
        return bool(batch)

    def _encode(self, batch: Sequence[Entry]) -> None:
        """Encode a batch, and resolve the requests that it completes."""
        started = time.perf_counter()
        try:
            features = self._extractor.encode([entry.read for entry in batch if entry.read is not None])
            if not np.isfinite(features.vectors).all():
                raise ArithmeticError("The encoder returned features that are not finite.")
        except Exception as error:
            self._telemetry.encoder_failures.inc()
            self._isolate_failure(batch, error)
            return
        seconds, tokens = time.perf_counter() - started, int(features.tokens.sum())
        self._telemetry.batch_texts.observe(len(batch))
        self._telemetry.batch_tokens.observe(tokens)
        self._telemetry.encoded_texts.inc(len(batch))
        self._telemetry.encoded_tokens.inc(tokens)
        self._telemetry.encoder_seconds.inc(seconds)
        with self._changed:
            self._throughput.update(tokens, seconds)
            completed = self._distribute(batch, features, seconds)
        self._resolve([(request, request.to_result()) for request in completed])

    def _distribute(
        self, batch: Sequence[Entry], features: Features, seconds: float
    ) -> list[_PendingRequest]:
        """Give the rows of a batch to the requests that wait for them. Return the requests that it completes."""
        served: dict[Job, None] = {}
        for i, entry in enumerate(batch):
            for job, rows in self._queue.complete(entry).items():
                served[job] = None
                pending = self._requests[job].rows
                for row in rows:
                    pending[row] = (features, i)
        for job in served:
            self._requests[job].encode_seconds += seconds
        return [self._requests.pop(job) for job in served if not job.n_pending]

    def _isolate_failure(self, batch: Sequence[Entry], error: Exception) -> None:
        """Encode a failed batch again, one request at a time. If the batch has a single request, fail that request."""
        with self._changed:
            shares: dict[Job | None, list[Entry]] = {}
            for entry in batch:
                shares.setdefault(next(iter(entry.waiting), None), []).append(entry)
            for entry in shares.pop(None, []):  # all callers have left
                self._queue.complete(entry)
        if len(shares) > 1:
            for share in shares.values():
                self._encode(share)
            return
        for job, share in shares.items():
            if job is not None:
                self._fail((job,), error, share)

    def _fail(self, jobs: Iterable[Job], error: Exception, batch: Sequence[Entry] = ()) -> None:
        """Fail requests. Entries of their batch that other requests wait for are queued again."""
        log_failure("encoder_failed", error)
        with self._changed:
            failed = [request for job in jobs if (request := self._requests.pop(job, None)) is not None]
            for request in failed:
                self._queue.abandon(request.job)
            for entry in batch:
                if entry.waiting:
                    self._queue.requeue(entry)
                else:
                    self._queue.complete(entry)
            self._changed.notify_all()
        self._resolve([(request, internal_error()) for request in failed])

    def _fail_all(self) -> None:
        """Fail all requests after an unexpected error, and start again with an empty queue."""
        with self._changed:
            failed, self._requests = list(self._requests.values()), {}
            for request in failed:
                self._queue.abandon(request.job)
            self._queue = FairQueue(self._extractor.estimate)
        self._resolve([(request, internal_error()) for request in failed])

    def _resolve(self, outcomes: list[tuple[_PendingRequest, ExtractionResult | ApiError]]) -> None:
        """Resolve requests on the event loop, all in one call."""
        if self._loop is None:
            raise RuntimeError("The batcher has not been started; call `start` first.")
        if outcomes:
            self._loop.call_soon_threadsafe(_resolve, outcomes)


def _resolve(outcomes: Sequence[tuple[_PendingRequest, ExtractionResult | ApiError]]) -> None:
    """Set the result or the exception of each future that is still pending."""
    for request, outcome in outcomes:
        if request.future.done():
            continue
        if isinstance(outcome, ApiError):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)
