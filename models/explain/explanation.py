"""Explanation of a ranking: what makes a candidate's utility for a user, part by part.

With x the standardised features, W the text prior's weights, ȳ the mean of the population and δ = y − ȳ the user's
departure from it (`departure`), the posterior mean utility of a text is, term by term,

    E[u] = b_ref + φ_ref·ȳ                                      constant: the population's median answer
         + Σ_a (W_a0 + Σ_d z̄_d W_ad) x_a                        a named attribute a, shared
         + Σ_a (Σ_d E[δ_d] W_ad) x_a                            the same attribute, personal
         + content + memory, shared and personal                likewise
         + φ_ref·E[δ]                                           threshold: what the user departs by on any answer

The weights W_ad continue with `loadings`. Content is what the text says beyond its named attributes, as read by the
encoder (all other columns of x), measured against the reference answer; memory is what was learned of this very text
beyond what its features tell. It is the model's own sum, exactly: no surrogate is fitted and nothing is sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, ATTRIBUTE_PHRASES
from penchant.models.explain.departure import Departure
from penchant.models.explain.text_map import TextMap
from penchant.models.ranking.selection import order, relevance
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

CONTENT, MEMORY, CONSTANT, THRESHOLD = "content", "memory", "constant", "threshold"

LABELS: Final[dict[str, tuple[str, ...]]] = {
    **ATTRIBUTE_PHRASES,
    CONTENT: ("what it says, as the encoder reads it",),
    MEMORY: ("what was learned from judgements of this very text",),
    CONSTANT: ("what the population's median answer is worth",),
    THRESHOLD: ("how easily this user is satisfied",),
}
"""Plain language for every part; of an attribute, for more and for less of it."""

_NAMED: Final = len(ATTRIBUTE_NAMES)


@dataclass(frozen=True)
class Part:
    """One term of a utility.

    Attributes:
        name: An attribute of `ATTRIBUTE_NAMES`, or `content`, `memory`, `constant` (shared), `threshold` (personal).
        personal: Whether it is how this user departs from the population, or shared taste.
        label: In plain language; of an attribute, which way the candidate stands out ("shorter answers"), not whether
            that is liked: the sign of `value` says so.
        value: In units of utility (logits); posterior mean.
        std: Its standard deviation over the user's posterior; 0 of shared taste, which does not depend on the user.
    """

    name: str
    personal: bool
    label: str
    value: float
    std: float


@dataclass(frozen=True)
class Explanation:
    """What makes one candidate's utility for one user.

    Attributes:
        index: Row of the candidate in the request.
        utility: Posterior mean, as `UserPosterior.utility` gives it.
        std: Its standard deviation, with all that the text leaves open.
        population_utility: What it is worth to the population: the sum of the shared parts.
        population_rank: Its place in the ranking for a user of whom nothing is known, 1 = first.
        parts: Largest |value| first; their values sum to `utility`. Parts that are exactly 0 are left out,
            so that a user at the prior has no personal ones.
        shift: How far the candidate moved for this user against the baseline: the mean of the candidates or, of a
            single candidate, the population's median answer. The values of `moved` sum to it.
        shift_std: Its standard deviation over the user's posterior.
        probability_up: P(shift > 0).
        moved: The personal parts against the baseline, largest |value| first. What moves all candidates alike, the
            threshold first of all, moves none of them past another and is absent.
    """

    index: int
    utility: float
    std: float
    population_utility: float
    population_rank: int
    parts: tuple[Part, ...]
    shift: float
    shift_std: float
    probability_up: float
    moved: tuple[Part, ...]


def explain_items(
    reward: RewardModel,
    posterior: UserPosterior,
    vectors: NDArray[np.float16],
    item_keys: Sequence[bytes] | None = None,
    *,
    rows: Sequence[int] | None = None,
) -> tuple[Explanation, ...]:
    """What makes each candidate's utility for a user, and what moved it for this user.

    Args:
        reward: The model; its text prior must be linear in the features.
        posterior: The user.
        vectors: `[n, dim]` features of all candidates of the request: the baseline is their mean.
        item_keys: n keys from `item_key`, which look up the item memory; None: nothing is looked up.
        rows: Candidates to explain, in this order; None: all.

    Raises:
        ExplanationError: The text prior has no linear form.

    Cost: O(n a q²) for a attributes, beside that of describing and ranking the items, and some 0.5 ms a candidate
    explained.
    """
    if not len(vectors):
        return ()
    terms = _Terms.of(reward, vectors, item_keys)
    departure = Departure.of(posterior)
    items = reward.describe(vectors, item_keys)
    utility = posterior.utility(items)
    places = np.empty(len(items), np.int64)
    places[order(relevance(reward, UserPosterior.at_prior(posterior.population), items))] = np.arange(
        1, len(items) + 1
    )
    shared = terms.base + terms.directions @ departure.population
    personal, spread = terms.directions @ departure.mean, departure.spread(terms.directions)
    moved = terms.against_baseline()
    moves, moves_spread = moved.directions @ departure.mean, departure.spread(moved.directions)
    shifts = departure.along(moved.directions.sum(axis=1))
    none = np.zeros(shared.shape[1])
    return tuple(
        Explanation(
            index=int(i),
            utility=float(utility.mean[i]),
            std=float(utility.std[i]),
            population_utility=float(shared[i].sum()),
            population_rank=int(places[i]),
            parts=_sorted(
                terms.parts(i, shared[i], none, personal=False)
                + terms.parts(i, personal[i], spread[i], personal=True)
            ),
            shift=float(shifts.mean[i]),
            shift_std=float(shifts.std[i]),
            probability_up=float(shifts.probability[i]),
            moved=_sorted(moved.parts(i, moves[i], moves_spread[i], personal=True)),
        )
        for i in (range(len(items)) if rows is None else rows)
    )


@dataclass(frozen=True)
class _Terms:
    """Where n candidates stand, source by source: the named attributes, then content, memory and the reference answer.

    Attributes:
        base: `[n, s]` contributions to the base utility.
        directions: `[n, s, q]` contributions to φ.
        attributes: `[n, attributes]` standardised.
    """

    base: Vector
    directions: Vector
    attributes: Vector

    @classmethod
    def of(
        cls, reward: RewardModel, vectors: NDArray[np.float16], item_keys: Sequence[bytes] | None
    ) -> "_Terms":
        text = TextMap.of(reward, vectors.shape[1])
        x = reward.text_prior.standardiser(vectors)
        attributes, read = x[:, text.named], x @ text.weights
        reference = np.concatenate([reward.reference.base, reward.reference.directions[0]])
        terms = np.zeros((len(x), _NAMED + 3, reward.q))  # of [b; v]
        terms[:, :_NAMED] = attributes[:, :, None] * text.weights[text.named]
        terms[:, _NAMED] = read - terms[:, :_NAMED].sum(axis=1) - reference
        m = text.form.weights.shape[1]
        for i, key in enumerate(item_keys or ()):
            row = reward.memory.rows.get(key)
            if row is not None:
                terms[i, _NAMED + 1, :m] = reward.memory.means[row] - read[i, :m]
        terms[:, _NAMED + 2] = reference
        base = terms[:, :, 0].copy()
        terms[:, :, 0] = 0.0
        terms[:, _NAMED + 2, 0] = 1.0  # the user's own threshold stands behind every answer
        return cls(base, terms, attributes)

    def against_baseline(self) -> "_Terms":
        """The same against the mean of the candidates; of a single one, against the reference answer."""
        base, directions, attributes = map(_against_mean, (self.base, self.directions, self.attributes))
        base[:, -1], directions[:, -1] = 0.0, 0.0  # one answer's constant and threshold are every answer's
        return _Terms(base, directions, attributes)

    def parts(self, i: int, values: Vector, stds: Vector, *, personal: bool) -> list[Part]:
        """The parts of candidate i that are not 0; `values` and `stds` are `[s]`."""
        names = (*ATTRIBUTE_NAMES, CONTENT, MEMORY, THRESHOLD if personal else CONSTANT)
        less = [*(self.attributes[i] < 0).tolist(), False, False, False]
        return [
            Part(name, personal, LABELS[name][below], value, std)
            for name, below, value, std in zip(names, less, values.tolist(), stds.tolist(), strict=True)
            if value != 0
        ]


def _against_mean(rows: Vector) -> Vector:
    """Rows `[n, ...]` minus their mean, exactly 0 where all are equal; a single one as it is."""
    if len(rows) == 1:
        return rows.copy()
    offsets = rows - rows[0]
    return np.asarray(offsets - offsets.mean(axis=0))


def _sorted(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: -abs(part.value)))
