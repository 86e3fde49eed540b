"""The hot path: candidates → items → the user's utilities → order.

rank, score, best_of_n          one method for each kind of result
  ├─ Describer.describe         cache | Featurizer.get_features (cache | store | encoder) → RewardModel.describe
  ├─ _load_users                UserStates.get: memory | store
  ├─ _compute_scores            all users × all candidates; the population too, between its answer and the users'
  └─ _explain                   explanations, if the request asks for them
"""

import asyncio
import math
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
    NonFiniteScoreError,
    order,
    probability_acceptable,
    probability_best,
)
from penchant.models.taste.items import Items
from penchant.models.taste.posterior import UserPosterior
from penchant.service.ranking.describer import Describer
from penchant.service.ranking.explaining import explain_candidates
from penchant.service.ranking.rankings import Rankings, create_rank_id
from penchant.service.ranking.results import (
    ChoiceResult,
    Explanations,
    RankingResult,
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


class _Users(NamedTuple):
    """The users of a request: their posteriors, and their summaries for the response."""

    posteriors: list[UserPosterior]
    summaries: list[UserSummary]

    def needs_population(self, personalization: float) -> bool:
        """Return whether the strength of personalization makes their scores differ from those of their posteriors."""
        return personalization != 1 and any(summary.is_personal for summary in self.summaries)


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
        (result,) = await self.score(
            tenant,
            (user,),
            task,
            timings,
            by_utility=by_utility,
            explain=explain,
            personalization=personalization,
        )
        return result

    async def score(
        self,
        tenant: str,
        users: Sequence[str | None],
        task: Task,
        timings: Timings,
        *,
        by_utility: bool = False,
        explain: int = 0,
        personalization: float = 1.0,
    ) -> list[RankingResult]:
        """Rank the texts of a task for each of several users, in one matrix product. All results share a `rank_id`.

        Args:
            tenant: Tenant of the users.
            users: User ids. None for the population, which must be the only one.
            task: Texts to rank.
            timings: Timings of the request, which are updated.
            by_utility: Whether to order by utility instead of relevance.
            explain: Number of texts to explain for each user, best first.
            personalization: Strength of personalization, from 0 (the population's scores) to 1 (the users').

        Raises:
            ApiError: If the encoder is overloaded or fails, or if the bundle cannot be explained.
            NonFiniteScoreError: If a score is NaN or infinite.
        """
        with self._telemetry.tracing.span("rank", texts=len(task.texts)):
            batch = await self._describer.describe(tenant, task.texts, task.prompts, timings)
            loaded = await self._load_users(tenant, users, timings)
            started = time.perf_counter()
            scores = await self._compute_scores(loaded, batch.items, personalization)
            warnings = warn_of_truncation(
                task, batch.truncated, self._describer.featurizer.extractor.max_tokens
            )
            rank_id = create_rank_id()
            timings.rank += time.perf_counter() - started
            results = []
            for row, summary in enumerate(loaded.summaries):
                best_first = order(scores.mean[row] if by_utility else scores.relevance[row])
                results.append(
                    RankingResult(
                        rank_id=rank_id,
                        model=self.bundle.manifest.name,
                        user=summary,
                        mean=scores.mean[row],
                        std=scores.std[row],
                        probability=scores.relevance[row],
                        order=best_first,
                        tokens=batch.tokens,
                        warnings=warnings,
                        explanations=await self._explain(
                            _ExplanationInput(
                                tenant, task, batch.items.keys, loaded.posteriors[row], personalization
                            ),
                            best_first[:explain].tolist(),
                            timings,
                        )
                        if explain
                        else {},
                    )
                )
            self._record(tenant, rank_id, users[0] if len(users) == 1 else None, task, timings)
            return results

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
            loaded = await self._load_users(tenant, (user,), timings)
            started = time.perf_counter()
            scores = await self._compute_scores(loaded, batch.items, personalization)
            best, acceptable = await self._compute_choice_probabilities(loaded, batch.items, personalization)
            timings.rank += time.perf_counter() - started
            rows = list(range(len(task.texts))) if explain else []
            choice = ChoiceResult(
                rank_id=create_rank_id(),
                mean=scores.mean[0],
                best=best,
                acceptable=acceptable,
                order=order(scores.mean[0]),
                explanations=await self._explain(
                    _ExplanationInput(tenant, task, batch.items.keys, loaded.posteriors[0], personalization),
                    rows,
                    timings,
                ),
            )
            self._record(tenant, choice.rank_id, user, task, timings)
            return choice

    async def _load_users(self, tenant: str, users: Sequence[str | None], timings: Timings) -> _Users:
        """Load the posteriors and summaries of users, in the given order."""
        started = time.perf_counter()
        if len(users) == 1:
            states = [None if users[0] is None else await self._states.get(tenant, users[0])]
        else:
            named = [user for user in users if user is not None]
            states = list(await asyncio.gather(*(self._states.get(tenant, user) for user in named)))
        loaded = _Users(
            [self._states.compute_posterior(state) for state in states],
            [
                UserSummary(user)
                if state is None
                else UserSummary(user, state.is_personal, state.feedback_events, state.version)
                for user, state in zip(users, states, strict=True)
            ],
        )
        timings.posterior += time.perf_counter() - started
        return loaded

    async def _compute_scores(self, users: _Users, items: Items, personalization: float) -> Scores:
        """Compute the scores of all items for all users. Many scores are computed in a thread, not on the event loop.

        Raises:
            NonFiniteScoreError: If a score is NaN or infinite.
        """
        compute, computed = partial(scores, self._reward, users.posteriors, items), len(users.posteriors)
        if users.needs_population(personalization):
            compute = partial(
                personalized_scores,
                self._reward,
                self._states.prior,
                users.posteriors,
                items,
                personalization,
            )
            computed += 1
        inline = len(items) * computed <= INLINE_SCORES
        result = compute() if inline else await asyncio.to_thread(compute)
        # A single value that is not finite makes the product so. `order` checks the relevance.
        if not math.isfinite(np.vdot(result.mean, result.std)):
            raise NonFiniteScoreError("A mean or standard deviation of the utilities is not finite.")
        return result

    async def _compute_choice_probabilities(
        self, users: _Users, items: Items, personalization: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return P(best) and P(acceptable) of each item for the only user."""
        (posterior,) = users.posteriors
        if users.needs_population(personalization):
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
