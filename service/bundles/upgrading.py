"""From one bundle to the next while answers keep coming.

the store names a bundle → each server loads it beside its own → one of them learns every user for it → one row
says that it ranks → each server switches, between two groups of its writer, and lets the old one go

A thread of its own looks when something was told, and while something is to be done. What was interrupted goes on after
the next start: states that were learned are in the store. And what was never done harms nobody, for whoever asks for a
state that is behind the log catches up by itself.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from penchant.models.bundle import Bundle, BundleError
from penchant.models.encoding.features import FeatureExtractor
from penchant.service.bundles.loading import StartError, check_match, warm_up
from penchant.service.bundles.preparing import Preparation, UnlearnableError
from penchant.service.bundles.served_model import ModelBuilder, Models, ServedModel
from penchant.service.bundles.stored_bundles import stored
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.feed import Feed
from penchant.service.feedback.writer import Writer
from penchant.service.store import activations, bundles
from penchant.service.store.activations import CHANGE
from penchant.service.telemetry.metrics import log, log_failure

_RETRY_SECONDS: Final = 30.0
Answer = TypeVar("Answer")


@dataclass
class Upgrades:
    """Follows the bundles that the store names.

    Attributes:
        models: The models that this server holds.
        builder: Builds more.
        writer: Switches between them.
        extractor_of: Loads the extractor that a bundle needs. Slow.
        is_pinned: Whether this server ranks with one bundle, whatever the store says.
    """

    models: Models
    builder: ModelBuilder
    writer: Writer
    extractor_of: Callable[[Bundle], FeatureExtractor]
    is_pinned: bool
    _coming: ServedModel | None = None
    _going: list[tuple[ServedModel, float]] = field(default_factory=list)
    _learning: Preparation | None = None
    _woken: threading.Event = field(default_factory=threading.Event)
    _end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._own, name="penchant-upgrade", daemon=True)

    def follow(self, feed: Feed) -> None:
        """Has changes heard."""
        feed.subscribe(CHANGE, lambda _: self._woken.set())

    def start(self) -> None:
        """Starts to look."""
        self._show()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the user that it is at."""
        self._end.set()
        self._woken.set()
        learning = self._learning  # the thread may set it to None at any moment
        if learning is not None:
            learning.stop()
        if self._thread.ident is not None:
            self._thread.join()

    # On the thread

    def _own(self) -> None:
        while not self._end.is_set():
            self._woken.clear()
            try:
                pause = self._look()
            except Exception as error:
                log_failure("upgrade_failed", error)
                pause = _RETRY_SECONDS
            self._let_go()
            ends = [until - time.monotonic() for _, until in self._going]
            pauses = ends if pause is None else [*ends, pause]
            self._woken.wait(max(0.0, min(pauses)) if pauses else None)

    def _look(self) -> float | None:
        """Does what the store asks for; returns after how many seconds to look again, None: when something is told."""
        with self.builder.store.reading() as connection:
            active, wanted = activations.active(connection), bundles.preparing(connection)
        current = self.models.current.bundle.version
        if self.is_pinned:
            if wanted is not None or active != current:
                log.warning("bundle_is_pinned", bundle=current, active=active, preparing=wanted)
            return None
        if active is not None and active != current:
            self._switch(self._loaded(active))
        if wanted is None:
            self._forget_coming()
            return None
        try:
            model = self._loaded(wanted)
        except (BundleError, StartError) as error:
            self._give_up(wanted, str(error))
            return None
        with bundles.alone_to_prepare(self.builder.store) as mine:
            if not mine or not self._prepare(model):
                return self.builder.settings.change_poll_seconds  # the other may end before it has done it
        return 0.0

    def _loaded(self, version: str) -> ServedModel:
        """A model with this bundle, beside the one that ranks.

        Raises:
            BundleError: It is missing or damaged.
            StartError: Its encoder is.
        """
        if self._coming is not None and self._coming.bundle.version == version:
            return self._coming
        self._forget_coming()
        with self.builder.store.reading() as connection:
            bundle = stored(connection, version)
        features = bundle.manifest.encoder.features
        source = next((s for s in self.models.sources if s.extractor.identity == features), None)
        if source is None:
            extractor = self.extractor_of(bundle)
            check_match(bundle, extractor)
            warm_up(extractor)
            source = self.builder.source(extractor)
            self._on_loop(_started(source.batcher))
        model = self.builder.model(bundle, source)
        self.models.add(model)
        self._coming = model
        log.info("bundle_loaded", bundle=version)
        return model

    def _prepare(self, model: ServedModel) -> bool:
        """Learns every user for a bundle, then has it rank; False where it was interrupted, or is not wanted now."""
        version, builder = model.bundle.version, self.builder
        self._learning = Preparation(model, builder, lambda: self.models.current.source.batcher.is_busy)
        try:
            if self._end.is_set() or not self._learning.run():
                return False
        except UnlearnableError as error:
            return self._give_up(version, str(error))
        finally:
            self._learning = None
        with builder.store.writing() as connection:
            return bundles.activate_prepared(connection, version, now=builder.store.clock())

    def _switch(self, model: ServedModel) -> None:
        """From here on every new request is answered by this model; those under way end with the old one."""
        old = self.models.current
        self._coming = None
        self._on_loop(self.writer.between(lambda: self.models.switch(model)))
        model.replayer.start()
        until = time.monotonic() + self.builder.settings.request_timeout_seconds
        self._going.append((old, until))
        self._show()
        log.info("bundle_switched", bundle=model.bundle.version, before=old.bundle.version)

    def _let_go(self) -> None:
        """Frees models that no request can hold any more."""
        now = time.monotonic()
        done, self._going = (
            [model for model, until in self._going if until <= now],
            [(model, until) for model, until in self._going if until > now],
        )
        for model in done:
            self._free(model)

    def _forget_coming(self) -> None:
        model, self._coming = self._coming, None
        if model is not None:
            self._free(model)

    def _free(self, model: ServedModel) -> None:
        self.models.remove(model)
        model.replayer.stop()
        if model.source not in self.models.sources:
            self._on_loop(model.source.batcher.stop())  # once what waits there is encoded
        log.info("bundle_freed", bundle=model.bundle.version)

    def _give_up(self, version: str, why: str) -> bool:
        """The bundle is not activated, anywhere; False."""
        log.error("upgrade_given_up", bundle=version, message=why)
        with self.builder.store.writing() as connection:
            bundles.fail(connection, version, why, now=self.builder.store.clock())
        return False

    def _show(self) -> None:
        bundle = self.models.current.bundle
        self.builder.telemetry.set_bundle(bundle.manifest.name, bundle.version)

    def _on_loop(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self.builder.loop).result()


async def _started(batcher: MicroBatcher) -> None:
    batcher.start()
