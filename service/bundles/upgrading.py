"""Switching from one bundle to the next while requests are served.

the store names a bundle → each server loads it beside its own → one server learns every user for it → an activation is
recorded → each server switches, between two groups of its writer, and frees the old model

A thread checks the store whenever the feed reports a change, and while there is work. Interrupted work continues after
the next start, because learned states are saved in the store. A user who was not learned in advance is caught up by the
first request that needs the user's state.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from penchant.models.bundle import Bundle, BundleError
from penchant.models.encoding.features import FeatureExtractor
from penchant.service.bundles.loading import check_match, warm_up
from penchant.service.bundles.preparing import Preparation, UnlearnableError
from penchant.service.bundles.served_model import ModelBuilder, Models, ServedModel
from penchant.service.bundles.stored_bundles import load_stored_bundle
from penchant.service.claims import StartError
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.feed import Feed
from penchant.service.feedback.chores import Transact
from penchant.service.feedback.writer import Writer
from penchant.service.store import activations, bundles
from penchant.service.store.activations import CHANGE
from penchant.service.store.bundles import UserKey
from penchant.service.telemetry.metrics import log, log_failure

_RETRY_SECONDS: Final = 30.0
Answer = TypeVar("Answer")


@dataclass
class Upgrades:
    """Loads, prepares and activates the bundles that the store names.

    Attributes:
        models: Models of this server.
        builder: Builder of further models.
        writer: Writer, on whose thread models are switched.
        extractor_of: Function that loads the extractor that a bundle needs. It is slow.
        is_pinned: Whether this server ranks with one bundle, regardless of the store.
    """

    models: Models
    builder: ModelBuilder
    writer: Writer
    extractor_of: Callable[[Bundle], FeatureExtractor]
    is_pinned: bool
    _next: ServedModel | None = None
    _retired: list[tuple[ServedModel, float]] = field(default_factory=list)
    _preparation: Preparation | None = None
    _wake: threading.Event = field(default_factory=threading.Event)
    _end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="penchant-upgrade", daemon=True)

    def follow(self, feed: Feed) -> None:
        """Subscribe to changes of bundles."""
        feed.subscribe(CHANGE, lambda _: self._wake.set())

    def start(self) -> None:
        """Start the thread."""
        self._report_bundle()
        self._thread.start()

    def stop(self, seconds: float | None = None) -> bool:
        """Stop the thread after the user that it is learning.

        Args:
            seconds: Longest wait. None: as long as it takes.

        Returns:
            Whether the thread has ended.
        """
        self._end.set()
        self._wake.set()
        preparation = self._preparation  # the thread may set it to None at any moment
        if preparation is not None:
            preparation.stop()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    # On the thread

    def _run(self) -> None:
        while not self._end.is_set():
            self._wake.clear()
            try:
                pause = self._check_store()
            except Exception as error:
                log_failure("upgrade_failed", error)
                pause = _RETRY_SECONDS
            self._free_retired()
            ends = [until - time.monotonic() for _, until in self._retired]
            pauses = ends if pause is None else [*ends, pause]
            self._wake.wait(max(0.0, min(pauses)) if pauses else None)

    def _check_store(self) -> float | None:
        """Do what the store asks for, and return the seconds until the next check. None waits for a change."""
        with self.builder.store.reading() as connection:
            active, wanted = activations.find_active(connection), bundles.find_preparing(connection)
        current = self.models.current.bundle.version
        if self.is_pinned:
            if wanted is not None or active != current:
                log.warning("bundle_is_pinned", bundle=current, active=active, preparing=wanted)
            return None
        if active is not None and active != current:
            self._switch(self._load(active))
        if wanted is None:
            self._discard_next()
            return None
        try:
            model = self._load(wanted)
        except (BundleError, StartError) as error:
            self._give_up(wanted, str(error))
            return None
        with bundles.preparation_lock(self.builder.store) as has_lock:
            if not has_lock or not self._prepare(model):
                return self.builder.settings.change_poll_seconds  # the other server may stop early
        return 0.0

    def _load(self, version: str) -> ServedModel:
        """Load a model with this bundle, beside the current one.

        Raises:
            BundleError: If the bundle is missing or damaged.
            StartError: If its encoder is missing or does not match, or if it cannot take the declared signal.
        """
        if self._next is not None and self._next.bundle.version == version:
            return self._next
        self._discard_next()
        with self.builder.store.reading() as connection:
            bundle = load_stored_bundle(connection, version)
        self.builder.check_bundle(bundle)
        features = bundle.manifest.encoder.features
        source = next(
            (source for source in self.models.sources if source.extractor.identity == features), None
        )
        if source is None:
            extractor = self.extractor_of(bundle)
            check_match(bundle, extractor)
            warm_up(extractor)
            source = self.builder.build_source(extractor)
            self._on_loop(_start(source.batcher))
        model = self.builder.build_model(bundle, source)
        self.models.add(model)
        self._next = model
        log.info("bundle_loaded", bundle=version)
        return model

    def _prepare(self, model: ServedModel) -> bool:
        """Learn every user for a bundle and activate it. Return False if this was interrupted or is no longer wanted."""
        version, builder = model.bundle.version, self.builder
        self._preparation = Preparation(model, builder, lambda: self.models.current.source.batcher.is_busy)
        try:
            if self._end.is_set() or not self._preparation.run():
                return False
        except UnlearnableError as error:
            return self._give_up(version, str(error))
        finally:
            self._preparation = None
        with builder.store.writing() as connection:
            return bundles.activate_prepared(connection, version, now=builder.store.clock())

    def _switch(self, model: ServedModel) -> None:
        """Answer every new request by this model. Requests under way end with the old one."""
        old = self.models.current
        self._next = None
        self._on_loop(self.writer.run_between_groups(lambda: self.models.switch(model)))
        model.replayer.start()
        until = time.monotonic() + self.builder.settings.request_timeout_seconds
        self._retired.append((old, until))
        self._report_bundle()
        log.info("bundle_switched", bundle=model.bundle.version, before=old.bundle.version)

    def _free_retired(self) -> None:
        """Free the models that no request can use any longer."""
        now = time.monotonic()
        unused = [model for model, until in self._retired if until <= now]
        self._retired = [(model, until) for model, until in self._retired if until > now]
        for model in unused:
            self._free(model)

    def _discard_next(self) -> None:
        model, self._next = self._next, None
        if model is not None:
            self._free(model)

    def _free(self, model: ServedModel) -> None:
        self.models.remove(model)
        model.replayer.stop()
        if model.source not in self.models.sources:
            self._on_loop(model.source.batcher.stop())  # after the waiting texts are encoded
        log.info("bundle_freed", bundle=model.bundle.version)

    def _give_up(self, version: str, why: str) -> bool:
        """Record that the bundle failed, so that no server activates it, and return False."""
        log.error("upgrade_given_up", bundle=version, message=why)
        with self.builder.store.writing() as connection:
            bundles.mark_failed(connection, version, why, now=self.builder.store.clock())
        return False

    def _report_bundle(self) -> None:
        bundle = self.models.current.bundle
        self.builder.telemetry.set_bundle(bundle.manifest.name, bundle.version)

    def _on_loop(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self.builder.loop).result()


class OutdatedBundles:
    """A chore of the writer's thread that deletes bundles which no longer rank, and what they had learned of users.

    Args:
        models: Models of this server. The current one's bundle is kept.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._after: UserKey | None = None

    def step(self, transact: Transact, now: float) -> bool:
        """Delete some users' states in one transaction, and return whether there may be more to delete.

        Args:
            transact: Function that runs work in a write transaction.
            now: Unix seconds.
        """
        after, keep = self._after or ("", ""), self._models.current.bundle.version
        self._after = transact(partial(bundles.drop_outdated, keep=keep, now=now, after=after))
        return self._after is not None


async def _start(batcher: MicroBatcher) -> None:
    batcher.start()
