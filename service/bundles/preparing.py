"""Every user learned for a bundle that is to rank, while another answers: in rounds, for users change meanwhile."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from penchant.models.encoding.features import FeatureExtractor, Features
from penchant.service.bundles.served_model import ModelBuilder, ServedModel
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.store import bundles
from penchant.service.users.replayer import BatchedReader

_TEXTS_AT_ONCE: Final = 32
"""Read by an encoder in the background at a time: so long may a request have to wait for it."""

_YIELD_SECONDS: Final = 0.5  # at most, before each such batch, while texts of requests wait
_TOLD_SECONDS: Final = 0.5  # between two notes of progress
_ROUNDS: Final = 3
_FEW_USERS: Final = 100  # that changed while others were learned; they catch up by themselves
_MAX_FAILED: Final = 0.01  # of the users; a bundle with which more cannot be learned is not activated


class UnlearnableError(ValueError):
    """Too many users cannot be learned for a bundle."""


class PoliteReader(BatchedReader):
    """Reads texts in small batches, each when no request waits for the encoder that serves.

    Args:
        extractor: Gives keys.
        batcher: Encodes.
        loop: The event loop that it belongs to.
        is_busy: Whether requests wait.
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
        """As `BatchedReader.extract`."""
        parts = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            patience = time.monotonic() + _YIELD_SECONDS
            while self._is_busy() and time.monotonic() < patience:
                time.sleep(0.002)  # a thread of its own: nobody waits for this
            some = slice(start, start + _TEXTS_AT_ONCE)
            parts.append(super().extract(texts[some], None if prompts is None else prompts[some]))
        return Features(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.truncated for part in parts]),
        )


class Preparation:
    """Learns every user for one bundle, and tells the store how far it is.

    Args:
        model: Holds the bundle.
        builder: What all models share.
        is_busy: Whether requests wait for the encoder that serves.
    """

    def __init__(self, model: ServedModel, builder: ModelBuilder, is_busy: Callable[[], bool]) -> None:
        reader = PoliteReader(model.source.extractor, model.source.batcher, builder.loop, is_busy)
        self._replayer = builder.replayer(model.fold, model.cache, reader)
        self._version = model.bundle.version
        self._builder = builder
        self._told = 0.0
        self._stopped = False

    def stop(self) -> None:
        """Ends it after the user that it is at. Any thread may call this."""
        self._stopped = True
        self._replayer.stop()

    def run(self) -> bool:
        """Does it, in the caller's thread; returns False where it was stopped, or the bundle is not wanted any more.

        Raises:
            UnlearnableError: With the numbers.
        """
        telemetry = self._builder.telemetry
        try:
            for number in range(_ROUNDS):
                done, failed = self._replayer.warm(
                    self._tell if number == 0 else lambda _done, _total: None, politely=True
                )
                if self._stopped:
                    return False
                if failed > max(1, _MAX_FAILED * done):
                    raise UnlearnableError(f"{failed} of {done} users cannot be learned for it")
                if done <= _FEW_USERS:
                    break
        finally:
            telemetry.upgrade_users.set(0)
            telemetry.upgrade_users_done.set(0)
        return True

    def _tell(self, done: int, total: int) -> None:
        if done not in (0, total) and time.monotonic() - self._told < _TOLD_SECONDS:
            return
        self._told = time.monotonic()
        builder = self._builder
        builder.telemetry.upgrade_users.set(total)
        builder.telemetry.upgrade_users_done.set(done)
        with builder.store.writing() as connection:
            now = builder.store.clock()
            wanted = bundles.record_progress(connection, self._version, done=done, total=total, now=now)
        if not wanted:
            self.stop()
