"""The hot path: candidates → items → the user's utilities → order.

rank, best_of_n                 one of two answers
  ├─ _judge                     who likes what
  │    ├─ Describer.describe    memory | Featurizer.features (cache | store | encoder) → RewardModel.describe
  │    └─ UserStates.get        memory | store
  └─ _explain                   where asked for: why
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.bundle import Bundle
from penchant.models.items import Items
from penchant.models.posterior import UserPosterior, Utility
from penchant.models.reward import RewardModel
from penchant.models.selection import (
    NonFiniteScoreError,
    order,
    probability_acceptable,
    probability_best,
    relevance,
)
from penchant.service.current_states import UserStates
from penchant.service.describer import Described, Describer
from penchant.service.dialect_answers import Choice, Explanations, Personal, Ranked, truncation_warnings
from penchant.service.dialects import Task
from penchant.service.explaining import explanations
from penchant.service.rankings import Rankings, new_rank_id
from penchant.service.telemetry import Telemetry, Timings

INLINE_TEXTS: Final = 64
"""Up to so many candidates the mathematics is done on the event loop: handing it to a thread would take longer."""

Probability = Callable[[RewardModel, UserPosterior, Items], NDArray[np.float64]]


@dataclass(frozen=True)
class _Judged:
    """A task seen with a user's eyes."""

    described: Described
    posterior: UserPosterior
    utility: Utility
    personal: Personal


class Scorer:
    """Ranks tasks for users.

    Args:
        bundle: The model.
        describer: Texts as the user model sees them.
        states: What is known of users.
        rankings: Where answers are remembered for feedback.
        telemetry: Counts and times.
    """

    def __init__(
        self,
        bundle: Bundle,
        describer: Describer,
        states: UserStates,
        rankings: Rankings,
        telemetry: Telemetry,
    ) -> None:
        self.bundle = bundle
        self._reward = bundle.reward
        self._describer = describer
        self._states = states
        self._rankings = rankings
        self._telemetry = telemetry

    async def rank(
        self,
        tenant: str,
        user: str | None,
        task: Task,
        timings: Timings,
        *,
        by_utility: bool = False,
        explain: int = 0,
    ) -> Ranked:
        """The task's texts by relevance, or by utility; the first `explain` of that order with an explanation.

        Raises:
            ApiError: The encoder has no room, or failed; or the bundle cannot be explained.
        """
        with self._telemetry.tracing.span("rank", texts=len(task.texts)):
            judged = await self._judge(tenant, user, task, timings)
            started = time.perf_counter()
            probability = await self._off_loop(relevance, judged)
            mean, std = judged.utility.mean, judged.utility.std
            best_first = order(mean if by_utility else probability)
            timings.rank += time.perf_counter() - started
            ranked = Ranked(
                rank_id=new_rank_id(),
                model=self.bundle.manifest.name,
                personal=judged.personal,
                mean=mean,
                std=std,
                probability=probability,
                order=best_first,
                tokens=judged.described.tokens,
                warnings=truncation_warnings(
                    task, judged.described.truncated, self._describer.featurizer.extractor.encoder.max_tokens
                ),
                explanations=await self._explain(
                    tenant, task, judged, best_first[:explain].tolist(), timings
                ),
            )
            self._finish(tenant, ranked.rank_id, user, task, timings)
            return ranked

    async def best_of_n(
        self, tenant: str, user: str | None, task: Task, timings: Timings, *, explain: bool = False
    ) -> Choice:
        """The task's texts by mean utility, with the probabilities of being best and good enough.

        Raises:
            ApiError: The encoder has no room, or failed; or the bundle cannot be explained.
        """
        with self._telemetry.tracing.span("rank", texts=len(task.texts)):
            judged = await self._judge(tenant, user, task, timings)
            started = time.perf_counter()
            best = await self._off_loop(probability_best, judged)
            acceptable = await self._off_loop(probability_acceptable, judged)
            timings.rank += time.perf_counter() - started
            explained = list(range(len(task.texts))) if explain else []
            choice = Choice(
                rank_id=new_rank_id(),
                mean=judged.utility.mean,
                best=best,
                acceptable=acceptable,
                order=order(judged.utility.mean),
                explanations=await self._explain(tenant, task, judged, explained, timings),
            )
            self._finish(tenant, choice.rank_id, user, task, timings)
            return choice

    async def _judge(self, tenant: str, user: str | None, task: Task, timings: Timings) -> _Judged:
        described = await self._describer.describe(tenant, task.texts, task.prompts, timings)
        started = time.perf_counter()
        state = await self._states.get(tenant, user) if user is not None else None
        posterior = self._states.posterior(state)
        personal = (
            Personal(user)
            if state is None
            else Personal(user, state.is_personal, state.feedback_events, state.version)
        )
        timings.posterior += time.perf_counter() - started
        started = time.perf_counter()
        utility = posterior.utility(described.items)
        if not (np.isfinite(utility.mean).all() and np.isfinite(utility.std).all()):
            raise NonFiniteScoreError("a utility is not finite")
        timings.rank += time.perf_counter() - started
        return _Judged(described, posterior, utility, personal)

    async def _off_loop(self, probability: Probability, judged: _Judged) -> NDArray[np.float64]:
        """`probability` of the judged items; of many of them in a thread, so that other requests go on."""
        arguments = (self._reward, judged.posterior, judged.described.items)
        if len(judged.described.items) <= INLINE_TEXTS:
            return probability(*arguments)
        return await asyncio.to_thread(probability, *arguments)

    async def _explain(
        self, tenant: str, task: Task, judged: _Judged, rows: list[int], timings: Timings
    ) -> Explanations:
        """Explanations of these texts, by index."""
        if not rows:
            return {}
        batch = await self._describer.featurizer.features(tenant, task.texts, task.prompts, timings)
        keys = judged.described.items.keys
        started = time.perf_counter()
        found = await asyncio.to_thread(
            explanations, self._reward, judged.posterior, batch.vectors, keys, rows
        )
        timings.rank += time.perf_counter() - started
        return found

    def _finish(self, tenant: str, rank_id: str, user: str | None, task: Task, timings: Timings) -> None:
        self._rankings.remember(tenant, rank_id, user, task.prompts, task.texts)
        self._telemetry.ranked_texts.inc(len(task.texts))
        self._telemetry.observe(timings)
