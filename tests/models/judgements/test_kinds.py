"""Each kind of judgement means the same in requests and files. Edit weights agree with textbook examples."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.models.judgements import kinds
from penchant.models.judgements.base import MAX_COMPARED_CHARS, Statement, edit_weight, normalise
from penchant.models.judgements.lines import Line


@pytest.mark.parametrize(
    ("original", "edited", "weight"),
    [
        ("kitten", "sitting", 3 / 7),  # Levenshtein's example: three edits
        ("saturday", "sunday", 3 / 8),
        ("abc", "abc", 0.0),
        ("", "", 0.0),
        ("", "new", 1.0),
        ("abc", "xyz", 1.0),
        ("naïve 🎉", "naive 🎉", 1 / 7),
    ],
)
def test_edit_weights_agree_with_textbook_distances(original, edited, weight):
    assert edit_weight(original, edited) == pytest.approx(weight)


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_weight_is_a_share_and_has_no_direction(a, b):
    weight = edit_weight(a, b)
    assert 0 <= weight <= 1
    assert (weight == 0) == (a == b)
    assert weight == edit_weight(b, a)


def test_long_texts_are_compared_by_words():
    words = [f"word{i}" for i in range(MAX_COMPARED_CHARS // 4)]
    long = " ".join(words)
    assert len(long) > MAX_COMPARED_CHARS
    assert edit_weight(long, long) == 0.0
    assert edit_weight(long, " ".join(["other", *words[1:]])) == pytest.approx(1 / len(words))
    # Different white space is a small change, but not none.
    assert 0 < edit_weight(long, long.replace(" ", "\n")) < 1e-4
    assert edit_weight(long, "short") == 1.0


PAYLOADS: dict[str, dict[str, Any]] = {
    "preference": {"chosen": "a", "rejected": "b", "strength": 0.5},
    "choice": {"candidates": ["b", "a", "c"], "index": 1},
    "ranking": {"order": [["a"], ["b", "c"]]},
    "vote": {"text": "a", "value": -1},
    "rating": {"text": "a", "value": 4.0, "scale": [1.0, 5.0]},
    "edit": {"original": "abcd", "edited": "abce"},
}
STATEMENTS = {
    "preference": Statement(("a", "b"), weight=0.5),
    "choice": Statement(("a", "b", "c"), groups=(1, 2)),
    "ranking": Statement(("a", "b", "c"), groups=(1, 2)),
    "vote": Statement(("a",), -1.0),
    "rating": Statement(("a",), 4.0, (1.0, 5.0)),
    "edit": Statement(("abce", "abcd"), weight=0.25),
}


@pytest.mark.parametrize("name", kinds.BY_TYPE)
def test_a_kind_means_the_same_in_requests_and_files(name: str) -> None:
    kind, payload = kinds.BY_TYPE[name], PAYLOADS[name]
    sent = kind.model_validate({"type": name, **payload})
    assert not list(sent.faults())
    assert kind.statement(payload) == STATEMENTS[name]
    assert {text for _, text in sent.sent_texts()} == set(kind.texts(payload))
    line = Line(json.dumps(kind.to_line(payload)), Path("f.jsonl"), 1)
    assert kind.line_keys & set(line.row)
    assert kind.statement(kind.from_line(line)) == STATEMENTS[name]
    assert kind.in_line_order(kind.texts(payload)) == kind.texts(payload)[:: -1 if name == "edit" else 1]
    assert kind.can_judge(len(kind.texts(payload)))


@pytest.mark.parametrize("name", kinds.BY_TYPE)
def test_missing_texts_are_recognised(name: str) -> None:
    kind, payload = kinds.BY_TYPE[name], PAYLOADS[name]
    kept = {field: value for field, value in payload.items() if field not in kind.text_fields}
    with pytest.raises(KeyError):
        kind.texts(kept)


def test_a_choice_from_a_ranking_puts_the_picked_text_first() -> None:
    choice = kinds.Choice.model_validate({"type": "choice", "index": 2, "seen": [3, 0]})
    assert choice.refers_to_ranking
    assert choice.candidates_of(5) == [("/index", 2), ("/seen/0", 3), ("/seen/1", 0)]
    assert kinds.Choice.statement({"index": 2, **choice.with_texts(["c", "a", "d"])}).texts == ("c", "a", "d")
    everything = kinds.Choice.model_validate({"type": "choice", "index": 1})
    assert [index for _, index in everything.candidates_of(3)] == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        ({"type": "preference", "chosen": "a", "rejected": "a"}, "/rejected"),
        ({"type": "choice", "candidates": ["a", "a"], "index": 0}, "/candidates/1"),
        ({"type": "choice", "candidates": ["a", "b"], "index": 2}, "/index"),
        ({"type": "choice", "candidates": ["a", "b"], "index": 0, "seen": [1]}, "/seen"),
        ({"type": "choice", "index": 0, "seen": [1, 1]}, "/seen/1"),
        ({"type": "ranking", "order": [["a"]]}, "/order"),
        ({"type": "ranking", "order": [["a", "b"], ["a"]]}, "/order/1/0"),
        ({"type": "vote", "text": "a", "index": 0, "value": 1}, "/index"),
        ({"type": "vote", "value": 1}, "/index"),
        ({"type": "rating", "text": "a", "value": 1, "scale": [2, 1]}, "/scale"),
        ({"type": "rating", "text": "a", "value": 1, "scale": [-1.7e308, 1.7e308]}, "/scale"),
        ({"type": "rating", "text": "a", "value": 6, "scale": [1, 5]}, "/value"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(payload: dict[str, Any], pointer: str) -> None:
    judgement = kinds.BY_TYPE[payload["type"]].model_validate(payload)
    assert next(judgement.faults())[0] == pointer


def test_values_move_to_the_full_scale() -> None:
    assert kinds.BY_TYPE["rating"].statement(PAYLOADS["rating"]).normalised == 0.5
    assert kinds.BY_TYPE["vote"].statement(PAYLOADS["vote"]).normalised == -1.0
    assert kinds.BY_TYPE["choice"].statement(PAYLOADS["choice"]).normalised is None
    assert normalise(8.0e307, (-8.0e307, 8.0e307)) == 1.0
