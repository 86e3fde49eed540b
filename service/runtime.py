"""Everything that lives as long as the server, built in one place and shut down in the reverse order."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle, BundleError
from penchant.models.encoder import EncoderError, load_encoder
from penchant.models.features import FeatureExtractor
from penchant.service.access import Access, build_access
from penchant.service.batching import MicroBatcher
from penchant.service.commits import Commits
from penchant.service.current_states import UserStates
from penchant.service.describer import Describer
from penchant.service.explaining import Explainer
from penchant.service.feature_cache import FeatureCache
from penchant.service.featurizer import Featurizer
from penchant.service.feed import Feed
from penchant.service.fold import Fold
from penchant.service.forgetting import Forgetting
from penchant.service.learning import Learner
from penchant.service.ledger import Ledger
from penchant.service.memories import KIND as FORGET
from penchant.service.memories import Memories
from penchant.service.rankings import Rankings
from penchant.service.rebuild import BatchedReader, Replayer
from penchant.service.retention import Retention
from penchant.service.scoring import Scorer
from penchant.service.settings import Settings
from penchant.service.states import StateCache
from penchant.service.store.database import Database
from penchant.service.telemetry import Telemetry, log
from penchant.service.trust import TrustPolicy
from penchant.service.user_data import UserData
from penchant.service.writer import Writer

_HOUR: Final = 3600.0
_WARM_UP: Final = ("A first text, so that the first request does not pay for it.", "Another.")


class StartError(RuntimeError):
    """The server cannot start, for a reason that its operator can change."""


def load_bundle(settings: Settings) -> Bundle:
    """The bundle that the settings name.

    Raises:
        StartError: It is missing or damaged.
    """
    try:
        return Bundle.load(settings.bundle or DEFAULT_BUNDLE)
    except BundleError as error:
        raise StartError(f"The bundle cannot be loaded: {error}") from error


def load_extractor(settings: Settings, bundle: Bundle) -> FeatureExtractor:
    """The feature extractor that the bundle was fitted with.

    Raises:
        StartError: The encoder is missing, or is another one.
    """
    card = bundle.manifest.encoder
    try:
        encoder = load_encoder(
            settings.encoder or card.name,
            pooling="last" if card.pooling == "last" else "mean",
            max_tokens=card.max_tokens,
            joint=card.joint,
            device=settings.encoder_device,
        )
    except EncoderError as error:
        raise StartError(f"The encoder cannot be loaded: {error}") from error
    return FeatureExtractor(encoder)


def check_match(bundle: Bundle, extractor: FeatureExtractor) -> None:
    """Refuses features that the bundle was not fitted on.

    Raises:
        StartError: They differ.
    """
    if extractor.identity != bundle.manifest.encoder.features:
        raise StartError(
            f"The bundle {bundle.manifest.name} was fitted with the encoder {bundle.manifest.encoder.name} "
            f"({bundle.manifest.encoder.features}); the loaded one is another ({extractor.identity})."
        )


@dataclass(frozen=True)
class Runtime:
    """The living parts of a server."""

    settings: Settings
    telemetry: Telemetry
    bundle: Bundle
    extractor: FeatureExtractor
    database: Database
    feed: Feed
    access: Access
    readers: ThreadPoolExecutor
    replayer: Replayer
    batcher: MicroBatcher
    writer: Writer
    states: UserStates
    scorer: Scorer
    learner: Learner
    user_data: UserData
    explainer: Explainer
    clock: Callable[[], float]
    started_at: float

    async def stop(self) -> None:
        """Finishes what was accepted: texts are encoded, feedback and rankings written."""
        await asyncio.to_thread(self.replayer.stop)
        await self.batcher.stop()
        await self.writer.stop()
        await asyncio.to_thread(self.feed.stop)
        self.readers.shutdown()
        self.database.close()
        log.info("stopped")


async def start(
    settings: Settings,
    telemetry: Telemetry,
    bundle: Bundle,
    extractor: FeatureExtractor,
    clock: Callable[[], float] = time.time,
) -> Runtime:
    """Opens the store, brings it up to date, warms the encoder, and starts the owner threads.

    Raises:
        StartError: Bundle and encoder do not fit.
        StoreError: The data folder cannot be used.
    """
    check_match(bundle, extractor)
    extractor.extract(_WARM_UP, [""] * len(_WARM_UP))
    database = Database.open(settings)
    try:
        telemetry.salt = database.salt()
    except BaseException:
        database.close()
        raise
    feed = Feed(database, settings.change_poll_seconds, clock)
    access = build_access(settings, database, clock)
    access.follow(feed)
    readers = ThreadPoolExecutor(settings.store_readers, thread_name_prefix="penchant-reader")
    batcher = MicroBatcher(extractor, settings, telemetry)
    state_cache = StateCache(settings.max_cached_users)
    forgetting = Forgetting(settings.forgetting_half_life_days)
    fold = Fold(bundle.reward, forgetting, bundle.version, extractor.identity)
    replayer = Replayer(
        database=database,
        fold=fold,
        reader=BatchedReader(extractor, batcher, asyncio.get_running_loop()),
        cache=state_cache,
        telemetry=telemetry,
    )
    states = UserStates(
        cache=state_cache,
        database=database,
        readers=readers,
        replayer=replayer,
        fold=fold,
        clock=clock,
    )
    policy = TrustPolicy(
        settings.max_daily_information, settings.burst_events, settings.sustained_events_per_minute
    )
    ledger = Ledger(fold, state_cache, settings.idempotency_ttl_hours * _HOUR, policy)
    commits = Commits(
        database=database,
        ledger=ledger,
        cache=state_cache,
        settings=settings,
        telemetry=telemetry,
        clock=clock,
        left_behind=replayer.refresh,
    )
    writer = Writer(commits, settings, telemetry)
    feature_cache = FeatureCache(settings.feature_cache_bytes)
    featurizer = Featurizer(
        extractor=extractor,
        batcher=batcher,
        cache=feature_cache,
        database=database,
        readers=readers,
        telemetry=telemetry,
    )
    rankings = Rankings(
        max_bytes=settings.ranking_cache_bytes,
        ttl_seconds=settings.rank_ttl_hours * _HOUR,
        clock=clock,
        write=writer.write_ranking,
        keeps_texts=lambda tenant: access.tenancy.of(tenant).keep_texts,
        database=database,
        readers=readers,
    )
    describer = Describer(bundle.reward, featurizer, settings.item_cache_bytes)
    scorer = Scorer(bundle, describer, states, rankings, telemetry)
    learner = Learner(
        settings=settings,
        featurizer=featurizer,
        rankings=rankings,
        writer=writer,
        states=states,
        quotas=access.quotas,
        tenancy=access.tenancy,
        database=database,
        readers=readers,
        telemetry=telemetry,
        clock=clock,
    )
    memories = Memories(
        loop=asyncio.get_running_loop(),
        states=state_cache,
        features=feature_cache,
        describer=describer,
        rankings=rankings,
        telemetry=telemetry,
    )
    feed.subscribe(FORGET, memories.hear)
    user_data = UserData(
        writer=writer,
        database=database,
        memories=memories,
        rankings=rankings,
        states=state_cache,
        fold=fold,
        extractor=extractor,
        telemetry=telemetry,
        clock=clock,
    )
    commits.retention = Retention(
        tenancy=access.tenancy,
        states=state_cache,
        memories=memories,
        start=fold.start,
        shared=database.shared,
        telemetry=telemetry,
    )
    batcher.start()
    writer.start()
    feed.start()
    access.load()
    replayer.start()
    log.info("ready", bundle=bundle.version, database=database.name)
    return Runtime(
        settings,
        telemetry,
        bundle,
        extractor,
        database,
        feed,
        access,
        readers,
        replayer,
        batcher,
        writer,
        states,
        scorer,
        learner,
        user_data,
        Explainer(bundle.reward, extractor.identity, database),
        clock,
        clock(),
    )
