"""The hot path: candidates → items → the user's utilities → order.

rank, score, best_of_n          one of three answers
  ├─ Describer.describe         memory | Featurizer.features (cache | store | encoder) → RewardModel.describe
  ├─ _known                     UserStates.get: memory | store
  ├─ scores                     all users × all candidates
  └─ _explain                   where asked for: why
"""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penchant.models.bundle import Bundle
from penchant.models.ranking.scores import Scores, scores
from penchant.models.ranking.selection import (
    NonFiniteScoreError,
    order,
    probability_acceptable,
    probability_best,
)
from penchant.models.taste.items import Items
from penchant.models.taste.posterior import UserPosterior
from penchant.service.ranking.describer import Describer
from penchant.service.ranking.explaining import explanations
from penchant.service.ranking.rankings import Rankings, new_rank_id
from penchant.service.ranking.results import Choice, Explanations, Personal, Ranked, Task, truncation_warnings
from penchant.service.telemetry.metrics import Telemetry, Timings
from penchant.service.users.current import UserStates

INLINE_SCORES: Final = 256
"""Up to so many the mathematics is done on the event loop: handing it to a thread would take longer."""

INLINE_CHOICES: Final = 64
"""The same of candidates of which one is chosen, which costs more."""


class _Known(NamedTuple):
    """Users: what is known of them, and what is told of that."""

    posteriors: list[UserPosterior]
    personal: list[Personal]


class _Seen(NamedTuple):
    """A task with a user's eyes."""

    tenant: str
    task: Task
    keys: tuple[bytes, ...]
    posterior: UserPosterior


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
        (ranked,) = await self.score(tenant, (user,), task, timings, by_utility=by_utility, explain=explain)
        return ranked

    async def score(
        self,
        tenant: str,
        users: Sequence[str | None],
        task: Task,
        timings: Timings,
        *,
        by_utility: bool = False,
        explain: int = 0,
    ) -> list[Ranked]:
        """The same texts ranked for each of several users, in one product; one ranking is remembered.

        Raises:
            ApiError: The encoder has no room, or failed; or the bundle cannot be explained.
        """
        with self._telemetry.tracing.span("rank", texts=len(task.texts)):
            described = await self._describer.describe(tenant, task.texts, task.prompts, timings)
            known = await self._known(tenant, users, timings)
            started = time.perf_counter()
            found = await self._scores(known.posteriors, described.items)
            warnings = truncation_warnings(
                task, described.truncated, self._describer.featurizer.extractor.encoder.max_tokens
            )
            rank_id = new_rank_id()
            timings.rank += time.perf_counter() - started
            answers = []
            for row, personal in enumerate(known.personal):
                best_first = order(found.mean[row] if by_utility else found.relevance[row])
                answers.append(
                    Ranked(
                        rank_id=rank_id,
                        model=self.bundle.manifest.name,
                        personal=personal,
                        mean=found.mean[row],
                        std=found.std[row],
                        probability=found.relevance[row],
                        order=best_first,
                        tokens=described.tokens,
                        warnings=warnings,
                        explanations=await self._explain(
                            _Seen(tenant, task, described.items.keys, known.posteriors[row]),
                            best_first[:explain].tolist(),
                            timings,
                        )
                        if explain
                        else {},
                    )
                )
            self._finish(tenant, rank_id, users[0] if len(users) == 1 else None, task, timings)
            return answers

    async def best_of_n(
        self, tenant: str, user: str | None, task: Task, timings: Timings, *, explain: bool = False
    ) -> Choice:
        """The task's texts by mean utility, with the probabilities of being best and good enough.

        Raises:
            ApiError: The encoder has no room, or failed; or the bundle cannot be explained.
        """
        with self._telemetry.tracing.span("rank", texts=len(task.texts)):
            described = await self._describer.describe(tenant, task.texts, task.prompts, timings)
            (posterior,) = (await self._known(tenant, (user,), timings)).posteriors
            started = time.perf_counter()
            found = await self._scores((posterior,), described.items)
            best, acceptable = await self._choose(posterior, described.items)
            timings.rank += time.perf_counter() - started
            explained = list(range(len(task.texts))) if explain else []
            choice = Choice(
                rank_id=new_rank_id(),
                mean=found.mean[0],
                best=best,
                acceptable=acceptable,
                order=order(found.mean[0]),
                explanations=await self._explain(
                    _Seen(tenant, task, described.items.keys, posterior), explained, timings
                ),
            )
            self._finish(tenant, choice.rank_id, user, task, timings)
            return choice

    async def _known(self, tenant: str, users: Sequence[str | None], timings: Timings) -> _Known:
        started = time.perf_counter()
        if len(users) == 1:
            states = [None if users[0] is None else await self._states.get(tenant, users[0])]
        else:
            named = [user for user in users if user is not None]
            states = list(await asyncio.gather(*(self._states.get(tenant, user) for user in named)))
        known = _Known(
            [self._states.posterior(state) for state in states],
            [
                Personal(user)
                if state is None
                else Personal(user, state.is_personal, state.feedback_events, state.version)
                for user, state in zip(users, states, strict=True)
            ],
        )
        timings.posterior += time.perf_counter() - started
        return known

    async def _scores(self, posteriors: Sequence[UserPosterior], items: Items) -> Scores:
        """All users × all items; of many in a thread, so that other requests go on.

        Raises:
            NonFiniteScoreError: A score is NaN or infinite.
        """
        if len(items) * len(posteriors) <= INLINE_SCORES:
            found = scores(self._reward, posteriors, items)
        else:
            found = await asyncio.to_thread(scores, self._reward, posteriors, items)
        # In this product whatever is not finite shows; of relevance `order` makes sure.
        if not math.isfinite(np.vdot(found.mean, found.std)):
            raise NonFiniteScoreError("a score is not finite")
        return found

    async def _choose(
        self, posterior: UserPosterior, items: Items
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """P(best) and P(good enough) of each item."""
        arguments = (self._reward, posterior, items)
        if len(items) <= INLINE_CHOICES:
            return probability_best(*arguments), probability_acceptable(*arguments)
        best = await asyncio.to_thread(probability_best, *arguments)
        return best, await asyncio.to_thread(probability_acceptable, *arguments)

    async def _explain(self, seen: _Seen, rows: list[int], timings: Timings) -> Explanations:
        """Explanations of these texts, by index."""
        if not rows:
            return {}
        task = seen.task
        batch = await self._describer.featurizer.features(seen.tenant, task.texts, task.prompts, timings)
        started = time.perf_counter()
        found = await asyncio.to_thread(
            explanations, self._reward, seen.posterior, batch.vectors, seen.keys, rows
        )
        timings.rank += time.perf_counter() - started
        return found

    def _finish(self, tenant: str, rank_id: str, user: str | None, task: Task, timings: Timings) -> None:
        self._rankings.remember(tenant, rank_id, user, task.prompts, task.texts)
        self._telemetry.ranked_texts.inc(len(task.texts))
        self._telemetry.record_timings(timings)
