"""Reasons: how a user differs from the population, in words and in texts, with uncertainty.

The features of texts are correlated: a longer text has more sentences, more commas, a richer vocabulary. "Prefers longer
answers" can therefore mean two things, and both are given:

- `effect`: the change of utility for one standard deviation more of the attribute, all else equal. It is the coefficient
  that `explain_items` uses. On its own it can mislead: if length has a positive effect and the number of sentences a
  negative one, longer texts may still be disliked.
- `slope`: the change along real texts, in which correlated attributes change too. It is what a reader sees when sorting
  texts by the attribute. On its own it can mislead as well: an attribute that is merely correlated with what the user
  likes has a slope.

Beside the attributes, `relevance` is how much a user cares that an answer keeps to its question (see `qualities`). Its
unit is one standard deviation, over the given texts, of what the match with the question is worth to the population.

An attribute is a reason (`told`) only if effect and slope have the same sign, each with a probability of at least
`REASON_PROBABILITY`, and the slope is at least `MIN_SLOPE`. Reasons are ordered by effect × slope, the Pratt measure of
an attribute's share in the explained variance (Pratt 1987), which is negative if the two disagree. Limitations:

- Effects are relative to the population's mean taste. A user who dislikes length less than others has a positive effect
  and may still prefer shorter answers; `population` gives the mean effect.
- All effects are linear functions of the same q − 1 numbers per user. If a direction of taste was learned from other
  users, an effect may mean "people who judge like this user also like questions". Reasons are not independent.
- With a gate, effects, slopes and the population's are those for an average prompt.
- The uncertainty covers the user and the fitted weight of the attribute, which often contributes more. It is that of the
  model, and only as good as its calibration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_PHRASES
from penchant.models.explain.deviation import Deviation, Estimate
from penchant.models.explain.explanation import Explanation, Part, explain_items, iterate_explanations
from penchant.models.explain.qualities import RELEVANCE, Qualities
from penchant.models.explain.text_map import ExplanationError, TextMap
from penchant.models.taste.items import Items
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

__all__ = [
    "AttributeReason",
    "Explanation",
    "ExplanationError",
    "Part",
    "TextReason",
    "UserReasons",
    "explain_items",
    "explain_user",
    "iterate_explanations",
]

Vector = NDArray[np.float64]

REASON_PROBABILITY: Final = 0.9
"""Minimum probability of a reason's sign: nine times as likely as the other sign."""

MIN_SLOPE: Final = 0.05
"""Minimum slope in units of utility: one standard deviation changes the odds of a choice by 5 %."""

EXAMPLE_PROBABILITY: Final = 0.75
"""Minimum probability of an example's sign: three times as likely as the other. An example claims less than a reason."""

LABELS: Final = {
    **ATTRIBUTE_PHRASES,
    RELEVANCE: ("answers that keep closely to the question", "answers that may stray from the question"),
}
"""Plain language for every attribute and for relevance, for a user who likes it more, or less, than others do."""


@dataclass(frozen=True)
class AttributeReason:
    """A user's preference for one attribute, relative to the population's. The module docstring explains its meaning.

    Attributes:
        name: One of `ATTRIBUTE_NAMES`, or `relevance`.
        label: The user's preference in plain language, by the sign of the effect: "shorter answers".
        effect: Change of utility (logits) for one standard deviation more, all else equal, relative to the population's.
        std: Standard deviation of the effect, over the user's posterior and the uncertainty of the fit.
        probability: P(effect > 0).
        slope: Change of utility for one standard deviation more along the given texts, relative to the population's.
        slope_std: Standard deviation of the slope.
        slope_probability: P(slope > 0).
        population: Effect in the population, all else equal. The user's total effect is `population` + `effect`.
        told: Whether the attribute is certain and large enough to be named as a reason.
    """

    name: str
    label: str
    effect: float
    std: float
    probability: float
    slope: float
    slope_std: float
    slope_probability: float
    population: float
    told: bool


@dataclass(frozen=True)
class TextReason:
    """A text on which the user and the population differ.

    Attributes:
        index: Row of the given texts; the first of equal ones.
        value: The user's deviation on this text minus that on the mean of the given texts, in units of utility.
        std: Standard deviation of the value, over the user's posterior and the residual of the text.
        probability: P(value > 0).
    """

    index: int
    value: float
    std: float
    probability: float


@dataclass(frozen=True)
class UserReasons:
    """How a user differs from the population, with uncertainty.

    Attributes:
        judgements: Number of judgements learned.
        threshold: The user's deviation on the population's median answer; positive if easier to satisfy than most.
        threshold_std: Standard deviation of the threshold.
        probability_easier: P(threshold > 0).
        archetype_weights: Probability of each archetype for this user; they sum to 1.
        population_archetype_weights: Probability of each archetype for a user without judgements.
        attributes: All attributes that vary in the fitted texts, and `relevance` if the model reads prompts and the
            given texts differ in it. Those `told` come first, by descending effect × slope.
        named_share: Share, 0 to 1, of named attributes and relevance in the variance of the user's deviation over the
            given texts. The rest is due to the content of the texts.
        texts: Texts with the largest deviation, largest value first; only those whose sign has a probability of at least
            `EXAMPLE_PROBABILITY`.
    """

    judgements: int
    threshold: float
    threshold_std: float
    probability_easier: float
    archetype_weights: tuple[float, ...]
    population_archetype_weights: tuple[float, ...]
    attributes: tuple[AttributeReason, ...]
    named_share: float
    texts: tuple[TextReason, ...]


def explain_user(
    reward: RewardModel,
    posterior: UserPosterior,
    vectors: NDArray[np.float16],
    item_keys: Sequence[bytes] | None = None,
    *,
    examples: int = 3,
) -> UserReasons:
    """Return how a user differs from the population.

    Args:
        reward: The model. Its text prior must be linear in the features.
        posterior: Posterior of the user.
        vectors: `[n, width]` features of texts to compare on, such as those that the user judged. May be empty.
            `[n, dim]` features have no match.
        item_keys: n keys from `item_key`, looked up in the item memory; equal keys are one text. If None, the item
            memory is not used.
        examples: Maximum number of example texts that the user likes more than others do, and of those liked less.

    Raises:
        ExplanationError: If the text prior is not linear.

    Cost: O(a d m r + n d a) for a attributes and a text prior with uncertainty of rank r.
    """
    deviation, text = Deviation.from_posterior(posterior), TextMap.from_reward(reward)
    keys = item_keys if item_keys is not None else [row.tobytes() for row in vectors]
    rows = sorted({key: i for i, key in reversed(list(enumerate(keys)))}.values())  # first of equal texts
    vectors, keys = vectors[rows], [keys[i] for i in rows]
    x, items = reward.text_prior.standardiser(vectors), reward.describe(vectors, keys)
    threshold = deviation.estimate(reward.reference.features)
    return UserReasons(
        judgements=posterior.judgements,
        threshold=float(threshold.mean[0]),
        threshold_std=float(threshold.std[0]),
        probability_easier=float(threshold.probability[0]),
        archetype_weights=tuple(posterior.archetype_weights.tolist()),
        population_archetype_weights=tuple(posterior.population.weights.tolist()),
        attributes=_attributes(reward, deviation, text, x),
        named_share=_named_share(
            deviation, text.read(text.keep(x, text.described), reward.compute_gates(vectors)), items
        ),
        texts=_texts(deviation, items, rows, examples) if rows else (),
    )


def _attributes(
    reward: RewardModel, deviation: Deviation, text: TextMap, x: Vector
) -> tuple[AttributeReason, ...]:
    """All attributes that vary in the fitted texts, and relevance: reasons first, then by effect × slope."""
    qualities = Qualities.along(reward, text, x)
    effects = deviation.estimate(*text.directions(qualities.effects))
    slopes = deviation.estimate(*text.directions(qualities.slopes))
    is_reason = have_same_sign(effects, slopes)
    weights = qualities.effects @ text.weights
    population = weights[:, 0] + weights[:, 1:] @ deviation.population[1:]
    importance = effects.mean * slopes.mean
    return tuple(
        AttributeReason(
            name=qualities.names[a],
            label=LABELS[qualities.names[a]][int(effects.mean[a] < 0)],
            effect=float(effects.mean[a]),
            std=float(effects.std[a]),
            probability=float(effects.probability[a]),
            slope=float(slopes.mean[a]),
            slope_std=float(slopes.std[a]),
            slope_probability=float(slopes.probability[a]),
            population=float(population[a]),
            told=bool(is_reason[a]),
        )
        for a in np.lexsort((-importance, ~is_reason)).tolist()
    )


def have_same_sign(effects: Estimate, slopes: Estimate) -> NDArray[np.bool_]:
    """Return for which attributes effect and slope have the same sign, with enough probability and size."""
    signs = np.sign(effects.mean)
    certain = np.minimum(*(np.where(signs > 0, e.probability, 1 - e.probability) for e in (effects, slopes)))
    return np.asarray((signs != 0) & (certain >= REASON_PROBABILITY) & (signs * slopes.mean >= MIN_SLOPE))


def _named_share(deviation: Deviation, named_coordinates: Vector, items: Items) -> float:
    """Share of named attributes and relevance in the variance of personal utility over n texts; 0 if none varies."""
    named = named_coordinates[:, 1:] @ deviation.mean[1:]
    personal = items.directions @ deviation.mean[1:]
    variance = personal.var() if len(items) else 0.0
    if variance == 0:
        return 0.0
    covariance = (named * (personal - personal.mean())).mean()
    return float(np.clip(covariance / variance, 0.0, 1.0))


def _texts(deviation: Deviation, items: Items, rows: Sequence[int], examples: int) -> tuple[TextReason, ...]:
    """The texts with the largest and smallest personal utility relative to their mean."""
    directions = np.concatenate([np.zeros((len(items), 1)), items.directions], axis=1)
    residual_variance = np.concatenate([np.zeros((len(items), 1)), items.direction_variance], axis=1)
    values = deviation.estimate(directions - directions.mean(axis=0), residual_variance)
    best = np.argsort(-values.mean, kind="stable").tolist()
    liked = [i for i in best if values.mean[i] > 0 and values.probability[i] >= EXAMPLE_PROBABILITY]
    disliked = [
        i for i in reversed(best) if values.mean[i] < 0 and values.probability[i] <= 1 - EXAMPLE_PROBABILITY
    ]
    return tuple(
        TextReason(rows[i], float(values.mean[i]), float(values.std[i]), float(values.probability[i]))
        for i in (*liked[:examples], *reversed(disliked[:examples]))
    )
