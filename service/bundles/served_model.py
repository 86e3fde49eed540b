"""Everything that a bundle determines, as one value: a request reads it once, and never sees two bundles mixed.

A server holds one model that ranks and, around an upgrade, others: on their way in, and on their way out while
requests that began with them end.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.encoding.featurizer import FeatureCache, Featurizer
from penchant.service.feedback.ledger import Ledger
from penchant.service.feedback.trust import TrustPolicy
from penchant.service.ranking.describer import Describer
from penchant.service.ranking.explaining import Explainer
from penchant.service.ranking.rankings import Rankings
from penchant.service.ranking.scoring import Scorer
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.telemetry.metrics import Telemetry
from penchant.service.users.catching_up import Reader
from penchant.service.users.current import UserStates
from penchant.service.users.fold import Fold
from penchant.service.users.replayer import BatchedReader, Replayer
from penchant.service.users.states import Forgetting, StateCache

_HOUR: Final = 3600.0


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """Features of texts by one extractor. Bundles that were fitted on the same features share it.

    Attributes:
        extractor: Gives keys and dimensions.
        batcher: Owns its encoder.
        cache: Features in memory.
        featurizer: Finds them, or has them computed.
    """

    extractor: FeatureExtractor
    batcher: MicroBatcher
    cache: FeatureCache
    featurizer: Featurizer


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A bundle, and all that is known by its means.

    Attributes:
        bundle: The bundle.
        source: Features that it reads.
        fold: What a state is.
        cache: States in memory.
        replayer: Brings saved states up to the log; runs while the model ranks.
        states: What is known of users.
        describer: Texts as it sees them.
        scorer: Ranks.
        explainer: Says why.
        ledger: Learns from feedback.
        featurizer: Finds the features of texts or has them computed; that of `source`.
    """

    bundle: Bundle
    source: FeatureSource
    fold: Fold
    cache: StateCache
    replayer: Replayer
    states: UserStates
    describer: Describer
    scorer: Scorer
    explainer: Explainer
    ledger: Ledger
    featurizer: Featurizer


class Models:
    """The models that a server holds. Any thread may read them.

    Attributes:
        current: The model that ranks and learns. Set as soon as a model was added.
    """

    current: ServedModel

    def __init__(self) -> None:
        self._held: tuple[ServedModel, ...] = ()

    @property
    def held(self) -> tuple[ServedModel, ...]:
        """All of them, the current one first."""
        return self._held

    @property
    def sources(self) -> tuple[FeatureSource, ...]:
        """Where they get features from, each once."""
        return tuple({id(model.source): model.source for model in self._held}.values())

    def add(self, model: ServedModel) -> None:
        """Hold another model. The first one is the current one."""
        self._held = (*self._held, model)
        self.current = self._held[0]

    def switch(self, model: ServedModel) -> None:
        """Makes another the current one. Only between two groups of the writer, who publishes states to it."""
        self._held = (model, *(other for other in self._held if other is not model))
        self.current = model

    def remove(self, model: ServedModel) -> None:
        """Holds it no more."""
        self._held = tuple(other for other in self._held if other is not model)


@dataclass(frozen=True)
class ModelBuilder:
    """Builds models from what all of them share.

    Attributes:
        settings: Bounds.
        telemetry: Counts and times.
        store: The store.
        rankings: Where answers are remembered.
        loop: The event loop.
    """

    settings: Settings
    telemetry: Telemetry
    store: Store
    rankings: Rankings
    loop: asyncio.AbstractEventLoop

    def source(self, extractor: FeatureExtractor) -> FeatureSource:
        """Features by one extractor; its batcher is to be started."""
        batcher = MicroBatcher(extractor, self.settings, self.telemetry)
        cache = FeatureCache(self.settings.feature_cache_bytes)
        featurizer = Featurizer(
            extractor=extractor,
            batcher=batcher,
            cache=cache,
            store=self.store,
            telemetry=self.telemetry,
        )
        return FeatureSource(extractor, batcher, cache, featurizer)

    def model(self, bundle: Bundle, source: FeatureSource) -> ServedModel:
        """A model with nothing in memory; its replayer is to be started when it begins to rank."""
        settings = self.settings
        cache = StateCache(settings.max_cached_users)
        forgetting = Forgetting(settings.forgetting_half_life_days)
        fold = Fold(bundle.reward, forgetting, bundle.version, source.extractor.identity)
        replayer = self.replayer(fold, cache, BatchedReader(source.extractor, source.batcher, self.loop))
        states = UserStates(
            cache=cache,
            store=self.store,
            replayer=replayer,
            fold=fold,
        )
        policy = TrustPolicy(
            settings.max_daily_information, settings.burst_events, settings.sustained_events_per_minute
        )
        describer = Describer(bundle.reward, source.featurizer, settings.item_cache_bytes, self.telemetry)
        return ServedModel(
            bundle=bundle,
            source=source,
            fold=fold,
            cache=cache,
            replayer=replayer,
            states=states,
            describer=describer,
            scorer=Scorer(bundle, describer, states, self.rankings, self.telemetry),
            explainer=Explainer(bundle.reward, source.extractor.identity, self.store),
            ledger=Ledger(fold, cache, settings.idempotency_ttl_hours * _HOUR, policy),
            featurizer=source.featurizer,
        )

    def replayer(self, fold: Fold, cache: StateCache, reader: Reader) -> Replayer:
        """What catches users up to their logs."""
        return Replayer(store=self.store, fold=fold, reader=reader, cache=cache, telemetry=self.telemetry)
