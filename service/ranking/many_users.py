"""Scores of texts for many users at once, in slices, so that other requests are served meanwhile.

Users without feedback share the population's scores, which are computed once, however many of them a request names.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from penchant.models.ranking.personalization import personalized_scores
from penchant.models.ranking.scores import Scores, scores
from penchant.models.ranking.selection import NonFiniteScoreError
from penchant.models.taste.items import Items
from penchant.models.taste.reward import RewardModel
from penchant.service.users.current import USERS_AT_ONCE, UserStates
from penchant.service.users.states import UserState

SCORES_AT_ONCE: Final = 2048
"""Largest number of scores that are computed in one matrix product, which takes a few milliseconds and megabytes."""


class ManyUsers:
    """Scores texts for several users.

    Args:
        reward: The model.
        states: States of the users.
    """

    def __init__(self, reward: RewardModel, states: UserStates) -> None:
        self._reward = reward
        self._states = states

    async def score(self, tenant: str, users: Sequence[str], items: Items, personalization: float) -> Scores:
        """Return the scores of n items for u users, `[u, n]` each.

        A request for more users than are loaded together leaves the states that others need in memory.

        Args:
            tenant: Tenant of the users.
            users: u user ids, which may repeat.
            items: n items.
            personalization: Strength of personalization, from 0 (the population's scores) to 1 (the users').

        Raises:
            ApiError: If texts of a user's log must be encoded again and the encoder is overloaded or fails.
            NonFiniteScoreError: If a score is NaN or infinite.

        Cost: one query for each `USERS_AT_ONCE` users who are not in memory. The scores are computed in threads.
        """
        population = await asyncio.to_thread(scores, self._reward, (self._states.prior,), items)
        computed = Scores(*(np.repeat(values, len(users), axis=0) for values in population))
        for start in range(0, len(users), USERS_AT_ONCE):
            some = users[start : start + USERS_AT_ONCE]
            known = await self._states.get_many(tenant, some, is_kept=len(users) <= USERS_AT_ONCE)
            if known and personalization > 0:
                rows = {start + i: known[user] for i, user in enumerate(some) if user in known}
                await asyncio.to_thread(self._personalize, computed, rows, items, personalization)
        check_finite(computed)
        return computed

    def _personalize(
        self, computed: Scores, known: Mapping[int, UserState], items: Items, personalization: float
    ) -> None:
        """Replace the scores of known users, given by row."""
        rows, step = list(known), max(1, SCORES_AT_ONCE // len(items))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            posteriors = [self._states.compute_posterior(known[row]) for row in some]
            own = personalized_scores(self._reward, self._states.prior, posteriors, items, personalization)
            for values, new in zip(computed, own, strict=True):
                values[some] = new


def check_finite(computed: Scores) -> None:
    """Check that all scores are finite.

    Raises:
        NonFiniteScoreError: If one is not.
    """
    # A single value that is not finite makes the product so.
    if not math.isfinite(np.vdot(computed.mean, computed.std)):
        raise NonFiniteScoreError("A mean or standard deviation of the utilities is not finite.")
    if not np.isfinite(computed.relevance).all():
        raise NonFiniteScoreError("A relevance is not finite.")
