"""Rankings between the population's and the user's: the strength of personalization.

With P the user's posterior, Q the population's prior and α the strength, from 0 to 1,

    E_α[u]    = E_Q[u] + α (E_P[u] − E_Q[u])                  the mean of a utility
    Var_α[u]  = Var_Q[u] + α (Var_P[u] − Var_Q[u])            its variance
    logit p_α = logit p_Q + α (logit p_P − logit p_Q)         the probability of an event
    log p_α   = log p_Q + α (log p_P − log p_Q) + constant    the probabilities of a choice, which sum to 1

Both ends are exact: the population's numbers at 0, the user's at 1, bit for bit. In between, means, variances and
probabilities of events never leave the interval between the two.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax

from penchant.models.errors import ModelError
from penchant.models.ranking.scores import Scores, scores
from penchant.models.ranking.selection import probability_acceptable, probability_best
from penchant.models.taste.items import Items
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

_SMALLEST: Final = np.finfo(np.float64).tiny
_LARGEST: Final = 1 - np.finfo(np.float64).epsneg
"""Bounds of a probability whose logit is taken, so that certainty has a finite one."""


class PersonalizationError(ModelError, ValueError):
    """A strength of personalization is not a number from 0 to 1."""


def blend_means(population: Vector, user: Vector, personalization: float) -> Vector:
    """Return means between those of the population and of the user, linear in the strength.

    Args:
        population: `[..., n]` numbers of the population.
        user: `[..., n]` numbers of the user, or of several.
        personalization: Strength, from 0 (the population's numbers) to 1 (the user's).

    Raises:
        PersonalizationError: If the strength is not from 0 to 1.
    """
    return _blend(population, user, personalization, np.positive, np.positive)


def blend_stds(population: Vector, user: Vector, personalization: float) -> Vector:
    """Return standard deviations whose squares are linear in the strength. Arguments and errors: see `blend_means`."""
    return _blend(population, user, personalization, np.square, np.sqrt)


def blend_probabilities(population: Vector, user: Vector, personalization: float) -> Vector:
    """Return probabilities of events whose logits are linear in the strength.

    Arguments and errors: see `blend_means`.
    """
    blended = _blend(population, user, personalization, _logit, expit)
    return np.clip(blended, np.minimum(population, user), np.maximum(population, user))


def blend_choice(population: Vector, user: Vector, personalization: float) -> Vector:
    """Return probabilities of a choice among n items, sum 1, whose logarithms are linear in the strength.

    Arguments and errors: see `blend_means`.
    """
    return _blend(population, user, personalization, _log, lambda logs: softmax(logs, axis=-1))


def personalized_scores(
    reward: RewardModel,
    population: UserPosterior,
    users: Sequence[UserPosterior],
    items: Items,
    personalization: float,
) -> Scores:
    """Return the scores of n items for u users at a strength of personalization.

    Args:
        reward: The model.
        population: Posterior at the prior.
        users: Posteriors of the users.
        items: n items.
        personalization: Strength, from 0 (the population's scores) to 1 (the users').

    Raises:
        PersonalizationError: If the strength is not from 0 to 1.

    Cost: that of `scores` for the population and for the users; for one of them at 0 and at 1.
    """
    _check(personalization)
    if personalization == 1:
        return scores(reward, users, items)
    shared = scores(reward, (population,), items)
    if personalization == 0:
        return Scores(*(np.repeat(values, len(users), axis=0) for values in shared))
    own = scores(reward, users, items)
    return Scores(
        blend_means(shared.mean, own.mean, personalization),
        blend_stds(shared.std, own.std, personalization),
        blend_probabilities(shared.relevance, own.relevance, personalization),
    )


def personalized_choice(
    reward: RewardModel,
    population: UserPosterior,
    user: UserPosterior,
    items: Items,
    personalization: float,
) -> tuple[Vector, Vector]:
    """Return P(best) and P(acceptable) of each item, `[n]` each, at a strength of personalization.

    Args:
        reward: The model.
        population: Posterior at the prior.
        user: Posterior of the user.
        items: n items.
        personalization: Strength, from 0 (the population's probabilities) to 1 (the user's).

    Raises:
        PersonalizationError: If the strength is not from 0 to 1.

    Cost: that of `probability_best` for the population and for the user; for one of them at 0 and at 1.
    """
    _check(personalization)
    ends = [posterior for posterior, end in ((population, 1), (user, 0)) if personalization != end]
    best = [probability_best(reward, posterior, items) for posterior in ends]
    acceptable = [probability_acceptable(reward, posterior, items) for posterior in ends]
    return (
        blend_choice(best[0], best[-1], personalization),
        blend_probabilities(acceptable[0], acceptable[-1], personalization),
    )


def _blend(
    population: Vector,
    user: Vector,
    personalization: float,
    scale: Callable[[Vector], Vector],
    inverse: Callable[[Vector], Vector],
) -> Vector:
    """Interpolate on a scale, and return from it. The ends are returned as they are."""
    _check(personalization)
    if personalization == 0:
        return np.broadcast_to(population, np.broadcast_shapes(population.shape, user.shape))
    if personalization == 1:
        return user
    start = scale(population)
    return inverse(start + personalization * (scale(user) - start))


def _check(personalization: float) -> None:
    if not 0 <= personalization <= 1:
        raise PersonalizationError(f"`personalization` must be from 0 to 1, not {personalization}.")


def _logit(probabilities: Vector) -> Vector:
    return np.asarray(logit(np.clip(probabilities, _SMALLEST, _LARGEST)))


def _log(probabilities: Vector) -> Vector:
    return np.log(np.maximum(probabilities, _SMALLEST))
