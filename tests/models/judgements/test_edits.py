"""Edit weights against the distances of textbooks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.models.judgements.edits import MAX_CHARS, edit_weight


@pytest.mark.parametrize(
    ("original", "edited", "weight"),
    [
        ("kitten", "sitting", 3 / 7),  # Levenshtein's own example: three edits
        ("saturday", "sunday", 3 / 8),
        ("abc", "abc", 0.0),
        ("", "", 0.0),
        ("", "new", 1.0),
        ("abc", "xyz", 1.0),
        ("naïve 🎉", "naive 🎉", 1 / 7),
    ],
)
def test_known_distances(original, edited, weight):
    assert edit_weight(original, edited) == pytest.approx(weight)


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_weight_is_a_share_and_has_no_direction(a, b):
    weight = edit_weight(a, b)
    assert 0 <= weight <= 1
    assert (weight == 0) == (a == b)
    assert weight == edit_weight(b, a)


def test_long_texts_are_compared_by_words():
    words = [f"word{i}" for i in range(MAX_CHARS // 4)]
    long = " ".join(words)
    assert len(long) > MAX_CHARS
    assert edit_weight(long, long) == 0.0
    assert edit_weight(long, " ".join(["other", *words[1:]])) == pytest.approx(1 / len(words))
    # Other white space is hardly a change, but one.
    assert 0 < edit_weight(long, long.replace(" ", "\n")) < 1e-4
    assert edit_weight(long, "short") == 1.0
