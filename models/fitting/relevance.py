"""How much an answer to the question is worth: the weights of the match features in the taste that all users share.

Judgements alone cannot teach them, because people are hardly ever shown answers to another question. Pairs of an answer
to this prompt and an answer to another one (mismatched pairs) are therefore added. Of them, the answer to this prompt
is preferred. The weights maximise the likelihood of both kinds of pairs in a logistic regression; the slopes along the
segments of the cosine are at least 0 and smooth.

Judgements compare answers that all answer the question, and often contradict the mismatched pairs in how much a little
more closeness is worth. Unless the weight of the mismatched pairs is given, it is therefore the largest one at which
the judged comparisons are predicted nearly as well as without mismatched pairs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from penchant.models.encoding.match import BRIEF, COSINE, COVERAGE, MATCH_NAMES
from penchant.models.evaluation.split import bucket
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.match_basis import MatchBasis

Item = tuple[str, str]

MISMATCHED_WEIGHTS: Final = (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
"""Weights that are tried for all mismatched pairs of a source together, relative to all its judgements."""

TOLERANCE: Final = 0.005
"""Largest rise of the mean log-loss of judged comparisons that mismatched pairs may cause, in nats."""

SOURCE_WEIGHT: Final = 1000.0
"""Number of comparisons that the judgements of a source count as, if it has so many. A large source must not decide."""

MAX_COMPARISONS: Final = 4000
"""Largest number of comparisons of a source that are used, and of its mismatched pairs."""

RATINGS_EACH: Final = 4
"""Largest number of comparisons that the ratings of one user in one context are turned into."""

NEAREST: Final = 3
"""Half of the mismatched answers belong to one of so many prompts that are most similar to this one."""

KNOTS: Final = (-1.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
"""Ends of the segments of the cosine."""

SHAPE: Final = (0.07, 0.22, 0.5, 1.0, 0.7, 0.4, 0.2)
"""Relative slopes of the segments that the prior expects. Texts that do not answer the question are about equally
useless, however far they are from it, and texts that answer it are about equally useful. In between, closeness
matters most. The pairs are nearly separable, so they alone would not tell."""

SMOOTHNESS: Final = 0.03
"""Precision of the difference between adjacent slopes, each divided by its expected relative slope."""

COVERAGE_PRECISION: Final = 30.0
"""Precision of the weight of `coverage`, which the embeddings mostly know. Mismatched pairs exaggerate it: texts that
were written for a prompt repeat its words, retrieved ones need not."""

RIDGE: Final = 0.003
"""Precision of each slope, divided by its expected relative slope."""

ANCHOR: Final[Mapping[int, float]] = {COSINE: 0.65, COVERAGE: 0.75}
"""Match of an answer to its own prompt where no such answers are known."""


@runtime_checkable
class CrossTable(Protocol):
    """Features of texts that can be paired with other prompts, such as a `FeatureTable`."""

    @property
    def reads_prompts(self) -> bool:
        """Whether the vectors hold match features, after those of the text."""
        ...

    @property
    def prompt_dim(self) -> int:
        """Width of the prompt's embedding at the end of the vectors; 0 if they do not hold it."""
        ...

    def __getitem__(self, item: Item, /) -> NDArray[np.float16]:
        """Return the vector `[width]` of a judged (context, text)."""
        ...

    def cross(self, items: Sequence[Item]) -> NDArray[np.float16]:
        """Return the vectors `[n, width]` of (prompt, text) pairs."""
        ...

    def has_prompt(self, context: str) -> bool:
        """Return whether a context is a prompt whose embedding is known."""
        ...

    def get_prompt(self, context: str) -> NDArray[np.float16]:
        """Return the embedding of a prompt."""
        ...


@dataclass(frozen=True)
class Relevance:
    """The shared weights of the match features.

    Attributes:
        basis: Functions of the match features.
        weights: `[w]` weight of each function in the base utility.
    """

    basis: MatchBasis
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class _Pairs:
    """Differences `[n, w]` of the functions between the better and the worse of n items, and the weight of each pair."""

    differences: NDArray[np.float64]
    weight: float

    def select(self, columns: NDArray[np.bool_]) -> "_Pairs":
        """Return the pairs that differ in some of the columns, with those columns only."""
        chosen = self.differences[:, columns]
        return _Pairs(chosen[chosen.any(axis=1)], self.weight)

    def compute_loss(self, weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the weighted log-loss, and its gradient `[w]`."""
        margins = self.differences @ weights
        loss = self.weight * float(np.logaddexp(0.0, -margins).sum())
        return loss, -self.weight * self.differences.T @ expit(-margins)


def fit_relevance(
    judgements: Sequence[Judgement], vectors: object, mismatched_weights: Mapping[int, float] | None = None
) -> Relevance | None:
    """Fit the shared weights of the match features. Equal judgements give equal weights.

    Args:
        judgements: Judgements to fit to, each of which compares answers to its context.
        vectors: Features of every judged (context, text).
        mismatched_weights: Weight of all mismatched pairs of a source together, relative to all its judgements, by kind
            of prompt (the value of `brief`). By default, and for a kind that is not listed, it is the largest of
            `MISMATCHED_WEIGHTS` that raises the mean log-loss of the judged comparisons by at most `TOLERANCE`.

    Returns:
        None if the vectors hold no match features or cannot be paired with other prompts. The weights are 0 if no
        context is a prompt.

    Cost: a few seconds, and O(n) for n judgements.
    """
    if not isinstance(vectors, CrossTable) or not vectors.reads_prompts:
        return None
    judgements = [j for j in judgements if vectors.has_prompt(j.context)]
    answers = _group_answers(judgements)
    own = [vectors[c, t] for texts in answers.values() for c in texts for t in texts[c]]
    own_match = _select_match(vectors, np.stack(own)) if own else np.zeros((0, len(MATCH_NAMES)), np.float16)
    basis = make_basis(own_match)
    judged: list[_Pairs] = []
    mismatched: list[_Pairs] = []
    for source, texts in answers.items():
        compared = _sample_comparisons([j for j in judgements if j.source == source])
        total = min(SOURCE_WEIGHT, len(compared) or SOURCE_WEIGHT)
        for found, pairs in ((judged, compared), (mismatched, _make_mismatched(vectors, texts, source))):
            if pairs:
                found.append(_Pairs(_compute_differences(vectors, basis, pairs), total / len(pairs)))
    penalty = _make_penalty(basis)
    weights = np.zeros(len(basis))
    for kind in (0, 1):  # no function applies to both, so each is a regression of its own
        columns = basis.kind == kind
        weights[columns] = _fit_kind(
            [pairs.select(columns) for pairs in judged],
            [pairs.select(columns) for pairs in mismatched],
            penalty[np.ix_(columns, columns)],
            (mismatched_weights or {}).get(kind),
        )
    return Relevance(basis, weights)


def make_basis(own: NDArray[np.float16]) -> MatchBasis:
    """Make the functions of the match features.

    Args:
        own: `[n, len(MATCH_NAMES)]` match features of answers to their own prompts, whose medians are the anchors.
    """
    rows: list[tuple[int, float, float, float, int]] = []
    for kind in (0, 1):
        anchors = {column: _find_anchor(own[own[:, BRIEF] == kind], column) for column in (COSINE, COVERAGE)}
        rows += [(COSINE, low, high, anchors[COSINE], kind) for low, high in pairwise(KNOTS)]
        rows.append((COVERAGE, 0.0, 1.0, anchors[COVERAGE], kind))
    column, low, high, anchor, kinds = zip(*rows, strict=True)
    return MatchBasis(
        column=np.array(column, np.int64),
        # Rounded as in a bundle, so that a model serves with the numbers that it was fitted with.
        low=np.array(low, np.float32).astype(np.float64),
        high=np.array(high, np.float32).astype(np.float64),
        anchor=np.array(anchor, np.float32).astype(np.float64),
        kind=np.array(kinds, np.int64),
        kind_column=BRIEF,
        width=len(MATCH_NAMES),
    )


def _find_anchor(own: NDArray[np.float16], column: int) -> float:
    values = own[:, column].astype(np.float64)
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else ANCHOR[column]


def _group_answers(judgements: Sequence[Judgement]) -> dict[str, dict[str, list[str]]]:
    """Return the texts of each prompt, by source, in the order of their first judgement."""
    answers: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for judgement in judgements:
        answers[judgement.source][judgement.context].update(dict.fromkeys(judgement.texts))
    return {source: {c: list(texts) for c, texts in contexts.items()} for source, contexts in answers.items()}


def _sample_comparisons(judgements: Sequence[Judgement]) -> list[tuple[Item, Item]]:
    """Return (better, worse) items of a source's judgements, evenly sampled if there are many."""
    pairs: list[tuple[Item, Item]] = []
    rated: dict[Item, list[tuple[float, str]]] = defaultdict(list)
    for j in judgements:
        if not j.context.strip() or not j.weight:
            continue
        if j.form == "comparison":
            sizes = j.groups or (1,) * len(j.texts)
            start = 0
            for size in sizes:
                stop = start + size
                pairs += [
                    ((j.context, winner), (j.context, loser))
                    for winner in j.texts[start:stop]
                    for loser in j.texts[stop:]
                ]
                start = stop
        else:
            rated[j.user, j.context].append((j.normalised, j.texts[0]))
    for (_, context), ratings in rated.items():
        ratings.sort(key=lambda rating: bucket("relevance", rating[1]))
        for (value, text), (other, other_text) in islice(pairwise(ratings), RATINGS_EACH):
            if value != other and text != other_text:
                better, worse = (text, other_text) if value > other else (other_text, text)
                pairs.append(((context, better), (context, worse)))
    step = max(1, -(-len(pairs) // MAX_COMPARISONS))
    return pairs[::step]


def _make_mismatched(
    vectors: CrossTable, answers: Mapping[str, Sequence[str]], source: str
) -> list[tuple[Item, Item]]:
    """Return pairs of an answer to a prompt, and an answer to another prompt as an answer to the same one.

    At most `MAX_COMPARISONS` pairs are made, of evenly sampled prompts if there are many.
    """
    prompts = list(answers)
    if len(prompts) < 2:
        return []
    embedded = np.stack([vectors.get_prompt(prompt) for prompt in prompts]).astype(np.float32)
    embedded /= np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-6)
    rng = np.random.default_rng(int(bucket("mismatched", source) * 2**32))
    each = max(
        2, MAX_COMPARISONS // len(prompts)
    )  # of each prompt, at least one with a similar prompt's answer
    step = -(-len(prompts) * each // MAX_COMPARISONS)
    pairs = []
    for row in range(0, len(prompts), step):
        prompt = prompts[row]
        similarity = embedded @ embedded[row]
        similarity[row] = -np.inf
        nearest = np.argsort(-similarity, kind="stable")[: min(NEAREST, len(prompts) - 1)]
        own = set(answers[prompt])
        for number in range(each):
            other = int(rng.choice(nearest)) if number % 2 else int(rng.integers(len(prompts)))
            text = str(rng.choice(answers[prompts[other]]))
            if other != row and text not in own:
                pairs.append(((prompt, str(rng.choice(answers[prompt]))), (prompt, text)))
    return pairs


def _select_match(vectors: CrossTable, raw: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return the match features within raw vectors `[n, width]` of a table."""
    stop = raw.shape[1] - vectors.prompt_dim
    return raw[:, stop - len(MATCH_NAMES) : stop]


def _compute_differences(
    vectors: CrossTable, basis: MatchBasis, pairs: Sequence[tuple[Item, Item]]
) -> NDArray[np.float64]:
    better, worse = (vectors.cross([pair[side] for pair in pairs]) for side in (0, 1))
    return basis(_select_match(vectors, better)) - basis(_select_match(vectors, worse))


def _make_penalty(basis: MatchBasis) -> NDArray[np.float64]:
    """Return the precision `[w, w]` of the weights of the functions."""
    expected = np.ones(len(basis))
    for kind in (0, 1):
        expected[(basis.column == COSINE) & (basis.kind == kind)] = SHAPE
    precision = np.where(basis.column == COVERAGE, COVERAGE_PRECISION, RIDGE)
    penalty = np.diag(precision / expected**2)
    for first, second in pairwise(range(len(basis))):
        is_cosine = basis.column[first] == basis.column[second] == COSINE
        if is_cosine and basis.kind[first] == basis.kind[second]:
            change = np.zeros(len(basis))
            change[first], change[second] = -1.0 / expected[first], 1.0 / expected[second]
            penalty += SMOOTHNESS * np.outer(change, change)
    return penalty


def _fit_kind(
    judged: Sequence[_Pairs],
    mismatched: Sequence[_Pairs],
    penalty: NDArray[np.float64],
    mismatched_weight: float | None,
) -> NDArray[np.float64]:
    """Return the weights of the functions of one kind of prompt, with the given or the largest tolerable weight."""
    if mismatched_weight is not None:
        return _regress(judged, mismatched, mismatched_weight, penalty)
    total = sum(pairs.weight * len(pairs.differences) for pairs in judged)
    found = unaided = _regress(judged, mismatched, 0.0, penalty)
    for weight in MISMATCHED_WEIGHTS:
        found = _regress(judged, mismatched, weight, penalty)
        rise = sum(pairs.compute_loss(found)[0] - pairs.compute_loss(unaided)[0] for pairs in judged)
        if rise <= TOLERANCE * total:
            return found
    return found


def _regress(
    judged: Sequence[_Pairs],
    mismatched: Sequence[_Pairs],
    mismatched_weight: float,
    penalty: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the weights `[w]` of largest posterior probability. None of them is negative."""
    parts = [*judged, *(replace(pairs, weight=mismatched_weight * pairs.weight) for pairs in mismatched)]

    def objective(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, gradient = float(weights @ penalty @ weights), 2 * penalty @ weights
        for pairs in parts:
            more, slope = pairs.compute_loss(weights)
            loss, gradient = loss + more, gradient + slope
        return loss, gradient

    if not any(len(pairs.differences) for pairs in parts):
        return np.zeros(len(penalty))
    bounds = [(0.0, None)] * len(penalty)
    found = minimize(objective, np.ones(len(penalty)), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x)
