"""Reading judgement files: all kinds of judgements, and errors that name the file and line."""

import gzip
import json
import math
from pathlib import Path

import pytest

from penchant.models.judgements.files import load, read, source_name, with_scales
from penchant.models.judgements.judgement import Judgement
from penchant.models.judgements.lines import MAX_TEXT_CHARS, JudgementError

PAIR = {"user": "u", "context": "c", "chosen": "better", "rejected": "worse"}


def write(path: Path, *rows: object) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- reading


def test_every_kind_winner_first(tmp_path):
    path = write(
        tmp_path / "set.jsonl",
        {**PAIR, "strength": 0.5, "weight": 0.5, "extra": None},
        {"user": "u", "context": "c", "item": "rated", "rating": 4, "scale": [1, 5]},
        {"user": "u", "context": "c", "item": "liked", "vote": -1, "own": True},
        {"user": "v", "context": "c", "ranking": ["best", "middle", "worst"]},
        {"user": "v", "context": "c", "before": "draft", "after": "edited", "source": "editor"},
        {"user": "w", "item": "no context", "rating": 0.5},
    )
    pair, rating, vote, ranking, edit, bare = read(path)
    assert pair == Judgement("u", "c", "pair", ("better", "worse"), source="set", weight=0.25)
    assert (rating.kind, rating.texts, rating.value, rating.scale) == ("rating", ("rated",), 4.0, (1.0, 5.0))
    assert rating.normalised == 0.5
    assert (vote.kind, vote.value, vote.own) == ("vote", -1.0, True)
    assert ranking.texts == ("best", "middle", "worst")
    assert ranking.pairs() == [("best", "middle"), ("middle", "worst")]
    assert (edit.kind, edit.texts, edit.source) == ("edit", ("edited", "draft"), "editor")
    assert edit.pairs() == [("edited", "draft")]
    assert edit.weight == pytest.approx(5 / 6)  # d-r-a-f-t → e-d-i-t-e-d
    assert bare.context == ""
    assert math.isnan(bare.scale[0])
    assert bare.pairs() == []


def test_choices_and_ties(tmp_path):
    path = write(
        tmp_path / "set.jsonl",
        {"user": "u", "candidates": ["a", "b", "c"], "index": 1, "weight": 0.5},
        {"user": "u", "candidates": ["a", "a"], "index": 0},
        {"user": "u", "order": [["a"], ["b", "c"], ["d", "e"]]},
        {"user": "u", "order": [["a"], ["b"]]},
        {"user": "u", "order": [["a", "b"]], "weight": 1},
    )
    choice, same, tied, untied, level = read(path)
    assert (choice.kind, choice.texts, choice.groups, choice.weight) == (
        "choice",
        ("b", "a", "c"),
        (1, 2),
        0.5,
    )
    assert choice.pairs() == [("b", "a"), ("b", "c")]
    assert same.pairs() == []
    assert (tied.kind, tied.texts, tied.groups) == ("ranking", ("a", "b", "c", "d", "e"), (1, 2, 2))
    assert tied.pairs() == [("a", "b"), ("a", "c"), ("b", "d"), ("b", "e"), ("c", "d"), ("c", "e")]
    assert (untied.texts, untied.groups) == (("a", "b"), ())  # as a ranking without ties
    assert untied.pairs() == [("a", "b")]
    assert (level.groups, level.pairs()) == ((2,), [])


def test_an_edit_is_weighted_by_its_change(tmp_path):
    edits = [
        {"user": "u", "before": "a draft", "after": "a draft"},
        {"user": "u", "before": "abcd", "after": "abxd", "weight": 0.5},
        {"user": "u", "before": "abc", "after": "xyz"},
    ]
    assert [j.weight for j in read(write(tmp_path / "a.jsonl", *edits))] == [0.0, 0.125, 1.0]
    # `strength` is a key of pairs, not of edits.
    (edit,) = read(write(tmp_path / "b.jsonl", {"user": "u", "before": "a", "after": "b", "strength": 7}))
    assert edit.weight == 1.0


def test_judgements_share_their_texts(tmp_path):
    """A million judgements of a thousand texts keep a thousand texts in memory."""
    rows = [
        {"user": f"user {i % 2}", "context": "Which?", "item": "one text", "vote": 1, "source": "s"}
        for i in range(4)
    ]
    first, _, third, _ = read(write(tmp_path / "a.jsonl", *rows))
    for field in ("user", "context", "source"):
        assert getattr(first, field) is getattr(third, field)
    assert first.texts[0] is third.texts[0]
    assert not hasattr(first, "__dict__")


def test_gzip_blank_lines_and_line_ends_are_accepted(tmp_path):
    plain = write(tmp_path / "set.jsonl", PAIR, "", "   ", {**PAIR, "user": "v"})
    packed = write(tmp_path / "set.jsonl.gz", PAIR, "", "   ", {**PAIR, "user": "v"})
    assert list(read(plain)) == list(read(packed))
    assert [j.user for j in read(plain)] == ["u", "v"]
    windows = tmp_path / "set2.jsonl"
    windows.write_bytes(plain.read_bytes().replace(b"\n", b"\r\n"))
    assert [j.texts for j in read(windows)] == [j.texts for j in read(plain)]


def test_texts_are_kept_unchanged(tmp_path):
    odd = "  two lines\nü 🎉 \u2028 \u0000 end  "
    (found,) = read(write(tmp_path / "a.jsonl", {**PAIR, "chosen": odd}))
    assert found.texts[0] == odd


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("polis.jsonl", "polis"),
        ("polis.jsonl.gz", "polis"),
        ("data.jsonl.gz", "folder"),
        ("a.b.jsonl", "a.b"),
    ],
)
def test_a_source_is_named_after_file_or_folder(tmp_path, name, source):
    (tmp_path / "folder").mkdir()
    path = write(tmp_path / "folder" / name, PAIR, {**PAIR, "source": "its own"}, {**PAIR, "source": ""})
    assert source_name(path) == source
    assert [j.source for j in read(path)] == [source, "its own", source]
    assert next(read(path, source="given")).source == "given"


def test_one_line_is_in_memory_at_a_time(tmp_path):
    """Reading is lazy, so the lines before an invalid one can be read."""
    rows = read(write(tmp_path / "a.jsonl", PAIR, PAIR, "nonsense"))
    assert next(rows).user == "u"
    assert next(rows).user == "u"
    with pytest.raises(JudgementError):
        next(rows)


# ---------------------------------------------------------------- scales


def test_ratings_without_scale_get_the_range_of_their_source(tmp_path):
    def rating(value: float, **more: object) -> dict[str, object]:
        return {"user": "u", "item": f"t{value}", "rating": value, **more}

    rows = load(
        [
            write(tmp_path / "one.jsonl", rating(2), rating(10), rating(4)),
            write(tmp_path / "two.jsonl", rating(-1), rating(1), rating(0, scale=[-2, 2])),
            write(tmp_path / "three.jsonl", rating(7), rating(7)),
        ]
    )
    assert [j.scale for j in rows] == [(2, 10)] * 3 + [(-1, 1)] * 2 + [(-2, 2)] + [(7, 8)] * 2
    assert [j.normalised for j in rows] == [-1, 1, -0.5, -1, 1, 0, -1, -1]


def test_scales_do_not_affect_other_kinds():
    rows = [Judgement("u", "c", "pair", ("a", "b")), Judgement("u", "c", "vote", ("a",), 1.0)]
    assert with_scales(rows) == rows


# ---------------------------------------------------------------- errors

BAD = {
    "not JSON: Expecting value at column 1": "nonsense",
    "not JSON: Expecting ',' delimiter at column 14": '{"user": "u" "context"}',
    "not a JSON object": "[1, 2]",
    "'user' must be a text that is not empty": {**PAIR, "user": " "},
    "'user' must be a text": {**PAIR, "user": 7},
    "'context' must be a text": {**PAIR, "context": None},
    "'rejected' must be a text": {"user": "u", "context": "c", "chosen": "a"},
    "'chosen' must be a text": {"user": "u", "context": "c", "chosen": ["a"], "rejected": "b"},
    "'ranking' must be a list of at least two texts": {"user": "u", "ranking": ["one"]},
    "'ranking' must be a text that is not empty": {"user": "u", "ranking": ["one", ""]},
    "'after' must be a text": {"user": "u", "before": "a"},
    "'vote' must be 1 or -1": {"user": "u", "item": "a", "vote": 0},
    "'vote' must be a finite number": {"user": "u", "item": "a", "vote": True},
    "'item' must be a text": {"user": "u", "vote": 1},
    "'rating' must be a finite number": '{"user": "u", "item": "a", "rating": NaN}',
    "'rating' must be a finite": '{"user": "u", "item": "a", "rating": -Infinity}',
    "'rating' must be": {"user": "u", "item": "a", "rating": "5"},
    "'rating' 6.0 is not within 'scale'": {"user": "u", "item": "a", "rating": 6, "scale": [1, 5]},
    "'scale' [5, 1] must rise": {"user": "u", "item": "a", "rating": 3, "scale": [5, 1]},
    "'scale' must be [lowest, highest]": {"user": "u", "item": "a", "rating": 3, "scale": [1, 3, 5]},
    "'scale' must be a finite number": {"user": "u", "item": "a", "rating": 3, "scale": [1, "5"]},
    "'strength' must be above 0 and at most 1, is 2": {**PAIR, "strength": 2},
    "'strength' must be above 0": {**PAIR, "strength": 0},
    "'strength' must be a finite number": {**PAIR, "strength": "much"},
    "'weight' must be above 0 and at most 1, is -1": {**PAIR, "weight": -1},
    "'weight' must be a finite number": {"user": "u", "item": "a", "vote": 1, "weight": True},
    "'candidates' must be a list of at least two texts": {"user": "u", "candidates": ["one"], "index": 0},
    "'index' must be a whole number from 0 to 1": {"user": "u", "candidates": ["a", "b"], "index": 2},
    "'index' must be a whole number from 0": {"user": "u", "candidates": ["a", "b"], "index": -1},
    "'index' must be a whole number": {"user": "u", "candidates": ["a", "b"], "index": True},
    "'index' must be a": {"user": "u", "candidates": ["a", "b"]},
    "'order' must be a list of lists of tied texts": {"user": "u", "order": ["a", "b"]},
    "'order' must be a list of lists": {"user": "u", "order": [["a"], []]},
    "'order' must be a list": {"user": "u", "order": "ab"},
    "'order' must hold at least two texts": {"user": "u", "order": [["a"]]},
    "'order' must be a text that is not empty": {"user": "u", "order": [["a"], [" "]]},
    "needs one of: chosen + rejected": {"user": "u", "context": "c"},
    f"'chosen' has {MAX_TEXT_CHARS + 1} characters": {**PAIR, "chosen": "x" * (MAX_TEXT_CHARS + 1)},
}


@pytest.mark.parametrize(("problem", "row"), BAD.items(), ids=range(len(BAD)))
@pytest.mark.parametrize("name", ["bad.jsonl", "bad.jsonl.gz"])
def test_a_bad_line_is_named_by_file_and_number(tmp_path, problem, row, name):
    path = write(tmp_path / name, PAIR, "", PAIR, row, PAIR)
    with pytest.raises(JudgementError) as caught:
        list(read(path))
    assert str(caught.value).startswith(f"{path}:4: {problem}")
    assert (caught.value.path, caught.value.line) == (path, 4)
    assert caught.value.problem.startswith(problem)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    missing, folder = tmp_path / "missing.jsonl", tmp_path / "folder.jsonl"
    folder.mkdir()
    not_gzip = tmp_path / "plain.jsonl.gz"
    not_gzip.write_text(json.dumps(PAIR))
    for path in (missing, folder, not_gzip):
        with pytest.raises(JudgementError) as caught:
            list(read(path))
        assert caught.value.line == 0
        assert str(caught.value).startswith(f"{path}: ")


def test_a_truncated_gzip_file_is_named(tmp_path):
    path = write(tmp_path / "cut.jsonl.gz", *[{**PAIR, "user": f"user {i}"} for i in range(2000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(JudgementError, match="ended before the end-of-stream") as caught:
        list(read(path))
    assert caught.value.line > 1


def test_a_file_without_judgements_is_refused_if_they_are_needed(tmp_path):
    empty = write(tmp_path / "empty.jsonl", "", "  ")
    assert list(read(empty)) == []
    with pytest.raises(JudgementError, match="holds no judgement"):
        load([write(tmp_path / "full.jsonl", PAIR), empty])


@pytest.mark.parametrize(
    "line",
    [
        '{"user": "u", "item": "a", "rating": 1' + "0" * 400 + "}",
        '{"user": "u", "item": "a", "rating": 1' + "0" * 5000 + "}",
        "[" * 100_000,
    ],
    ids=["beyond float", "more digits than int() reads", "nested too deep"],
)
def test_numbers_and_nesting_beyond_the_limits_are_named(tmp_path, line):
    with pytest.raises(JudgementError, match=r"a\.jsonl:2: "):
        list(read(write(tmp_path / "a.jsonl", "", line)))


def test_invalid_utf8_is_named_by_line(tmp_path):
    path = write(tmp_path / "a.jsonl", PAIR, PAIR, PAIR)
    path.write_bytes(path.read_bytes() + b'{"user": "\xff"}\n' + path.read_bytes())
    rows = read(path)
    assert [next(rows).user for _ in range(3)] == ["u", "u", "u"]
    with pytest.raises(JudgementError, match=r"a\.jsonl:4: not UTF-8"):
        next(rows)


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", *[{**PAIR, "user": f"user {i}"} for i in range(2000)])
    packed = bytearray(path.read_bytes())
    for place in range(40, 60):
        packed[place] ^= 0xFF
    path.write_bytes(packed)
    with pytest.raises(JudgementError, match=r"a\.jsonl\.gz"):
        list(read(path))
