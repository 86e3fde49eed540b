"""Everything that depends on a bundle, as one value. A request reads it once, so that it never mixes two bundles.

A server holds one model that ranks. During an upgrade it also holds the next one, and the last one until the requests
that began with it have ended.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.service.bundles.signal import Signal, build_fold
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.encoding.featurizer import FeatureCache, Featurizer
from penchant.service.encoding.relevance import RelevanceScorer
from penchant.service.feedback.ledger import Ledger
from penchant.service.feedback.trust import TrustPolicy
from penchant.service.ranking.describer import Describer
from penchant.service.ranking.explaining import Explainer
from penchant.service.ranking.rankings import Rankings
from penchant.service.ranking.scoring import Scorer
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.telemetry.metrics import Telemetry
from penchant.service.users.completion import TextExtractor
from penchant.service.users.current import UserStates
from penchant.service.users.fold import Fold
from penchant.service.users.replayer import BatchedExtractor, Replayer
from penchant.service.users.states import StateCache

_HOUR: Final = 3600.0


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """A source of features by one extractor, shared by all bundles that were fitted on these features.

    Attributes:
        extractor: Extractor, which defines keys and dimensions.
        batcher: Batcher that runs the extractor's encoder.
        cache: Features in memory.
    """

    extractor: FeatureExtractor
    batcher: MicroBatcher
    cache: FeatureCache


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A bundle and everything that depends on it.

    Attributes:
        bundle: The bundle, with the declared signal if there is one.
        source: Source of the features that the bundle reads.
        fold: Fold that computes a user's state from the log.
        cache: Users' states in memory.
        replayer: Thread that catches saved states up to the log while the model ranks.
        states: Current states of users.
        describer: Describer, which turns texts into items of the user model.
        scorer: Scorer, which ranks candidates.
        explainer: Explainer of users' preferences.
        ledger: Ledger, which logs feedback and learns from it.
        featurizer: Featurizer, which looks features up in the source or has them computed, and matches texts with
            prompts if the bundle reads prompts.
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
        current: Model that ranks and learns. It is set when the first model is added.
    """

    current: ServedModel

    def __init__(self) -> None:
        self._held: tuple[ServedModel, ...] = ()

    @property
    def held(self) -> tuple[ServedModel, ...]:
        """All models, the current one first."""
        return self._held

    @property
    def sources(self) -> tuple[FeatureSource, ...]:
        """Distinct feature sources of the models."""
        return tuple({id(model.source): model.source for model in self._held}.values())

    def add(self, model: ServedModel) -> None:
        """Add a model. The first one becomes current."""
        self._held = (*self._held, model)
        self.current = self._held[0]

    def switch(self, model: ServedModel) -> None:
        """Make a model current. Call this only between two groups of the writer, which publishes states to it."""
        self._held = (model, *(other for other in self._held if other is not model))
        self.current = model

    def remove(self, model: ServedModel) -> None:
        """Remove a model."""
        self._held = tuple(other for other in self._held if other is not model)


@dataclass(frozen=True)
class ModelBuilder:
    """Builds models from the parts that they share.

    Attributes:
        settings: Settings of the server.
        telemetry: Metrics and traces.
        store: The store.
        rankings: Cache of recent rankings.
        loop: Event loop of the server.
        signal: Declared signal. None without one.
        relevance: Source of the signal's scores. None without a signal.
    """

    settings: Settings
    telemetry: Telemetry
    store: Store
    rankings: Rankings
    loop: asyncio.AbstractEventLoop
    signal: Signal | None = None
    relevance: RelevanceScorer | None = None

    def check_bundle(self, bundle: Bundle) -> None:
        """Check that a bundle can take the declared signal.

        Raises:
            StartError: If a signal is declared and the bundle does not read prompts.
        """
        if self.signal is not None:
            self.signal.add_to(bundle)

    def build_source(self, extractor: FeatureExtractor) -> FeatureSource:
        """Build a feature source. The caller starts its batcher."""
        batcher = MicroBatcher(extractor, self.settings, self.telemetry)
        return FeatureSource(extractor, batcher, FeatureCache(self.settings.feature_cache_bytes))

    def build_model(self, bundle: Bundle, source: FeatureSource) -> ServedModel:
        """Build a model with empty caches. The caller starts its replayer when the model begins to rank.

        Raises:
            StartError: If a signal is declared and the bundle does not read prompts.
        """
        settings = self.settings
        if self.signal is not None:
            bundle = self.signal.add_to(bundle)
        cache = StateCache(settings.max_cached_users)
        fold = build_fold(bundle, settings, self.signal)
        replayer = self.build_replayer(
            fold, cache, BatchedExtractor(source.extractor, source.batcher, self.loop)
        )
        states = UserStates(
            cache=cache,
            store=self.store,
            replayer=replayer,
            fold=fold,
        )
        policy = TrustPolicy(
            settings.max_daily_information, settings.burst_events, settings.sustained_events_per_minute
        )
        # Bundles that share a source may differ in what they read of prompts.
        card = bundle.manifest.encoder
        extractor = FeatureExtractor(
            source.extractor.encoder,
            reads_prompts=card.reads_prompts,
            reads_prompt_embedding=card.prompt_embedding,
        )
        featurizer = Featurizer(
            extractor=extractor,
            batcher=source.batcher,
            cache=source.cache,
            store=self.store,
            telemetry=self.telemetry,
            relevance=self.relevance,
        )
        describer = Describer(bundle.reward, featurizer, settings.item_cache_bytes, self.telemetry)
        return ServedModel(
            bundle=bundle,
            source=source,
            fold=fold,
            cache=cache,
            replayer=replayer,
            states=states,
            describer=describer,
            scorer=Scorer(bundle, describer, states, self.rankings, self.telemetry),
            explainer=Explainer(bundle.reward, fold.extractor, fold.match_version, self.store),
            ledger=Ledger(
                fold, cache, settings.idempotency_ttl_hours * _HOUR, policy, self.store.expiry_clock.limit
            ),
            featurizer=featurizer,
        )

    def build_replayer(self, fold: Fold, cache: StateCache, extractor: TextExtractor) -> Replayer:
        """Build a replayer, which catches users up to their logs."""
        return Replayer(
            store=self.store, fold=fold, extractor=extractor, cache=cache, telemetry=self.telemetry
        )
