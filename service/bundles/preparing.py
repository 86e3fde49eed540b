"""Learning every user for the next bundle while the current one ranks, in rounds because users change meanwhile."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection

from penchant.models.encoding.features import FeatureExtractor, Features
from penchant.service.bundles.served_model import ModelBuilder, ServedModel
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.store import bundles
from penchant.service.telemetry.metrics import log
from penchant.service.users.completion import Shortfall
from penchant.service.users.replayer import BatchedExtractor

_BATCH_TEXTS: Final = 32
"""Texts that are encoded at once in the background. A request may have to wait for one such batch."""

_YIELD_SECONDS: Final = 0.5  # longest wait for requests before each batch
_REPORT_SECONDS: Final = 0.5  # between two reports of progress
_ROUNDS: Final = 3
_FEW_USERS: Final = 100  # changed users who need no further round; their next request catches them up
_MAX_FAILED: Final = 0.01  # share of users who may fail; with more the bundle is not activated


class UnlearnableError(ValueError):
    """Too many users cannot be learned for the bundle."""


class PoliteExtractor(BatchedExtractor):
    """An extractor that encodes texts in small batches, when no request waits for the encoder.

    Args:
        extractor: Extractor, which defines keys.
        batcher: Batcher that runs the encoder.
        loop: Event loop of the batcher.
        is_busy: Function that returns whether requests wait for the encoder.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        batcher: MicroBatcher,
        loop: asyncio.AbstractEventLoop,
        is_busy: Callable[[], bool],
    ) -> None:
        super().__init__(extractor, batcher, loop)
        self._is_busy = is_busy

    def extract(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Features:
        """Return the features of texts, as `BatchedExtractor.extract` does, in small batches."""
        parts = []
        for start in range(0, len(texts), _BATCH_TEXTS):
            deadline = time.monotonic() + _YIELD_SECONDS
            while self._is_busy() and time.monotonic() < deadline:
                time.sleep(0.002)  # on a background thread
            some = slice(start, start + _BATCH_TEXTS)
            parts.append(super().extract(texts[some], None if prompts is None else prompts[some]))
        return Features.join(parts)


class Preparation:
    """Learns every user for one bundle, and records the progress in the store.

    Args:
        model: Model with the bundle.
        builder: Builder of models.
        is_busy: Function that returns whether requests wait for the current encoder.
    """

    def __init__(self, model: ServedModel, builder: ModelBuilder, is_busy: Callable[[], bool]) -> None:
        extractor = PoliteExtractor(model.source.extractor, model.source.batcher, builder.loop, is_busy)
        self._replayer = builder.build_replayer(model.fold, model.cache, extractor)
        self._version = model.bundle.version
        self._builder = builder
        self._reported_at = 0.0
        self._reported = Shortfall()
        self._stopped = False

    def stop(self) -> None:
        """Stop after the user who is being learned. Any thread may call this."""
        self._stopped = True
        self._replayer.stop()

    def run(self) -> bool:
        """Learn all users in the caller's thread. Return False if stopped, or if the bundle is no longer wanted.

        Raises:
            UnlearnableError: If too many users cannot be learned.
        """
        telemetry = self._builder.telemetry
        try:
            for number in range(_ROUNDS):
                done, failed = self._replayer.catch_up_all(
                    self._report if number == 0 else lambda _done, _total: None, with_pauses=True
                )
                if self._stopped:
                    return False
                if failed > max(1, _MAX_FAILED * done):
                    raise UnlearnableError(f"{failed} of {done} users cannot be learned for it")
                if done <= _FEW_USERS:
                    break
            with self._builder.store.writing() as connection:
                self._record_shortfall(connection)
            log.info("upgrade_learned", bundle=self._version, **asdict(self._replayer.shortfall))
        finally:
            telemetry.upgrade_users.set(0)
            telemetry.upgrade_users_done.set(0)
        return True

    def _report(self, done: int, total: int) -> None:
        if done not in (0, total) and time.monotonic() - self._reported_at < _REPORT_SECONDS:
            return
        self._reported_at = time.monotonic()
        builder = self._builder
        builder.telemetry.upgrade_users.set(total)
        builder.telemetry.upgrade_users_done.set(done)
        with builder.store.writing() as connection:
            now = builder.store.clock()
            is_wanted = bundles.record_progress(connection, self._version, done=done, total=total, now=now)
            self._record_shortfall(connection)
        if not is_wanted:
            self.stop()

    def _record_shortfall(self, connection: Connection) -> None:
        """Add the events that cannot be used in full, and were not recorded before, to the bundle's row."""
        total, before = self._replayer.shortfall, self._reported
        if total != before:
            bundles.add_shortfall(connection, self._version, **asdict(total - before))
            self._reported = total
