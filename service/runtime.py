"""The parts that live as long as the server, built in one place and stopped in reverse order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.service.access.access import Access, build_access
from penchant.service.bundles.loading import check_match, warm_up
from penchant.service.bundles.served_model import ModelBuilder, Models
from penchant.service.bundles.signal import find_signal, load_relevance_model
from penchant.service.bundles.stored_bundles import load_first_bundle
from penchant.service.bundles.upgrading import OutdatedBundles, Upgrades
from penchant.service.encoding.relevance import RelevanceScorer
from penchant.service.feed import Feed
from penchant.service.feedback.commits import Commits
from penchant.service.feedback.expiry import Expiry, RankingQuota
from penchant.service.feedback.learner import Learner
from penchant.service.feedback.writer import Writer
from penchant.service.privacy.exports import Exports
from penchant.service.privacy.invalidation import CHANGE as FORGET
from penchant.service.privacy.invalidation import CacheInvalidator, Deletion
from penchant.service.privacy.retention import Retention
from penchant.service.privacy.unfinished import UnfinishedChanges
from penchant.service.privacy.user_data import UserData
from penchant.service.ranking.rankings import Rankings
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.store.probe import ReadProbe
from penchant.service.telemetry.metrics import Telemetry, log

_HOUR: Final = 3600.0
StopPart = Callable[[float], Awaitable[bool]]


@dataclass(frozen=True)
class Runtime:
    """The parts of a running server."""

    settings: Settings
    telemetry: Telemetry
    store: Store
    read_probe: ReadProbe
    feed: Feed
    access: Access
    writer: Writer
    models: Models
    relevance: RelevanceScorer | None
    upgrades: Upgrades
    learner: Learner
    user_data: UserData
    exports: Exports
    started_at: float

    async def stop(self, seconds: float) -> None:
        """Stop all parts after they have finished the work that was accepted.

        Args:
            seconds: Longest time that this may take. Each part gets half of what is left.
        """
        deadline, late = time.monotonic() + seconds, []
        for name, stop in self._list_parts():
            if not await stop(max(0.0, deadline - time.monotonic()) / 2):
                late.append(name)
        if late:
            log.error("stopped_incompletely", parts=late)
        else:
            log.info("stopped")

    def _list_parts(self) -> Iterator[tuple[str, StopPart]]:
        """Yield each part's name and the function that stops it, in the order in which they must stop."""
        yield "upgrades", partial(asyncio.to_thread, self.upgrades.stop)
        for model in self.models.held:
            yield "replayer", partial(asyncio.to_thread, model.replayer.stop)
        for source in self.models.sources:
            yield "encoder", source.batcher.stop
        if self.relevance is not None:
            yield "relevance", self.relevance.batcher.stop
        yield "writer", self.writer.stop
        yield "feed", partial(asyncio.to_thread, self.feed.stop)
        yield "store", partial(asyncio.to_thread, self.store.close)

    def find_fatal_faults(self) -> dict[str, str]:
        """Return the parts that only a restart can mend, with their faults."""
        faults = {
            "encoder": self.models.current.source.batcher.find_fault(),
            "relevance": None if self.relevance is None else self.relevance.batcher.find_fault(),
            "store": self.writer.find_fatal_fault(),
        }
        return {part: fault for part, fault in faults.items() if fault is not None}


async def start(
    settings: Settings,
    telemetry: Telemetry,
    extractor_of: Callable[[Bundle], FeatureExtractor],
    *,
    pinned: Bundle | None = None,
    shipped: Bundle | None = None,
    clock: Callable[[], float] = time.time,
    store: Store | None = None,
) -> Runtime:
    """Open and migrate the store, load the bundle, warm up the encoder, and start all threads.

    Args:
        settings: Settings of the server.
        telemetry: Metrics and traces.
        extractor_of: Function that loads the extractor that a bundle needs.
        pinned: Bundle to rank with, regardless of the store.
        shipped: Bundle to rank with if neither settings nor store name one. By default the shipped one.
        clock: Function that returns the time in Unix seconds.
        store: The store, if it is open already. It is closed if the start fails, and when the runtime stops.

    Raises:
        StartError: If the bundle cannot be loaded, or does not fit its encoder, or if the relevance model cannot be
            loaded, or does not fit the bundle.
        StoreError: If the store cannot be used.
        SQLAlchemyError: If the store fails meanwhile.
    """
    store = store or Store.open(settings, clock=clock)
    try:
        telemetry.salt = store.salt()
        with store.reading() as connection:
            store.expiry_clock.now(connection)  # before anything can expire
        bundle = load_first_bundle(store, settings, pinned=pinned, shipped=shipped)
        extractor = extractor_of(bundle)
        check_match(bundle, extractor)
        warm_up(extractor)
        signal = find_signal(settings)
        if signal is not None:
            signal.add_to(bundle)  # before the cross-encoder is loaded for nothing
        cross_encoder = load_relevance_model(settings)
    except BaseException:
        store.close()
        raise
    feed = Feed(store, settings.change_poll_seconds)
    access = build_access(settings, store)
    access.subscribe(feed)
    loop = asyncio.get_running_loop()
    models = Models()

    def invalidate(deletion: Deletion, user: str | None) -> None:
        # The invalidator is built below, because it needs the writer, whose chores call this function.
        invalidator.invalidate(deletion, user)

    retention = Retention(
        tenancy=access.tenancy,
        models=models,
        invalidate=invalidate,
        shared=store.shared,
        telemetry=telemetry,
    )
    unfinished = UnfinishedChanges(models=models, store=store, invalidate=invalidate, telemetry=telemetry)
    commits = Commits(
        store=store,
        models=models,
        chores=(unfinished, Expiry(settings, telemetry), retention, OutdatedBundles(models)),
        quota=RankingQuota(access.tenancy, store, telemetry),
        settings=settings,
        telemetry=telemetry,
    )
    writer = Writer(commits, settings, telemetry)
    rankings = Rankings(
        max_bytes=settings.ranking_cache_bytes,
        ttl_seconds=settings.rank_ttl_hours * _HOUR,
        write=writer.write_ranking,
        tenancy=access.tenancy,
        store=store,
    )
    relevance = None if cross_encoder is None else RelevanceScorer(cross_encoder, settings, telemetry)
    builder = ModelBuilder(settings, telemetry, store, rankings, loop, signal, relevance)
    model = builder.build_model(bundle, builder.build_source(extractor))
    models.add(model)
    upgrades = Upgrades(
        models=models,
        builder=builder,
        writer=writer,
        extractor_of=extractor_of,
        is_pinned=pinned is not None or settings.bundle is not None,
    )
    upgrades.follow(feed)
    learner = Learner(
        settings=settings,
        rankings=rankings,
        writer=writer,
        quotas=access.quotas,
        tenancy=access.tenancy,
        store=store,
        telemetry=telemetry,
    )
    invalidator = CacheInvalidator(
        loop=loop,
        models=models,
        relevance=relevance,
        rankings=rankings,
        erase=writer.erase_rankings,
        telemetry=telemetry,
    )
    feed.subscribe(FORGET, invalidator.handle)
    user_data = UserData(writer=writer, unfinished=unfinished, rankings=rankings)
    model.source.batcher.start()
    if relevance is not None:
        relevance.batcher.start()
    writer.start()
    feed.start()
    access.load()
    model.replayer.start()
    upgrades.start()
    log.info("ready", bundle=bundle.version, database=store.name)
    return Runtime(
        settings=settings,
        telemetry=telemetry,
        store=store,
        read_probe=ReadProbe(store),
        feed=feed,
        access=access,
        writer=writer,
        models=models,
        relevance=relevance,
        upgrades=upgrades,
        learner=learner,
        user_data=user_data,
        exports=Exports(store, models, settings.max_exports),
        started_at=store.clock(),
    )
