"""The hot path: candidates → features → the user's utilities → order.

rerank, score, best_of_n        one of three answers
└─ _judge                     who likes what
├─ Featurizer.features   cache | store | encoder
└─ UserStates.get        memory | store
"""

import time
from dataclasses import dataclass

from penchant.models.bundle import Bundle
from penchant.models.items import Items
from penchant.models.posterior import UserPosterior, Utility
from penchant.models.reward import item_key
from penchant.models.selection import order, probability_acceptable, probability_best, relevance
from penchant.service.dialects import Choice, Personal, Ranked, Task, truncation_warnings
from penchant.service.featurizer import FeatureBatch, Featurizer
from penchant.service.rankings import Rankings, new_rank_id
from penchant.service.states import UserStates
from penchant.service.telemetry import Telemetry, Timings


@dataclass(frozen=True)
class _Judged:
    """A task seen with a user's eyes."""

    items: Items
    posterior: UserPosterior
    utility: Utility
    personal: Personal
    features: FeatureBatch


class Scorer:
    """Ranks tasks for users.

    Args:
        bundle: The model.
        featurizer: Features of texts.
        states: What is known of users.
        rankings: Where answers are remembered for feedback.
        telemetry: Counts and times.
    """

    def __init__(
        self,
        bundle: Bundle,
        featurizer: Featurizer,
        states: UserStates,
        rankings: Rankings,
        telemetry: Telemetry,
    ) -> None:
        self.bundle = bundle
        self._reward = bundle.reward
        self._featurizer = featurizer
        self._states = states
        self._rankings = rankings
        self._telemetry = telemetry

    async def rank(
        self, tenant: str, user: str | None, task: Task, timings: Timings, *, by_utility: bool = False
    ) -> Ranked:
        """The task's texts by relevance, or by utility.

        Raises:
            ApiError: The encoder has no room, or failed.
        """
        judged = await self._judge(tenant, user, task, timings)
        started = time.perf_counter()
        probability = relevance(self._reward, judged.posterior, judged.items)
        mean, std = judged.utility.mean, judged.utility.std
        ranked = Ranked(
            rank_id=new_rank_id(),
            model=self.bundle.manifest.name,
            personal=judged.personal,
            mean=mean,
            std=std,
            probability=probability,
            order=order(mean if by_utility else probability),
            tokens=int(judged.features.tokens.sum()),
            warnings=truncation_warnings(
                task, judged.features.truncated, self._featurizer.extractor.encoder.max_tokens
            ),
        )
        timings.rank += time.perf_counter() - started
        self._finish(tenant, ranked.rank_id, user, task, timings)
        return ranked

    async def best_of_n(self, tenant: str, user: str | None, task: Task, timings: Timings) -> Choice:
        """The task's texts by mean utility, with the probabilities of being best and good enough.

        Raises:
            ApiError: The encoder has no room, or failed.
        """
        judged = await self._judge(tenant, user, task, timings)
        started = time.perf_counter()
        choice = Choice(
            rank_id=new_rank_id(),
            mean=judged.utility.mean,
            best=probability_best(self._reward, judged.posterior, judged.items),
            acceptable=probability_acceptable(self._reward, judged.posterior, judged.items),
            order=order(judged.utility.mean),
        )
        timings.rank += time.perf_counter() - started
        self._finish(tenant, choice.rank_id, user, task, timings)
        return choice

    async def _judge(self, tenant: str, user: str | None, task: Task, timings: Timings) -> _Judged:
        features = await self._featurizer.features(tenant, task.texts, task.prompts, timings)
        started = time.perf_counter()
        state = await self._states.get(tenant, user) if user is not None else None
        posterior = state.posterior if state is not None else self._states.prior
        personal = Personal(user, state.feedback_events if state else 0, state.version if state else 0)
        timings.posterior += time.perf_counter() - started
        started = time.perf_counter()
        keys = [item_key(prompt, text) for prompt, text in zip(task.prompts, task.texts, strict=True)]
        items = self._reward.describe(features.vectors, keys)
        utility = posterior.utility(items)
        timings.rank += time.perf_counter() - started
        return _Judged(items, posterior, utility, personal, features)

    def _finish(self, tenant: str, rank_id: str, user: str | None, task: Task, timings: Timings) -> None:
        self._rankings.remember(tenant, rank_id, user, task.prompts, task.texts)
        self._telemetry.ranked_texts.inc(len(task.texts))
        self._telemetry.observe(timings)
