"""Everything that lives as long as the server, built in one place and shut down in the reverse order."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.service.access.access import Access, build_access
from penchant.service.bundles.leftovers import Leftovers
from penchant.service.bundles.loading import check_match, warm_up
from penchant.service.bundles.served_model import ModelBuilder, Models
from penchant.service.bundles.stored_bundles import bundle_at_start
from penchant.service.bundles.upgrading import Upgrades
from penchant.service.feed import Feed
from penchant.service.feedback.commits import Commits
from penchant.service.feedback.learner import Learner
from penchant.service.feedback.writer import Writer
from penchant.service.privacy.forgotten import KIND as FORGET
from penchant.service.privacy.forgotten import Forgotten, Memories
from penchant.service.privacy.retention import Retention
from penchant.service.privacy.user_data import UserData
from penchant.service.ranking.rankings import Rankings
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.telemetry.metrics import Telemetry, log

_HOUR: Final = 3600.0


@dataclass(frozen=True)
class Runtime:
    """The living parts of a server."""

    settings: Settings
    telemetry: Telemetry
    store: Store
    feed: Feed
    access: Access
    writer: Writer
    models: Models
    upgrades: Upgrades
    learner: Learner
    user_data: UserData
    started_at: float

    async def stop(self) -> None:
        """Finishes what was accepted: texts are encoded, feedback and rankings written."""
        await asyncio.to_thread(self.upgrades.stop)
        for model in self.models.held:
            await asyncio.to_thread(model.replayer.stop)
        for source in self.models.sources:
            await source.batcher.stop()
        await self.writer.stop()
        await asyncio.to_thread(self.feed.stop)
        self.store.close()
        log.info("stopped")


async def start(
    settings: Settings,
    telemetry: Telemetry,
    extractor_of: Callable[[Bundle], FeatureExtractor],
    *,
    pinned: Bundle | None = None,
    shipped: Bundle | None = None,
    clock: Callable[[], float] = time.time,
) -> Runtime:
    """Opens the store, brings it up to date, warms the encoder, and starts the owner threads.

    Args:
        settings: Everything configurable.
        telemetry: Metrics and traces.
        extractor_of: Loads the extractor that a bundle needs.
        pinned: The bundle to rank with, whatever the store says.
        shipped: The bundle to rank with where neither settings nor store name one, in place of the shipped one.
        clock: Unix seconds.

    Raises:
        StartError: The bundle cannot be loaded, or does not fit its encoder.
        StoreError: The data folder cannot be used.
    """
    store = Store.open(settings, clock=clock)
    try:
        telemetry.salt = store.salt()
        bundle = bundle_at_start(store, settings, pinned=pinned, shipped=shipped)
        extractor = extractor_of(bundle)
        check_match(bundle, extractor)
        warm_up(extractor)
    except BaseException:
        store.close()
        raise
    feed = Feed(store, settings.change_poll_seconds)
    access = build_access(settings, store)
    access.subscribe(feed)
    loop = asyncio.get_running_loop()
    models = Models()

    def forget(forgotten: Forgotten) -> None:
        # The memories are made below: they need the writer, and the writer has this among its chores.
        memories.forget(forgotten)

    retention = Retention(
        tenancy=access.tenancy,
        models=models,
        forget=forget,
        shared=store.shared,
        telemetry=telemetry,
    )
    commits = Commits(
        store=store,
        models=models,
        chores=(retention, Leftovers(models)),
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
    builder = ModelBuilder(settings, telemetry, store, rankings, loop)
    model = builder.model(bundle, builder.source(extractor))
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
    memories = Memories(
        loop=loop,
        models=models,
        rankings=rankings,
        erase=writer.erase_rankings,
        telemetry=telemetry,
    )
    feed.subscribe(FORGET, memories.hear)
    user_data = UserData(
        writer=writer,
        store=store,
        memories=memories,
        rankings=rankings,
        models=models,
        telemetry=telemetry,
    )
    model.source.batcher.start()
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
        feed=feed,
        access=access,
        writer=writer,
        models=models,
        upgrades=upgrades,
        learner=learner,
        user_data=user_data,
        started_at=store.clock(),
    )
