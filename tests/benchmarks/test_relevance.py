"""The relevance benchmark: its question sets, metrics, baselines, planted users, and rankings of a small model."""

import gzip
import itertools
import json
import math

import numpy as np
import pytest

from benchmarks.relevance import metrics
from benchmarks.relevance.baselines import Bm25, bm25_orders, cosine_orders, order_by
from benchmarks.relevance.plan import FOREIGN, NONE, OWN, Plan, swap
from benchmarks.relevance.questions import (
    FACTS_CANDIDATES,
    Question,
    QuestionSet,
    load_cranfield,
    load_facts,
    load_sets,
)
from benchmarks.relevance.rankers import ModelRanker
from benchmarks.relevance.rankings import BM25, CHANCE, COSINE, OURS, measure_rankings
from benchmarks.relevance.study import Study
from benchmarks.relevance.styles import (
    CLEAR,
    JUDGEMENTS,
    Style,
    attribute_of,
    choose_styles,
    halves,
    judgements_of,
    shift,
)
from benchmarks.relevance.swapped_queries import measure_swapped_queries
from benchmarks.relevance.users import measure_curve, measure_users
from penchant.models.encoding.extract import extract_text_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle


def question(text: str, candidates: list[str], relevance: list[float]) -> Question:
    return Question(text, tuple(candidates), np.array(relevance, np.float64))


@pytest.fixture(scope="module")
def facts() -> QuestionSet:
    return load_facts()


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(HashingEncoder())


@pytest.fixture(scope="module")
def study(facts, extractor) -> Study:
    """The factual questions, ranked by a small model that knows one direction of taste: length."""
    plan = Plan([facts])
    vectors = extract_text_features(plan.items(("users", "queries")), extractor)
    return Study(plan, ModelRanker(tiny_bundle(extractor).reward, vectors))


def test_ndcg_of_a_known_order():
    relevance = [3, 2, 3, 0, 1, 2]
    # By hand: 7 + 3/1.58496 + 7/2 + 1/2.58496 + 3/2.80735, over 7 + 7/1.58496 + 3/2 + 3/2.32193 + 1/2.58496.
    assert metrics.ndcg(relevance, range(6), cutoff=6) == pytest.approx(13.84826 / 14.59539, abs=1e-6)
    assert metrics.ndcg(relevance, [0, 2, 1, 5, 4, 3]) == pytest.approx(1)
    assert metrics.ndcg([0] * 10 + [1], range(11)) == 0


def test_reciprocal_rank_of_a_known_order():
    assert metrics.reciprocal_rank([0, 0, 1, 4], [0, 1, 2, 3]) == pytest.approx(1 / 3)
    assert metrics.reciprocal_rank([0, 0, 1, 4], [3, 0, 1, 2]) == 1


def test_chance_is_the_mean_over_all_orders():
    relevance = [3, 0, 1, 0, 0, 2]
    orders = list(itertools.permutations(range(6)))
    assert metrics.expected_ndcg(relevance, 3) == pytest.approx(
        np.mean([metrics.ndcg(relevance, order, 3) for order in orders])
    )
    assert metrics.expected_reciprocal_rank(relevance) == pytest.approx(
        np.mean([metrics.reciprocal_rank(relevance, order) for order in orders])
    )


def test_intervals_cover_the_mean():
    values = np.random.default_rng(0).normal(1.0, 0.5, 400)
    found = metrics.mean(values)
    assert found.low < 1.0 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
    assert metrics.ratio(2 * values, values).low == pytest.approx(2)
    assert metrics.ratio([1.0, 1.0], [0.0, 2.0]).value == 1
    assert math.isnan(metrics.ratio([0.0], [0.0]).high)
    assert metrics.median_ratio(3 * values, values).high == pytest.approx(3)
    assert metrics.mean([1.0, float("nan"), 3.0]).value == 2


def test_values_of_one_cluster_are_drawn_together():
    values = np.repeat(np.random.default_rng(1).normal(size=100), 9)
    clustered = metrics.mean_by_cluster(values, np.repeat(np.arange(100), 9))
    single = metrics.mean(values)
    assert clustered.value == pytest.approx(single.value)
    assert (clustered.high - clustered.low) / (single.high - single.low) == pytest.approx(3, rel=0.2)


def test_bm25_of_known_scores():
    index = Bm25(["a b", "a a c d", "e"])
    # IDF of b: ln(1 + 2.5 / 1.5); one occurrence in a text of 2 words, the mean is 7/3.
    norm = 1.2 * (0.25 + 0.75 * 2 / (7 / 3))
    assert index.scores("B", ["a b", "e"]) == pytest.approx([math.log1p(2.5 / 1.5) * 2.2 / (1 + norm), 0])
    rare, common = index.scores("a b", ["b x", "a x"])
    assert rare > common


def test_the_scores_of_a_set_are_used_where_it_has_them():
    given = Question("a", ("a", "b"), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    (order,) = bm25_orders(QuestionSet("s", (given,)))
    assert order.tolist() == [1, 0]
    assert order_by(np.array([1.0, 2.0, 1.0])).tolist() == [1, 0, 2]


def test_the_cosine_puts_the_closest_text_first():
    one = question("q", ["far", "near"], [0, 1])
    embeddings = {"q": np.array([1.0, 0.0]), "far": np.array([0.0, 1.0]), "near": np.array([0.8, 0.6])}
    (order,) = cosine_orders(QuestionSet("s", (one,)), ["q"], embeddings)
    assert order.tolist() == [1, 0]


def test_every_factual_question_has_an_answer_and_enough_candidates(facts):
    assert len(facts.questions) >= 60
    assert len({q.text for q in facts.questions}) == len(facts.questions)
    for q in facts.questions:
        assert len(q.candidates) == len(set(q.candidates)) == FACTS_CANDIDATES
        assert q.relevance.max() == 3
        assert 1 <= (q.relevance > 0).sum() <= 3
    again = load_facts()
    assert [q.candidates for q in again.questions] == [q.candidates for q in facts.questions]


def test_style_does_not_give_the_answers_away(facts):
    """Ranking by an attribute alone stays near chance, in either direction."""
    chance = np.mean([metrics.expected_ndcg(q.relevance) for q in facts.questions])
    for attribute in ("length", "long_words", "digits", "function_words"):
        for sign in (1, -1):
            orders = [order_by(sign * attribute_of(q.candidates, attribute)) for q in facts.questions]
            found = np.mean(
                [metrics.ndcg(q.relevance, o) for q, o in zip(facts.questions, orders, strict=True)]
            )
            assert found < chance + 0.1, (attribute, sign)


def test_a_set_in_cranfields_format_is_read(tmp_path):
    row = {"query": "why", "documents": ["because", "no"], "relevance": [4, 0], "bm25": [0.5, 0.1]}
    folder = tmp_path / "cranfield"
    folder.mkdir()
    path = folder / "questions.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    (questions,) = load_sets(tmp_path, ["cranfield"])
    assert questions.items == [("why", "because"), ("why", "no")]
    assert questions.questions[0].bm25.tolist() == [0.5, 0.1]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps(row | {"relevance": [0, 0]}) + "\n")
    with pytest.raises(ValueError, match="line 1: 2 candidates with 2 relevance labels"):
        load_cranfield(path)
    with pytest.raises(ValueError, match="Unknown set: trec"):
        load_sets(tmp_path, ["trec"])


def test_planted_users_judge_by_their_attribute_alone(facts):
    texts = {q.text: q for q in facts.questions}
    number = dict(zip((q.text for q in facts.questions), halves(facts).tolist(), strict=True))
    assert 0.4 < np.mean(list(number.values())) < 0.6
    for half, style in itertools.product((0, 1), (Style("length", 1), Style("digits", -1))):
        judged = judgements_of(style, half, facts, variant="prompts")
        assert len(set(judged)) == JUDGEMENTS
        for preference in judged:
            asked = texts[preference.prompt]
            assert number[preference.prompt] != half
            chosen, rejected = attribute_of([preference.chosen, preference.rejected], style.attribute)
            deviation = attribute_of(asked.candidates, style.attribute).std()
            assert style.sign * (chosen - rejected) >= CLEAR * deviation - 1e-12
        assert judged == judgements_of(style, half, facts, variant="prompts")


def test_the_variants_differ_in_prompts_and_texts(facts):
    other = QuestionSet("other", facts.questions[:20])
    style = Style("length", 1)
    assert {p.prompt for p in judgements_of(style, 0, facts, variant="texts")} == {""}
    elsewhere = judgements_of(style, 0, facts, variant="elsewhere", elsewhere=other)
    assert {p.prompt for p in elsewhere} <= {q.text for q in other.questions}


def test_a_set_without_clear_pairs_is_refused():
    same = QuestionSet("same", (question("a", ["x y", "x y z"], [1, 0]),) * 4)
    with pytest.raises(ValueError, match="pairs differ clearly in length; a user needs 30"):
        judgements_of(Style("length", 1), 0, same, variant="elsewhere", elsewhere=same)


def test_styles_without_room_are_left_out(facts):
    styles, left_out = choose_styles(facts)
    names = [style.name for style in styles]
    assert {"more length", "less length", "more digits"} <= set(names)
    assert "same as length" in left_out["sentence_length"]  # the candidates are single sentences
    assert "less digits" in left_out  # most sentences have none


def test_the_shift_is_signed_and_in_standard_deviations():
    texts = ["a " * n for n in (1, 2, 4, 8, 16, 32)]
    one = question("q", texts, [1, 0, 0, 0, 0, 0])
    values = np.log1p([1, 2, 4, 8, 16, 32])
    up = shift(one, Style("length", 1), [5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5])
    assert up == pytest.approx((values[3:].mean() - values[:3].mean()) / values.std())
    assert shift(one, Style("length", -1), [5, 4, 3], [0, 1, 2]) == pytest.approx(-up)
    assert math.isnan(shift(question("q", ["a", "b"], [1, 0]), Style("length", 1), [0, 1], [1, 0]))


def test_wrong_queries_have_no_answer_in_common(facts):
    plan = Plan([facts, QuestionSet("other", facts.questions[:5])])
    queries = plan.wrong_queries(facts)
    assert set(queries) == {NONE, OWN, FOREIGN}
    assert set(queries[NONE]) == {""}
    assert all(wrong != q.text for wrong, q in zip(queries[OWN], facts.questions, strict=True))
    twins = QuestionSet("twins", (question("a", ["x", "y"], [1, 0]), question("b", ["x", "y"], [1, 0])))
    with pytest.raises(ValueError, match="shares an answer"):
        swap(twins)


def test_a_small_model_is_measured(study, extractor, facts):
    texts = [*facts.texts, *(q.text for q in facts.questions), ""]
    embeddings = dict(zip(texts, extractor.encoder.encode(texts).embeddings, strict=True))
    rows = {row.system: row for row in measure_rankings(study, embeddings)}
    assert set(rows) == {CHANCE, BM25, COSINE, OURS}
    assert rows[COSINE].of_cosine.value == 1
    assert rows[CHANCE].ndcg.value == pytest.approx(0.25, abs=0.02)
    assert all(0 < row.mrr.low <= row.mrr.value <= row.mrr.high <= 1 for row in rows.values())

    users = {(row.variant, row.style): row for row in measure_users(study)}
    assert {variant for variant, _ in users} == {"prompts", "texts"}  # there is no other set
    for variant in ("prompts", "texts"):
        assert users[variant, "more length"].shift.low > 0.5  # the one taste that the model has
        assert users[variant, "less length"].shift.low > 0.5
        assert users[variant, "more length"].moves

    assert measure_curve(study) is None
    with pytest.raises(ValueError, match="default personalization"):
        study.personal(facts, Style("length", 1), "prompts", 0.5)

    swapped = {row.query: row for row in measure_swapped_queries(study, embeddings)}
    assert set(swapped) == {NONE, OWN}
    assert swapped[OWN].above_none.value == 0  # the model does not read the prompt
    assert swapped[OWN].passed
    assert swapped[NONE].cosine_above_chance is None
