"""The few-shot split agrees with constants of the reference implementation that every benchmark shares.

That separate script computed the constants below on the file that this module generates.
"""

import hashlib
import json

import pytest

from penchant.models.evaluation.split import bucket, split, split_user, test_pairs
from penchant.models.judgements.files import read
from penchant.models.judgements.judgement import Judgement

# hash → number in [0, 1); parts are joined by the unit separator
BUCKETS = {
    ("",): 0.8931675160897388,
    ("a",): 0.25379361057584854,
    ("0", "user", "u1"): 0.0019411461274528145,
    ("0", "text", "héllo 🎉"): 0.788817738859934,
    ("a", "b"): 0.9699142814205318,
    ("a\x1fb",): 0.9699142814205318,
}

# (mode, repetition): train judgements, unseen users, support judgements, test pairs, sha256 of support and of test pairs
SPLITS = {
    ("cold", 0): (286, 15, 264, 283, "6ffaf2ef878a06eb", "68021fcbe99ac078"),
    ("cold", 3): (335, 10, 180, 196, "d05c4dd4e0a8de48", "a278d48341e68258"),
    ("warm", 0): (343, 15, 354, 154, "5d38d8555241b130", "f48aefb7c07ef62e"),
    ("warm", 3): (477, 9, 213, 99, "bca38edf785b4b62", "b503cef4dd6790e8"),
}

# (mode, repetition): first unseen user, texts of their first three support judgements, their first three test pairs
FIRST = {
    ("cold", 0): (
        "user 4",
        [["text 21", "text 30"], ["text 9"], ["text 4"]],
        [("text 28", "text 33"), ("text 0", "text 7"), ("text 7", "text 19")],
    ),
    ("warm", 3): (
        "user 2",
        [["text 38"], ["text 17", "text 25"], ["text 35"]],
        [("text 14", "text 17"), ("text 3", "text 47"), ("text 4", "text 2")],
    ),
}


@pytest.fixture(scope="module")
def judgements(tmp_path_factory) -> list[Judgement]:
    """Judgements of 30 users, 36 each: pairs, ratings, rankings, edits, and automatic votes of the author."""
    path = tmp_path_factory.mktemp("split") / "generated.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(30):
            for j in range(36):
                n = (i * 7 + j * 11) % 50
                m, k = (n + 1 + (i + j) % 9) % 50, (n + 17 + j % 5) % 50
                row = {"user": f"user {i}", "context": f"context {j % 2}"}
                row |= [
                    {"chosen": f"text {n}", "rejected": f"text {m}"},
                    {"item": f"text {n}", "rating": (i + j) % 5 + 1},
                    {"ranking": [f"text {n}", f"text {m}", f"text {k}"]},
                    {"before": f"text {n}", "after": f"text {m}"},
                    {"item": f"text {m}", "rating": (i * j) % 5 + 1, "own": j % 20 == 4},
                ][j % 5]
                file.write(json.dumps(row) + "\n")
    return list(read(path))


def as_stated(judgement: Judgement) -> list[str]:
    """Return the texts in the order of the file, where an edit has `before` first."""
    return list(judgement.texts[::-1] if judgement.kind == "edit" else judgement.texts)


def digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("parts", "number"), BUCKETS.items())
def test_buckets_agree_with_the_reference(parts, number):
    assert bucket(*parts) == number


@pytest.mark.parametrize(("case", "expected"), SPLITS.items())
def test_splits_agree_with_the_reference(judgements, case, expected):
    parts = split(judgements, *case)
    support = [[user, [[j.context, as_stated(j)] for j in rows]] for user, rows in parts.support.items()]
    test = [[user, [[p.context, p.better, p.worse] for p in pairs]] for user, pairs in parts.test.items()]
    sizes = (len(parts.train), len(support), sum(len(r) for _, r in support), sum(len(p) for _, p in test))
    assert (*sizes, digest(support), digest(test)) == expected
    if case in FIRST:
        user, texts, pairs = FIRST[case]
        assert support[0][0] == test[0][0] == user
        assert [row[1] for row in support[0][1][:3]] == texts
        assert [(better, worse) for _, better, worse in test[0][1][:3]] == pairs


@pytest.mark.parametrize("mode", ["cold", "warm"])
def test_test_texts_and_users_do_not_leak_into_training(judgements, mode):
    # Rankings are left out: of one held out for its third text, the other two may be known.
    parts = split([j for j in judgements if j.kind != "ranking"], mode, 1)
    train_users = {j.user for j in parts.train}
    assert train_users
    assert parts.test
    assert train_users.isdisjoint(parts.test)
    assert parts.support.keys() == parts.test.keys()
    assert not any(j.own for rows in [parts.train, *parts.support.values()] for j in rows)
    if mode == "cold":
        training_texts = {t for rows in [parts.train, *parts.support.values()] for j in rows for t in j.texts}
        for pairs in parts.test.values():
            # Every comparison has a text that no training judgement contains.
            assert all({p.better, p.worse} - training_texts for p in pairs)


def test_repetitions_differ_and_are_reproducible(judgements):
    first, repeated, second = (split(judgements, "cold", repetition) for repetition in (0, 0, 1))
    assert first == repeated
    assert first.test.keys() != second.test.keys()


def test_limits_select_users_in_order_of_first_appearance(judgements):
    whole, some = split(judgements, "cold", 0), split(judgements, "cold", 0, seen_users=3, unseen_users=2)
    assert list(some.test) == list(whole.test)[:2]
    users = list(dict.fromkeys(j.user for j in whole.train))
    assert list(dict.fromkeys(j.user for j in some.train)) == users[:3]
    assert [j for j in whole.train if j.user in users[:3]] == some.train


def rating(text: str, value: float, context: str = "c") -> Judgement:
    return Judgement("u", context, "rating", (text,), value, (1.0, 5.0))


def test_pairs_of_ratings_need_one_context_and_a_difference():
    rows = [rating("a", 5), rating("b", 1), rating("c", 5), rating("d", 3, "other"), rating("a", 1)]
    compared = {(p.better, p.worse) for p in test_pairs(rows)}
    assert compared == {
        ("a", "b"),
        ("c", "b"),
        ("c", "a"),
    }  # a against itself, a–c tie and d's other context left out


def test_all_stated_comparisons_precede_at_most_forty_from_ratings():
    rows = [Judgement("u", "c", "ranking", tuple(f"r{i}" for i in range(60)))]
    rows += [rating(f"t{i}", float(i % 5)) for i in range(30)]
    pairs = test_pairs(rows)
    assert [(p.better, p.worse) for p in pairs[:59]] == [(f"r{i}", f"r{i + 1}") for i in range(59)]
    assert len(pairs) == 59 + 40
    assert pairs == test_pairs(rows)


def test_few_shot_needs_ten_support_and_four_test_pairs():
    rows = [Judgement("u", "c", "pair", (f"a{i}", f"b{i}")) for i in range(14)]
    held = {j.texts for j in rows[10:]}
    parts = split_user(rows, lambda j: j.texts in held)
    assert parts
    assert sorted(j.texts for j in parts[0]) == sorted(j.texts for j in rows[:10])
    assert len(parts[1]) == 4
    assert split_user(rows[1:], lambda j: j.texts in held) is None  # nine for support
    assert split_user(rows[:-1], lambda j: j.texts in held) is None  # three to test


def test_the_author_s_own_votes_never_count():
    rows = [Judgement("u", "c", "vote", (f"t{i}",), 1.0, own=True) for i in range(50)]
    parts = split(rows, "cold", 0)
    assert (parts.train, parts.support, parts.test) == ([], {}, {})


def test_votes_and_ratings_and_other_scales_are_never_compared():
    """A vote of +1 is not comparable with two stars of five, nor 1 of [0, 1] with 2 of [1, 100]."""
    rows = [Judgement("u", "c", "vote", ("liked",), 1.0), rating("two stars", 2)]
    assert test_pairs(rows) == []
    rows = [
        Judgement("u", "c", "rating", ("top",), 1.0, (0.0, 1.0), "a"),
        Judgement("u", "c", "rating", ("flop",), 2.0, (1.0, 100.0), "b"),
    ]
    assert test_pairs(rows) == []


def test_a_lone_surrogate_has_a_bucket():
    """JSON can encode a lone surrogate, so the reader may return one."""
    assert 0 <= bucket("\ud800") < 1
