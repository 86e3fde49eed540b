"""Shared weights of the match: learned from pairs of answers to this and to another prompt."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from penchant.models.encoding.extract import FeatureTable, extract_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.match import BRIEF, COSINE, COVERAGE, MATCH_NAMES
from penchant.models.fitting import relevance
from penchant.models.fitting.relevance import (
    ANCHOR,
    KNOTS,
    Relevance,
    fit_relevance,
    make_basis,
)
from penchant.models.judgements.judgement import Judgement

EXTRACTOR = FeatureExtractor(HashingEncoder())
FILLING = "plain words that say little about anything at all in particular".split()  # noqa: SIM905
STYLES = ("please", "sharply")


@pytest.fixture(autouse=True)
def _few_comparisons(monkeypatch) -> None:
    """Fewer comparisons than in a real fit keep the tests quick."""
    monkeypatch.setattr(relevance, "MAX_COMPARISONS", 400)


def ask(number: int, *, brief: bool = False) -> str:
    start = "Write a report.\nTopic:" if brief else "Tell me about"
    return f"{start} topic{number} subject{number}"


def answer(rng: np.random.Generator, number: int, style: str, *, named: int = 2) -> str:
    """Return an answer that names up to two words of its question."""
    words = [f"topic{number}", f"subject{number}"][:named]
    return " ".join([*rng.choice(FILLING, 4), *words, style, f"#{rng.integers(10**9)}"])


def compare(
    rng: np.random.Generator,
    n: int,
    *,
    source: str = "default",
    first: int = 0,
    prompts: int = 30,
    **kind: bool,
) -> list[Judgement]:
    """Return n comparisons of answers to the same question, which differ in style only."""
    rows = []
    for i in range(n):
        number = first + i % prompts
        better, worse = (answer(rng, number, style) for style in STYLES)
        rows.append(Judgement(f"u{i % 7}", ask(number, **kind), "pair", (better, worse), source=source))
    return rows


def compute_worth(found: Relevance, table: FeatureTable, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    return found.basis(table.cross(pairs)[:, -len(MATCH_NAMES) :]) @ found.weights


def fit(rows: Sequence[Judgement], weight: float | None = None) -> Relevance:
    weights = None if weight is None else dict.fromkeys((0, 1), weight)
    found = fit_relevance(rows, extract_features(rows, EXTRACTOR), weights)
    assert found is not None
    return found


# ---------------------------------------------------------------- what is learned


@pytest.mark.parametrize("brief", [False, True])
def test_an_answer_to_another_question_loses(rng, brief):
    rows = compare(rng, 150, brief=brief)
    table = extract_features(rows, EXTRACTOR)
    found = fit_relevance(rows, table, {0: 5.0, 1: 5.0})
    assert found is not None
    own = [(j.context, j.texts[0]) for j in rows]
    other = [(j.context, rows[(i + 1) % 150].texts[0]) for i, j in enumerate(rows)]
    own_worth, other_worth = compute_worth(found, table, own), compute_worth(found, table, other)
    # Hashed words collide here and there.
    assert (own_worth > other_worth).mean() > 0.95
    assert np.median(own_worth) > np.median(other_worth) + 1
    assert np.median(own_worth) == pytest.approx(0, abs=0.2)  # the median answer to its own prompt is at 0
    # The other kind of prompt does not occur, so nothing is known of it.
    assert not found.weights[found.basis.kind != int(brief)].any()
    assert found.weights[found.basis.kind == int(brief)].max() > 1


def test_slopes_are_never_negative(rng):
    """Users who always prefer the answer that is further from the question cannot turn relevance around."""
    rows = []
    for i in range(200):
        near, far = (answer(rng, i % 30, "plain", named=named) for named in (2, 1))
        rows.append(Judgement("u", ask(i % 30), "pair", (far, near)))
    found = fit(rows)
    assert (found.weights >= 0).all()
    alone = fit(compare(rng, 200))
    # A preference for far answers lowers the worth of being near.
    assert found.weights.sum() < alone.weights.sum()


def test_comparisons_between_answers_count_too(rng):
    """The nearer of two answers to the same question wins, always or by chance."""
    rows, mixed = [], []
    for i in range(300):
        near, far = (answer(rng, i % 30, "plain", named=named) for named in (2, 1))
        rows.append(Judgement("u", ask(i % 30), "pair", (near, far)))
        mixed.append(replace(rows[-1], texts=(near, far) if i % 2 else (far, near)))
    table = extract_features(rows, EXTRACTOR)
    pairs = [[(j.context, j.texts[side]) for j in rows] for side in (0, 1)]
    gains = []
    for judged in (rows, mixed):
        found = fit_relevance(judged, table)
        assert found is not None
        gains.append(np.mean(compute_worth(found, table, pairs[0]) - compute_worth(found, table, pairs[1])))
    assert gains[0] > 1.2 * gains[1]


@pytest.mark.parametrize("kind", ["rating", "ranking", "choice", "vote"])
def test_all_kinds_of_judgements_are_compared(rng, monkeypatch, kind):
    rows = []
    for i in range(200):
        near, middle, far = (answer(rng, i % 30, "plain", named=named) for named in (2, 1, 0))
        match kind:
            case "rating":
                rows += [
                    Judgement(f"u{i}", ask(i % 30), "rating", (text,), value, (1.0, 5.0))
                    for text, value in ((near, 5.0), (middle, 3.0), (far, 1.0))
                ]
            case "vote":
                rows += [
                    Judgement(f"u{i}", ask(i % 30), "vote", (near,), 1.0),
                    Judgement(f"u{i}", ask(i % 30), "vote", (far,), -1.0),
                ]
            case "ranking":
                rows.append(Judgement("u", ask(i % 30), "ranking", (near, middle, far)))
            case _:
                rows.append(Judgement("u", ask(i % 30), "choice", (near, middle, far), groups=(1, 2)))
    monkeypatch.setattr(relevance, "MAX_COMPARISONS", 1000)
    pairs = relevance._sample_comparisons(rows)
    if kind in {"ranking", "choice"}:
        assert len(pairs) == (600 if kind == "ranking" else 400)
    else:
        assert len(pairs) >= 200
    for (context, better), (other_context, worse) in pairs:
        assert context == other_context
        assert better.count("topic") + better.count("subject") > worse.count("topic") + worse.count("subject")


def test_judgements_without_weight_or_prompt_are_not_compared(rng):
    rows = compare(rng, 4)
    nothing = [replace(rows[0], weight=0.0), replace(rows[1], context=" \n")]
    assert relevance._sample_comparisons(nothing) == []
    assert len(relevance._sample_comparisons([*rows, *nothing])) == 4
    tied = Judgement("u", "q", "ranking", ("a", "b", "c"), groups=(2, 1))
    assert relevance._sample_comparisons([tied]) == [(("q", "a"), ("q", "c")), (("q", "b"), ("q", "c"))]


# ---------------------------------------------------------------- how much mismatched pairs may decide


def prefer_far(rng: np.random.Generator, n: int, **kind: bool) -> list[Judgement]:
    """Return n comparisons in which the answer that is further from the question wins nine times out of ten."""
    rows = []
    for i in range(n):
        texts = [answer(rng, i % 30, "plain", named=named) for named in (1, 2)]
        chosen, rejected = texts if i % 10 else reversed(texts)
        rows.append(Judgement("u", ask(i % 30, **kind), "pair", (chosen, rejected)))
    return rows


def mean_loss(found: Relevance, table: FeatureTable, rows: Sequence[Judgement]) -> float:
    """Return the mean log-loss of comparisons of two texts."""
    better, worse = (
        compute_worth(found, table, [(j.context, j.texts[side]) for j in rows]) for side in (0, 1)
    )
    return float(np.logaddexp(0, worse - better).mean())


def test_mismatched_pairs_hardly_worsen_the_prediction_of_judgements(rng):
    rows = prefer_far(rng, 300)
    table = extract_features(rows, EXTRACTOR)
    unaided, free, given = (fit_relevance(rows, table, weights) for weights in ({0: 0.0}, None, {0: 5.0}))
    assert unaided is not None
    assert free is not None
    assert given is not None
    losses = [mean_loss(found, table, rows) for found in (unaided, free, given)]
    assert losses[1] <= losses[0] + relevance.TOLERANCE + 1e-6
    assert losses[2] > losses[0] + 10 * relevance.TOLERANCE
    assert 0 < free.weights.sum() < given.weights.sum()


def test_judgements_that_agree_leave_mismatched_pairs_their_largest_weight(rng):
    rows = [replace(j, texts=j.texts[::-1]) for j in prefer_far(rng, 300)]
    table = extract_features(rows, EXTRACTOR)
    free, given = (
        fit_relevance(rows, table, weight) for weight in (None, {0: relevance.MISMATCHED_WEIGHTS[1]})
    )
    assert free is not None
    assert given is not None
    assert free.weights.sum() >= given.weights.sum()


def test_each_kind_of_prompt_has_its_own_weight(rng):
    """Judgements about short prompts do not change what is learned about long ones."""
    brief = compare(rng, 100, brief=True)
    alone = fit(brief)
    both = fit([*brief, *prefer_far(rng, 100)])
    of_kind = alone.basis.kind == 1
    scale = 100 / 200  # the source's weight is shared by all of its judgements
    assert both.weights[of_kind].sum() > scale * alone.weights[of_kind].sum() > 0


def test_closeness_matters_most_between_useless_and_useful():
    """Pairs that differ in all segments alike, and so cannot tell one slope from another, leave the expected shape."""
    basis = make_basis(np.zeros((0, len(MATCH_NAMES)), np.float16))
    columns = basis.kind == 0
    penalty = relevance._make_penalty(basis)[np.ix_(columns, columns)]
    spread = np.where(basis.column[columns] == COSINE, 0.1, 0.0)
    pairs = relevance._Pairs(np.tile(spread, (50, 1)), 1.0)
    slopes = relevance._regress([], [pairs], 1.0, penalty)[:-1]
    assert slopes.argmax() == np.argmax(relevance.SHAPE)
    assert (np.diff(slopes[:4]) > 0).all()
    assert (np.diff(slopes[3:]) < 0).all()


# ---------------------------------------------------------------- limits


def test_without_prompts_all_weights_are_zero(rng):
    rows = [replace(j, context="") for j in compare(rng, 20)]
    found = fit(rows)
    assert not found.weights.any()
    assert set(found.basis.anchor) == {np.float32(ANCHOR[COSINE]), np.float32(ANCHOR[COVERAGE])}
    assert fit_relevance([], extract_features(rows, EXTRACTOR)).weights.tolist() == [0.0] * len(found.basis)


def test_one_prompt_has_no_mismatched_answers(rng):
    rows = compare(rng, 20, prompts=1)
    table = extract_features(rows, EXTRACTOR)
    answers = relevance._group_answers(rows)["default"]
    assert relevance._make_mismatched(table, answers, "default") == []
    assert np.isfinite(fit(rows).weights).all()


def test_plain_features_have_no_relevance(rng):
    rows = compare(rng, 5)
    table = extract_features(rows, EXTRACTOR)
    assert fit_relevance(rows, dict(table)) is None
    unread = FeatureExtractor(HashingEncoder(), reads_prompts=False)
    assert fit_relevance(rows, extract_features(rows, unread)) is None
    joint = FeatureExtractor(HashingEncoder(joint=True))
    assert fit_relevance(rows, extract_features(rows, joint)) is None


def test_equal_input_gives_equal_output(rng):
    rows = compare(rng, 90)
    first, second = fit(rows), fit(list(rows))
    np.testing.assert_array_equal(first.weights, second.weights)
    for name in ("column", "low", "high", "anchor", "kind"):
        np.testing.assert_array_equal(getattr(first.basis, name), getattr(second.basis, name))


def test_a_large_source_does_not_decide(rng, monkeypatch):
    """Beyond a number of comparisons, a source counts no more."""
    monkeypatch.setattr(relevance, "SOURCE_WEIGHT", 120.0)
    large, small = [], compare(rng, 40, source="small")
    for i in range(120):
        near, far = (answer(rng, i % 30, "plain", named=named) for named in (2, 1))
        large.append(Judgement(f"u{i}", ask(i % 30), "pair", (far, near), source="large"))
    table = extract_features([*large, *small], EXTRACTOR)
    once, thrice, few = (
        fit_relevance(rows, table).weights
        for rows in ([*large, *small], [*large * 3, *small], [*large[:30], *small])
    )
    np.testing.assert_allclose(once, thrice, atol=1e-3)
    assert np.abs(once - few).max() > 0.05


def test_many_prompts_have_a_bounded_number_of_mismatched_answers(rng, monkeypatch):
    """Half of the answers belong to prompts that are similar to the prompt, however many prompts there are."""
    rows = compare(rng, 120, prompts=60)
    table = extract_features(rows, EXTRACTOR)
    answers = relevance._group_answers(rows)["default"]
    whose = {text: prompt for prompt, texts in answers.items() for text in texts}
    embedded = {prompt: table.get_prompt(prompt).astype(float) for prompt in answers}
    embedded = {prompt: row / np.linalg.norm(row) for prompt, row in embedded.items()}
    for most in (40, 130, 400):
        monkeypatch.setattr(relevance, "MAX_COMPARISONS", most)
        pairs = relevance._make_mismatched(table, answers, "default")
        assert 0.75 * most < len(pairs) <= most
        near = 0
        for (prompt, own), (same, other) in pairs:
            assert prompt == same == whose[own] != whose[other]
            similar = sorted(embedded, key=lambda p: -(embedded[p] @ embedded[prompt]))[1:4]
            near += whose[other] in similar
        assert near >= 0.4 * len(pairs)


# ---------------------------------------------------------------- the functions


def test_functions_are_zero_at_the_median_answer():
    own = np.full((6, len(MATCH_NAMES)), np.nan, np.float16)
    own[:, COSINE] = [0.5, 0.7, 0.9, 0.1, 0.3, np.nan]
    own[:, COVERAGE] = [0.25, 0.5, 1.0, np.nan, np.nan, np.nan]
    own[:, BRIEF] = [0, 0, 0, 1, 1, 1]
    basis = make_basis(own)
    assert len(basis) == 2 * len(KNOTS)
    for kind, cosine, coverage in ((0, 0.7, 0.5), (1, 0.2, ANCHOR[COVERAGE])):
        of_kind = basis.kind == kind
        anchors = basis.anchor[of_kind & (basis.column == COSINE)]
        np.testing.assert_allclose(anchors, cosine, atol=1e-3)
        assert basis.anchor[of_kind & (basis.column == COVERAGE)] == pytest.approx([coverage], abs=1e-3)
        np.testing.assert_allclose(basis.low[of_kind & (basis.column == COSINE)], KNOTS[:-1], atol=1e-6)
        np.testing.assert_allclose(basis.high[of_kind & (basis.column == COSINE)], KNOTS[1:], atol=1e-6)
    coverage_anchor = basis.anchor[(basis.column == COVERAGE) & (basis.kind == 0)].item()
    median = np.array([[basis.anchor[0], coverage_anchor, 0.0, np.nan]])
    np.testing.assert_array_equal(basis(median), 0.0)
