"""The hot path: candidates → items → the user's utilities → order.

rank, score, best_of_n          one method for each kind of result
  ├─ Describer.describe         cache | Featurizer.get_features (cache | store | encoder) → RewardModel.describe
  ├─ _load_user                 UserStates.get: memory | store
  ├─ _compute_scores            all candidates; those of the population too, between its answer and the user's
  ├─ ManyUsers.score            instead of the last two, for several users
  └─ _explain                   explanations, if the request asks for them
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penchant.models.bundle import Bundle
from penchant.models.ranking.personalization import personalized_choice, personalized_scores
from penchant.models.ranking.scores import Scores, scores
from penchant.models.ranking.selection import (
    order,
    probability_acceptable,
    probability_best,
)
from penchant.models.taste.items import Items
from penchant.models.taste.posterior import UserPosterior
from penchant.service.ranking.describer import Describer
from penchant.service.ranking.explaining import explain_candidates
from penchant.service.ranking.many_users import ManyUsers, check_finite
from penchant.service.ranking.rankings import Rankings, create_rank_id
from penchant.service.ranking.results import (
    ChoiceResult,
    Explanations,
    RankingResult,
    ScoreResult,
    Task,
    UserSummary,
    warn_of_truncation,
)
from penchant.service.telemetry.metrics import Telemetry, Timings
from penchant.service.users.current import UserStates

INLINE_SCORES: Final = 256
"""Largest number of scores that are computed on the event loop. For so few, a thread would take longer."""

INLINE_CHOICES: Final = 64
"""Largest number of candidates whose best-of-n probabilities, which cost more, are computed on the event loop."""


class _ExplanationInput(NamedTuple):
    """A task, the item keys of its texts, and the user and the strength of personalization of its ranking."""

    tenant: str
    task: Task
    keys: tuple[bytes, ...]
    posterior: UserPosterior
    personalization: float


class Scorer:
    """The ranking of texts for users.

    Args:
        bundle: The model.
        describer: Source of the items of texts.
        states: States of the users.
        rankings: Recent rankings, to which each new one is added.
        telemetry: Metrics and traces.

    Attributes:
        bundle: The model.
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
        self._many_users = ManyUsers(bundle.reward, states)
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
        personalization: float = 1.0,
    ) -> RankingResult:
        """Rank the texts of a task for one user.

        Args:
            tenant: Tenant of the user.
            user: User id. None for the population.
            task: Texts to rank.
            timings: Timings of the request, which are updated.
            by_utility: Whether to order by utility instead of relevance.
            explain: Number of texts to explain, best first.
            personalization: Strength of personalization, from 0 (the population's ranking) to 1 (the user's).

        Raises:
            ApiError: If the encoder is overloaded or fails, or if the bundle cannot be explained.
            NonFiniteScoreError: If a score is NaN or infinite.
        """
        with self._telemetry.tracing.span("rank", texts=len(task.texts)):
            batch = await self._describer.describe(tenant, task.texts, task.prompts, timings)
            posterior, summary = await self._load_user(tenant, user, timings)
            started = time.perf_counter()
            scores = await self._compute_scores(posterior, summary, batch.items, personalization)
            best_first = order(scores.mean[0] if by_utility else scores.relevance[0])
            timings.rank += time.perf_counter() - started
            ranked = RankingResult(
                rank_id=create_rank_id(),
                model=self.bundle.manifest.name,
                user=summary,
                mean=scores.mean[0],
                std=scores.std[0],
                probability=scores.relevance[0],
                order=best_first,
                tokens=batch.tokens,
                warnings=warn_of_truncation(
                    task, batch.truncated, self._describer.featurizer.extractor.max_tokens
                ),
                explanations=await self._explain(
                    _ExplanationInput(tenant, task, batch.items.keys, posterior, personalization),
                    best_first[:explain].tolist(),
                    timings,
                ),
            )
            self._record(tenant, ranked.rank_id, user, task, timings)
            return ranked

    async def score(
        self,
        tenant: str,
        users: Sequence[str | None],
        task: Task,
        timings: Timings,
        *,
        explain: int = 0,
        personalization: float = 1.0,
    ) -> ScoreResult:
        """Score the texts of a task for each of several users. All scores share a `rank_id`.

        Args:
            tenant: Tenant of the users.
            users: User ids. None for the population, which must be the only one.
            task: Texts to score.
            timings: Timings of the request, which are updated.
            explain: Number of texts to explain, best first. It must be 0 for several users.
            personalization: Strength of personalization, from 0 (the population's scores) to 1 (the users').

        Raises:
            ApiError: If the encoder is overloaded or fails, or if the bundle cannot be explained.
            NonFiniteScoreError: If a score is NaN or infinite.
        """
        if len(users) == 1:
            ranked = await self.rank(
                tenant, users[0], task, timings, explain=explain, personalization=personalization
            )
            return ScoreResult(
                ranked.rank_id,
                ranked.model,
                tuple(users),
                ranked.mean[None],
                ranked.std[None],
                ranked.probability[None],
                ranked.tokens,
                ranked.explanations,
            )
        named = tuple(user for user in users if user is not None)
        with self._telemetry.tracing.span("rank", texts=len(task.texts)):
            batch = await self._describer.describe(tenant, task.texts, task.prompts, timings)
            started = time.perf_counter()
            computed = await self._many_users.score(tenant, named, batch.items, personalization)
            timings.rank += time.perf_counter() - started
            rank_id = create_rank_id()
            self._record(tenant, rank_id, None, task, timings)
            return ScoreResult(
                rank_id,
                self.bundle.manifest.name,
                named,
                computed.mean,
                computed.std,
                computed.relevance,
                batch.tokens,
                {},
            )

    async def best_of_n(
        self,
        tenant: str,
        user: str | None,
        task: Task,
        timings: Timings,
        *,
        explain: bool = False,
        personalization: float = 1.0,
    ) -> ChoiceResult:
        """Order the texts of a task by mean utility, and compute P(best) and P(acceptable) of each.

        Args:
            tenant: Tenant of the user.
            user: User id. None for the population.
            task: Candidates.
            timings: Timings of the request, which are updated.
            explain: Whether to explain all candidates.
            personalization: Strength of personalization, from 0 (the population's choice) to 1 (the user's).

        Raises:
            ApiError: If the encoder is overloaded or fails, or if the bundle cannot be explained.
            NonFiniteScoreError: If a score is NaN or infinite.
        """
        with self._telemetry.tracing.span("rank", texts=len(task.texts)):
            batch = await self._describer.describe(tenant, task.texts, task.prompts, timings)
            posterior, summary = await self._load_user(tenant, user, timings)
            started = time.perf_counter()
            scores = await self._compute_scores(posterior, summary, batch.items, personalization)
            best, acceptable = await self._compute_choice_probabilities(
                posterior, summary, batch.items, personalization
            )
            timings.rank += time.perf_counter() - started
            rows = list(range(len(task.texts))) if explain else []
            choice = ChoiceResult(
                rank_id=create_rank_id(),
                mean=scores.mean[0],
                best=best,
                acceptable=acceptable,
                order=order(scores.mean[0]),
                explanations=await self._explain(
                    _ExplanationInput(tenant, task, batch.items.keys, posterior, personalization),
                    rows,
                    timings,
                ),
            )
            self._record(tenant, choice.rank_id, user, task, timings)
            return choice

    async def _load_user(
        self, tenant: str, user: str | None, timings: Timings
    ) -> tuple[UserPosterior, UserSummary]:
        """Load the posterior of a user, and the summary for the response."""
        started = time.perf_counter()
        state = None if user is None else await self._states.get(tenant, user)
        timings.posterior += time.perf_counter() - started
        posterior = self._states.compute_posterior(state)
        if state is None:
            return posterior, UserSummary(user)
        return posterior, UserSummary(user, state.is_personal, state.feedback_events, state.version)

    async def _compute_scores(
        self, posterior: UserPosterior, summary: UserSummary, items: Items, personalization: float
    ) -> Scores:
        """Compute the scores of all items for a user. Many scores are computed in a thread, not on the event loop.

        Raises:
            NonFiniteScoreError: If a score is NaN or infinite.
        """
        compute, computed = partial(scores, self._reward, (posterior,), items), len(items)
        if _needs_population(summary, personalization):
            compute = partial(
                personalized_scores,
                self._reward,
                self._states.prior,
                (posterior,),
                items,
                personalization,
            )
            computed *= 2
        result = compute() if computed <= INLINE_SCORES else await asyncio.to_thread(compute)
        check_finite(result)
        return result

    async def _compute_choice_probabilities(
        self, posterior: UserPosterior, summary: UserSummary, items: Items, personalization: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return P(best) and P(acceptable) of each item for a user."""
        if _needs_population(summary, personalization):
            compute = partial(
                personalized_choice, self._reward, self._states.prior, posterior, items, personalization
            )
            inline = 2 * len(items) <= INLINE_CHOICES
            return compute() if inline else await asyncio.to_thread(compute)
        arguments = (self._reward, posterior, items)
        if len(items) <= INLINE_CHOICES:
            return probability_best(*arguments), probability_acceptable(*arguments)
        best = await asyncio.to_thread(probability_best, *arguments)
        return best, await asyncio.to_thread(probability_acceptable, *arguments)

    async def _explain(self, explained: _ExplanationInput, rows: list[int], timings: Timings) -> Explanations:
        """Return explanations of the texts in some rows, by index."""
        if not rows:
            return {}
        task = explained.task
        batch = await self._describer.featurizer.get_features(
            explained.tenant, task.texts, task.prompts, timings
        )
        started = time.perf_counter()
        explanations = await asyncio.to_thread(
            explain_candidates,
            self._reward,
            explained.posterior,
            batch.raw,
            explained.keys,
            rows=rows,
            personalization=explained.personalization,
        )
        timings.rank += time.perf_counter() - started
        return explanations

    def _record(self, tenant: str, rank_id: str, user: str | None, task: Task, timings: Timings) -> None:
        """Make a ranking available to feedback, and update the metrics."""
        self._rankings.add(tenant, rank_id, user, task.prompts, task.texts)
        self._telemetry.ranked_texts.inc(len(task.texts))
        self._telemetry.record_timings(timings)


def _needs_population(user: UserSummary, personalization: float) -> bool:
    """Return whether the strength of personalization makes the user's scores differ from those of the posterior."""
    return personalization != 1 and user.is_personal
