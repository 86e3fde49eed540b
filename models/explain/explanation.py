"""Explanation of a ranking: the parts that add up to a candidate's utility for a user.

With x the standardised features, W the text prior's weights, ȳ the mean of the population and δ = y − ȳ the user's
deviation from it (see `deviation`), the posterior mean utility of a text is

    E[u] = b_ref + φ_ref·ȳ                                      constant: the population's median answer
         + Σ_a (W_a0 + Σ_d z̄_d W_ad) x_a                        a named attribute a, shared
         + Σ_a (Σ_d E[δ_d] W_ad) x_a                            the same attribute, personal
         + relevance + content + memory, shared and personal    of the same form
         + φ_ref·E[δ]                                           threshold: the user's deviation on every answer

The weights W_ad include `loadings`, and the products of a gate, for which W_ad is the gated direction's weight times the
gate value of the candidate's prompt. Relevance is the contribution of the match of the text and its prompt. Content is
that of all other columns of x (the embedding) relative to the reference answer. Memory is the learned residual of this
text. The sum is exact: no surrogate model is fitted, and nothing is sampled. At a strength of personalization α (see
`ranking.personalization`), the personal parts are multiplied by α, and their variances are interpolated between those
of the population and of the user.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, ATTRIBUTE_PHRASES
from penchant.models.explain.deviation import Deviation
from penchant.models.explain.qualities import RELEVANCE
from penchant.models.explain.text_map import TextMap
from penchant.models.ranking.personalization import blend_means, blend_probabilities, blend_stds
from penchant.models.ranking.selection import order, relevance
from penchant.models.taste.items import Items
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

CONTENT, MEMORY, CONSTANT, THRESHOLD = "content", "memory", "constant", "threshold"

LABELS: Final[dict[str, tuple[str, ...]]] = {
    **ATTRIBUTE_PHRASES,
    RELEVANCE: ("answers the question more closely", "answers the question less closely"),
    CONTENT: ("what it says, as the encoder reads it",),
    MEMORY: ("what was learned from judgements of this very text",),
    CONSTANT: ("what the population's median answer is worth",),
    THRESHOLD: ("how easily this user is satisfied",),
}
"""Plain language for every part; for an attribute and for relevance, labels of more and of less of it."""

_RELEVANCE: Final = len(ATTRIBUTE_NAMES)
_CONTENT: Final = _RELEVANCE + 1


@dataclass(frozen=True)
class Part:
    """One term of a utility.

    Attributes:
        name: An attribute of `ATTRIBUTE_NAMES`, or `relevance`, `content`, `memory`, `constant` (shared), `threshold`
            (personal). There is no `relevance` without a prompt, or if the model reads no prompts.
        personal: Whether the part is this user's deviation from the population, rather than shared taste.
        label: Plain language. For an attribute, the direction in which the candidate differs ("shorter answers");
            whether the user likes that is the sign of `value`. For `relevance`, whether its match is worth more or less
            to the population than that of the median answer or, in `moved`, than that of the other candidates.
        value: Posterior mean, in units of utility (logits).
        std: Standard deviation over the user's posterior; 0 for shared taste, which does not depend on the user.
    """

    name: str
    personal: bool
    label: str
    value: float
    std: float


@dataclass(frozen=True)
class Explanation:
    """The parts of one candidate's utility for one user.

    Attributes:
        index: Row of the candidate in the request.
        utility: Posterior mean, equal to that of `UserPosterior.utility` at full personalization.
        std: Standard deviation of the utility, residuals included.
        population_utility: Utility for the population: the sum of the shared parts.
        population_rank: Rank for a user without judgements, 1 = first.
        parts: Parts of the utility, largest |value| first; their values sum to `utility`. Parts that are exactly 0 are
            omitted, so that a user at the prior has no personal ones.
        shift: Personal utility relative to the baseline, which is the mean of the candidates or, for a single candidate,
            the population's median answer. The values of `moved` sum to it.
        shift_std: Standard deviation of the shift over the user's posterior.
        probability_up: P(shift > 0).
        moved: Personal parts relative to the baseline, largest |value| first. Parts that are equal for all candidates,
            such as the threshold, do not change the order and are omitted.
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
    personalization: float = 1.0,
) -> tuple[Explanation, ...]:
    """Return the parts of each candidate's utility, and those that moved it for this user.

    Args:
        reward: The model. Its text prior must be linear in the features.
        posterior: Posterior of the user.
        vectors: `[n, width]` features of all candidates of the request; their mean is the baseline. `[n, dim]` features
            have no match.
        item_keys: n keys from `item_key`, looked up in the item memory. If None, the item memory is not used.
        rows: Candidates to explain, in this order. None for all.
        personalization: Strength of personalization, from 0 (the explanations for the population) to 1.

    Raises:
        ExplanationError: If the text prior is not linear.
        PersonalizationError: If the strength is not from 0 to 1.

    Cost: O(n a q²) for a attributes, beside that of describing and ranking the items, and about 0.5 ms for each
    explained candidate.
    """
    return tuple(
        iterate_explanations(
            reward, posterior, vectors, item_keys, rows=rows, personalization=personalization
        )
    )


def iterate_explanations(
    reward: RewardModel,
    posterior: UserPosterior,
    vectors: NDArray[np.float16],
    item_keys: Sequence[bytes] | None = None,
    *,
    rows: Sequence[int] | None = None,
    personalization: float = 1.0,
) -> Iterator[Explanation]:
    """Yield what `explain_items` returns, one explanation at a time. Each has about 100 objects."""
    if not len(vectors):
        return
    terms = _Terms.build(reward, posterior.population.prior.mean, vectors, item_keys)
    moved = terms.against_baseline()
    items = reward.describe(vectors, item_keys)
    population = UserPosterior.at_prior(posterior.population)
    places = np.empty(len(items), np.int64)
    places[order(relevance(reward, population, items))] = np.arange(1, len(items) + 1)
    shared = terms.base + terms.directions @ posterior.population.prior.mean
    personal = _PersonalTerms.compute(posterior, items, terms, moved)
    if personalization != 1:
        start = _PersonalTerms.compute(population, items, terms, moved)
        personal = _PersonalTerms.blend(start, personal, personalization)
    none = np.zeros(shared.shape[1])
    for i in range(len(items)) if rows is None else rows:
        yield Explanation(
            index=int(i),
            utility=float(personal.utility.mean[i]),
            std=float(personal.utility.std[i]),
            population_utility=float(shared[i].sum()),
            population_rank=int(places[i]),
            parts=_sorted(
                terms.parts(i, shared[i], none, personal=False)
                + terms.parts(i, personal.parts.mean[i], personal.parts.std[i], personal=True)
            ),
            shift=float(personal.shift.mean[i]),
            shift_std=float(personal.shift.std[i]),
            probability_up=float(personal.probability_up[i]),
            moved=_sorted(moved.parts(i, personal.moves.mean[i], personal.moves.std[i], personal=True)),
        )


class _Moments(NamedTuple):
    """Means and standard deviations, of the same shape."""

    mean: Vector
    std: Vector

    @classmethod
    def blend(cls, population: "_Moments", user: "_Moments", personalization: float) -> "_Moments":
        """Return the moments at a strength of personalization."""
        return cls(
            blend_means(population.mean, user.mean, personalization),
            blend_stds(population.std, user.std, personalization),
        )


class _PersonalTerms(NamedTuple):
    """The terms of n explanations that depend on the user.

    Attributes:
        utility: `[n]` utilities.
        parts: `[n, s]` personal parts by source.
        moves: `[n, s]` personal parts relative to the baseline.
        shift: `[n]` sums of `moves` over the sources.
        probability_up: `[n]` P(shift > 0).
    """

    utility: _Moments
    parts: _Moments
    moves: _Moments
    shift: _Moments
    probability_up: Vector

    @classmethod
    def compute(
        cls, posterior: UserPosterior, items: Items, terms: "_Terms", moved: "_Terms"
    ) -> "_PersonalTerms":
        """Return the terms of one user."""
        utility, deviation = posterior.utility(items), Deviation.from_posterior(posterior)
        shifts = deviation.estimate(moved.directions.sum(axis=1))
        return cls(
            _Moments(utility.mean, utility.std),
            _Moments(terms.directions @ deviation.mean, deviation.std(terms.directions)),
            _Moments(moved.directions @ deviation.mean, deviation.std(moved.directions)),
            _Moments(shifts.mean, shifts.std),
            shifts.probability,
        )

    @classmethod
    def blend(
        cls, population: "_PersonalTerms", user: "_PersonalTerms", personalization: float
    ) -> "_PersonalTerms":
        """Return the terms at a strength of personalization."""
        return cls(
            _Moments.blend(population.utility, user.utility, personalization),
            _Moments.blend(population.parts, user.parts, personalization),
            _Moments.blend(population.moves, user.moves, personalization),
            _Moments.blend(population.shift, user.shift, personalization),
            blend_probabilities(population.probability_up, user.probability_up, personalization),
        )


@dataclass(frozen=True)
class _Terms:
    """Contributions of s sources to n items: attributes, relevance, content, memory and the reference answer.

    Attributes:
        base: `[n, s]` contributions to the base utility.
        directions: `[n, s, q]` contributions to φ.
        qualities: `[n, attributes + 1]` standardised attributes, and what the match is worth to the population.
    """

    base: Vector
    directions: Vector
    qualities: Vector

    @classmethod
    def build(
        cls,
        reward: RewardModel,
        population: Vector,
        vectors: NDArray[np.float16],
        item_keys: Sequence[bytes] | None,
    ) -> "_Terms":
        """Return the terms of items. `population` is the mean `[q]` of its users."""
        text = TextMap.from_reward(reward)
        x = reward.text_prior.standardiser(vectors)
        gates = reward.compute_gates(vectors)
        attributes, read = x[:, text.named], text.read(x, gates)
        reference = np.concatenate([reward.reference.base, reward.reference.directions[0]])
        terms = np.zeros((len(x), _CONTENT + 3, reward.q))  # of [b; v]
        terms[:, :_RELEVANCE] = text.read_named(x, gates)
        terms[:, _RELEVANCE] = text.read(text.keep(x, text.matched), gates)
        terms[:, _CONTENT] = read - terms[:, :_CONTENT].sum(axis=1) - reference
        m = text.form.weights.shape[1]
        for i, key in enumerate(item_keys or ()):
            row = reward.memory.rows.get(key)
            if row is not None:
                terms[i, _CONTENT + 1, :m] = reward.memory.means[row] - read[i, :m]
                terms[i, _CONTENT + 1, 0] += reward.get_declared(x[i])
        terms[:, _CONTENT + 2] = reference
        base = terms[:, :, 0].copy()
        terms[:, :, 0] = 0.0
        terms[:, _CONTENT + 2, 0] = 1.0  # the threshold contributes to every answer
        worth = x[:, text.matched] @ text.match_worth(population)
        return cls(base, terms, np.column_stack([attributes, worth]))

    def against_baseline(self) -> "_Terms":
        """Contributions relative to the mean of the candidates, or to the reference answer for a single candidate."""
        base, directions, qualities = map(_against_mean, (self.base, self.directions, self.qualities))
        base[:, -1], directions[:, -1] = 0.0, 0.0  # constant and threshold are equal for all answers
        return _Terms(base, directions, qualities)

    def parts(self, i: int, values: Vector, stds: Vector, *, personal: bool) -> list[Part]:
        """The parts of candidate i that are not 0; `values` and `stds` are `[s]`."""
        names = (*ATTRIBUTE_NAMES, RELEVANCE, CONTENT, MEMORY, THRESHOLD if personal else CONSTANT)
        less = [*(self.qualities[i] < 0).tolist(), False, False, False]
        return [
            Part(name, personal, LABELS[name][below], value, std)
            for name, below, value, std in zip(names, less, values.tolist(), stds.tolist(), strict=True)
            if value != 0
        ]


def _against_mean(rows: Vector) -> Vector:
    """Rows `[n, ...]` minus their mean, exactly 0 if all are equal. A single row is unchanged."""
    if len(rows) == 1:
        return rows.copy()
    offsets = rows - rows[0]
    return np.asarray(offsets - offsets.mean(axis=0))


def _sorted(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: -abs(part.value)))
