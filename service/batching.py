"""One thread owns the encoder; requests that wait at the same time are encoded together.

request → bounded queue → owner thread: take what waits, up to a budget → one `extract` → each its rows
"""

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from penchant.models.features import FeatureExtractor, Features
from penchant.service.errors import ApiError, OverloadedError, internal_error
from penchant.service.settings import Settings
from penchant.service.telemetry import Telemetry, log_failure

_SMOOTHING: Final = 0.2  # weight of the newest batch in the estimate of the encoder's speed


@dataclass(frozen=True)
class Extracted:
    """Features of the texts of one job, and how long it waited and was encoded, in seconds."""

    features: Features
    queue_seconds: float
    encode_seconds: float


@dataclass(frozen=True, eq=False)
class _Job:
    texts: tuple[str, ...]
    prompts: tuple[str, ...]
    done: "asyncio.Future[Extracted]"
    chars: int
    asked_at: float = field(default_factory=time.perf_counter)


class MicroBatcher:
    """Merges waiting requests into batches for one encoder thread.

    Args:
        extractor: Used by the owner thread alone.
        settings: Bounds of queue and batch.
        telemetry: Where batches are counted.
    """

    def __init__(self, extractor: FeatureExtractor, settings: Settings, telemetry: Telemetry) -> None:
        self._extractor = extractor
        self._settings = settings
        self._telemetry = telemetry
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._queued_texts = 0
        self._seconds_per_text = 0.01
        self._thread = threading.Thread(target=self._own, name="penchant-encoder", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Starts the owner thread; to be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Encodes what waits, then ends the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        """Whether the owner thread runs."""
        return self._thread.is_alive()

    async def extract(self, texts: Sequence[str], prompts: Sequence[str]) -> Extracted:
        """Features of n texts (n prompts, read by a joint encoder alone).

        Raises:
            OverloadedError: The queue has no room for n more texts, or they would wait too long.
            ApiError: The encoder failed on these texts.
        """
        limit, wait = self._settings.max_queued_texts, self._queued_texts * self._seconds_per_text
        full = self._queued_texts + len(texts) > limit or wait > self._settings.max_queue_seconds
        if self._queued_texts and full:
            self._telemetry.overloads.labels("encoder").inc()
            raise OverloadedError("encoder", limit, wait)
        done: asyncio.Future[Extracted] = asyncio.get_running_loop().create_future()
        self._count(len(texts))
        self._queue.put(_Job(tuple(texts), tuple(prompts), done, sum(map(len, texts))))
        try:
            return await done
        finally:
            self._count(-len(texts))

    def _count(self, texts: int) -> None:
        self._queued_texts += texts
        self._telemetry.queued_texts.set(self._queued_texts)

    def _own(self) -> None:
        """The owner thread: batch after batch until told to stop."""
        held: _Job | None = None
        stopping = False
        while not stopping:
            first = held or self._queue.get()
            if first is None:
                return
            batch, held, stopping = self._gather(first)
            batch = [job for job in batch if not job.done.cancelled()]
            if batch:
                self._serve(batch)
        if held is not None:
            self._serve([held])

    def _gather(self, first: _Job) -> tuple[list[_Job], _Job | None, bool]:
        """What waits, within the budget; the job that did not fit; whether the queue has ended."""
        batch, texts, chars = [first], len(first.texts), first.chars
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return batch, None, False
            if job is None:
                return batch, None, True
            texts, chars = texts + len(job.texts), chars + job.chars
            if texts > self._settings.max_batch_texts or chars > self._settings.max_batch_chars:
                return batch, job, False
            batch.append(job)

    def _serve(self, batch: Sequence[_Job]) -> None:
        try:
            self._encode(batch)
        except Exception as error:  # whatever it is, the thread goes on and nobody waits for ever
            self._answer(batch, [internal_error() for _ in batch])
            log_failure("encoder_thread_failed", error)

    def _encode(self, batch: Sequence[_Job]) -> None:
        started = time.perf_counter()
        try:
            features = self._extract(
                [(t, p) for job in batch for t, p in zip(job.texts, job.prompts, strict=True)]
            )
        except Exception as error:
            self._telemetry.encoder_failures.inc()
            if len(batch) > 1:  # one request's texts must not fail another's
                for job in batch:
                    self._encode([job])
                return
            self._answer(batch, [internal_error()])
            log_failure("encoder_failed", error)
            return
        took = time.perf_counter() - started
        self._telemetry.batch_texts.observe(len(features.tokens))
        self._telemetry.encoded_texts.inc(len(features.tokens))
        self._telemetry.encoded_tokens.inc(int(features.tokens.sum()))
        self._seconds_per_text += _SMOOTHING * (took / len(features.tokens) - self._seconds_per_text)
        answers, start = [], 0
        for job in batch:
            rows = slice(start, start := start + len(job.texts))
            part = Features(features.vectors[rows], features.tokens[rows], features.truncated[rows])
            answers.append(Extracted(part, started - job.asked_at, took))
        self._answer(batch, answers)

    def _extract(self, pairs: Sequence[tuple[str, str]]) -> Features:
        """Features of (text, prompt) pairs, each distinct one computed once.

        Raises:
            ArithmeticError: A feature is not finite.
        """
        if not self._extractor.encoder.joint:
            pairs = [(text, "") for text, _ in pairs]
        distinct = list(dict.fromkeys(pairs))
        found = self._extractor.extract([t for t, _ in distinct], [p for _, p in distinct])
        if not np.isfinite(found.vectors).all():
            raise ArithmeticError("features are not finite")
        if len(distinct) == len(pairs):
            return found
        place = {pair: i for i, pair in enumerate(distinct)}
        rows = [place[pair] for pair in pairs]
        return Features(found.vectors[rows], found.tokens[rows], found.truncated[rows])

    def _answer(self, batch: Sequence[_Job], answers: Sequence[Extracted | ApiError]) -> None:
        """Hands the answers to the event loop, in one step."""
        if self._loop is None:
            raise RuntimeError("the batcher was not started")
        self._loop.call_soon_threadsafe(_resolve, list(zip(batch, answers, strict=True)))


def _resolve(answers: Sequence[tuple[_Job, Extracted | ApiError]]) -> None:
    for job, answer in answers:
        if job.done.done():
            continue
        if isinstance(answer, ApiError):
            job.done.set_exception(answer)
        else:
            job.done.set_result(answer)
