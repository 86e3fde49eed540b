"""Reasons: what sets a user apart from the population, in words and in texts, and how certain that is.

What an attribute's reason states, and what it does not. The features of texts are correlated (a longer text has more
sentences, more commas, a richer vocabulary), so "prefers longer answers" can mean two things, and both are given:

- `effect`: all else equal, what one standard deviation more of the attribute changes. It is the model's own
  coefficient, the one that `explain_items` multiplies. Alone it can mislead: a positive effect of length beside a
  negative one of sentences may leave longer texts disliked.
- `slope`: along real texts, with all that tends to come with the attribute: what a reader would see when sorting texts
  by it. Alone it can mislead too: an attribute that only accompanies what the user likes has a slope.

An attribute is `told` as a reason only where both point the same way and both are probably of that sign, each to
`TOLD_AT`, and where the slope is worth telling, at least `WORTH_TELLING`. They are ordered by effect × slope, the Pratt
measure of an attribute's share in the variance of what is explained (Pratt 1987), which is negative where the two
disagree. Even so:

- Effects are relative to the population's mean taste. A user who dislikes length less than others has a positive effect
  and may still prefer shorter answers: `population` stands beside it.
- All effects are readings of the same few numbers, q − 1 of them a user; where a direction of taste was learned from
  other people, an effect may say "people who judge like this one like questions too". Reasons are not independent.
- The uncertainty is of the user *and* of what the fit knows of the attribute's weight, which is often the larger. It
  is that of the model, and only as good as its calibration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, ATTRIBUTE_PHRASES
from penchant.models.explain.departure import Departure, Estimate
from penchant.models.explain.explanation import Explanation, Part, explain_items
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
]

Vector = NDArray[np.float64]

TOLD_AT: Final = 0.9
"""A reason is told when its sign is nine times likelier than the other."""

WORTH_TELLING: Final = 0.05
"""In units of utility: one standard deviation of the attribute changes the odds of a choice by 5 %."""

SHOWN_AT: Final = 0.75
"""An example is shown when its sign is three times likelier than the other: it illustrates, and claims less."""

TYPICAL_TEXTS: Final = 25.0
"""Texts in which features do not go together, added to the given ones when slopes are taken: between a few texts, any
two features correlate by accident (by 1/√n), as much at 25 texts as two features of a kind typically do."""


@dataclass(frozen=True)
class AttributeReason:
    """What a user makes of one attribute beyond what the population makes of it. See the module for what it states.

    Attributes:
        name: One of `ATTRIBUTE_NAMES`.
        label: What the user prefers, in plain language and by the sign of the effect: "shorter answers".
        effect: Change of utility (logits) for one standard deviation more of it, all else equal, against the
            population's.
        std: Its standard deviation, over the user's posterior and what the fit leaves open.
        probability: P(effect > 0).
        slope: The same along the given texts, with all that comes with the attribute.
        slope_std: Its standard deviation.
        slope_probability: P(slope > 0).
        population: The population's own effect, all else equal: the user's is the sum of the two.
        told: Whether this is a reason to name, rather than something that is not known.
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
        value: What the user departs by on it, against the mean of the given texts, in units of utility.
        std: Its standard deviation, over the user's posterior and what the text leaves open.
        probability: P(value > 0).
    """

    index: int
    value: float
    std: float
    probability: float


@dataclass(frozen=True)
class UserReasons:
    """How a user differs from the population, and how certain that is.

    Attributes:
        judgements: What it rests on.
        threshold: What the user departs by on the population's median answer: positive, easier to satisfy than most.
        threshold_std: Its standard deviation.
        probability_easier: P(threshold > 0).
        archetype_weights: How much the user looks like each archetype, sum 1.
        population_archetype_weights: The same of a user nobody has heard from.
        attributes: Every attribute that the model can speak of, those `told` first, most telling first.
        named_share: Share, 0 to 1, of what sets the user apart on the given texts that named attributes carry: the rest
            is in what the texts say.
        texts: Texts that show the difference most, largest value first; only those whose sign is certain to `SHOWN_AT`.
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
    """How a user differs from the population.

    Args:
        reward: The model; its text prior must be linear in the features.
        posterior: The user.
        vectors: `[n, dim]` features of texts to show the difference on, such as those the user judged; may be empty.
        item_keys: n keys from `item_key`, which look up the item memory; equal keys are one text. None: nothing is
            looked up.
        examples: Most texts to give of those liked more than by others, and of those liked less.

    Raises:
        ExplanationError: The text prior has no linear form.

    Cost: O(a d m r + n d a) for a attributes and a text prior with uncertainty of rank r.
    """
    departure, text = Departure.of(posterior), TextMap.of(reward, vectors.shape[1])
    keys = item_keys if item_keys is not None else [row.tobytes() for row in vectors]
    rows = sorted({key: i for i, key in reversed(list(enumerate(keys)))}.values())  # the first of equal texts
    vectors, keys = vectors[rows], [keys[i] for i in rows]
    x, items = reward.text_prior.standardiser(vectors), reward.describe(vectors, keys)
    threshold = departure.along(reward.reference.features)
    return UserReasons(
        judgements=posterior.judgements,
        threshold=float(threshold.mean[0]),
        threshold_std=float(threshold.std[0]),
        probability_easier=float(threshold.probability[0]),
        archetype_weights=tuple(posterior.archetype_weights.tolist()),
        population_archetype_weights=tuple(posterior.population.weights.tolist()),
        attributes=_attributes(reward, departure, text, x),
        named_share=_named_share(departure, text, x, items),
        texts=_texts(departure, items, rows, examples) if rows else (),
    )


def _attributes(
    reward: RewardModel, departure: Departure, text: TextMap, x: Vector
) -> tuple[AttributeReason, ...]:
    """Every attribute that varied in the fitted texts: told ones first, then by effect × slope."""
    effects = departure.along(*text.directions(np.eye(len(text.weights))[text.named]))
    slopes = departure.along(*text.directions(slope_functionals(x, text.named)))
    told = agreement(effects, slopes)
    weights = text.weights[text.named]
    population = weights[:, 0] + weights[:, 1:] @ departure.population[1:]
    varied = np.isfinite(reward.text_prior.standardiser.scale[text.named])
    worth = effects.mean * slopes.mean
    return tuple(
        AttributeReason(
            name=ATTRIBUTE_NAMES[a],
            label=ATTRIBUTE_PHRASES[ATTRIBUTE_NAMES[a]][int(effects.mean[a] < 0)],
            effect=float(effects.mean[a]),
            std=float(effects.std[a]),
            probability=float(effects.probability[a]),
            slope=float(slopes.mean[a]),
            slope_std=float(slopes.std[a]),
            slope_probability=float(slopes.probability[a]),
            population=float(population[a]),
            told=bool(told[a]),
        )
        for a in np.lexsort((-worth, ~told)).tolist()
        if varied[a]
    )


def slope_functionals(x: Vector, named: slice) -> Vector:
    """Functionals `[a, d]` that give the slope of anything linear in x `[n, d]` on each named attribute.

    Cov(x, x_a)/Var(x_a) over the given texts and `TYPICAL_TEXTS` in which features vary by one and do not go together.
    """
    centred = x - x.mean(axis=0) if len(x) else x
    together = centred[:, named].T @ centred + TYPICAL_TEXTS * np.eye(x.shape[1])[named]
    own: Vector = np.diagonal(together[:, named])
    return np.asarray(together / own[:, None])


def agreement(effects: Estimate, slopes: Estimate) -> NDArray[np.bool_]:
    """Which attributes both statements say the same of, with enough certainty and size."""
    signs = np.sign(effects.mean)
    certain = np.minimum(*(np.where(signs > 0, e.probability, 1 - e.probability) for e in (effects, slopes)))
    return np.asarray((signs != 0) & (certain >= TOLD_AT) & (signs * slopes.mean >= WORTH_TELLING))


def _named_share(departure: Departure, text: TextMap, x: Vector, items: Items) -> float:
    """Share of the named attributes in the variance of the personal part over n texts; 0 where nothing varies."""
    named = x[:, text.named] @ (text.weights[text.named, 1:] @ departure.mean[1:])
    personal = items.directions @ departure.mean[1:]
    variance = personal.var() if len(x) else 0.0
    if variance == 0:
        return 0.0
    covariance = (named * (personal - personal.mean())).mean()
    return float(np.clip(covariance / variance, 0.0, 1.0))


def _texts(departure: Departure, items: Items, rows: Sequence[int], examples: int) -> tuple[TextReason, ...]:
    """The texts with the largest and smallest personal part against the mean of all of them."""
    directions = np.concatenate([np.zeros((len(items), 1)), items.directions], axis=1)
    open_variance = np.concatenate([np.zeros((len(items), 1)), items.direction_variance], axis=1)
    found = departure.along(directions - directions.mean(axis=0), open_variance)
    best = np.argsort(-found.mean, kind="stable").tolist()
    liked = [i for i in best if found.mean[i] > 0 and found.probability[i] >= SHOWN_AT]
    disliked = [i for i in reversed(best) if found.mean[i] < 0 and found.probability[i] <= 1 - SHOWN_AT]
    return tuple(
        TextReason(rows[i], float(found.mean[i]), float(found.std[i]), float(found.probability[i]))
        for i in (*liked[:examples], *reversed(disliked[:examples]))
    )
