"""Attributes rise with the property they are named after, and are finite for every text."""

import math
import string
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, compute_attribute_matrix, compute_attributes

FLOAT16_MAX = 65_504.0


def named(text: str) -> dict[str, float]:
    return dict(zip(ATTRIBUTE_NAMES, compute_attributes(text), strict=True))


# (attribute, a text that has more of it, a text that has less)
CONTRASTS = [
    ("length", "one two three four five", "one two"),
    ("sentences", "One. Two. Three.", "One two three."),
    ("paragraphs", "First.\n\nSecond.\n\nThird.", "First. Second. Third."),
    ("sentence_length", "A sentence that goes on and on for long.", "It ends. So soon. Again."),
    ("word_length", "extraordinary circumstances", "odd times"),
    ("long_words", "extraordinary circumstances prevail", "odd times here"),
    ("vocabulary", "every word here differs from others", "word word word word word word"),
    ("function_words", "it is what it is and that is that", "cats chase mice daily"),
    ("bullets", "- milk\n- eggs\n* flour", "milk, eggs, flour"),
    ("numbered_list", "1. Heat.\n2. Mix.\n3) Bake.", "Heat. Mix. Bake."),
    ("headings", "# Title\ntext\n## Part\ntext", "Title\ntext\nPart\ntext"),
    ("emphasis", "a **bold** and __strong__ claim", "a bold and strong claim"),
    ("code", "call `f(x)` and\n```\nf(1)\n```", "call f(x) and f(1)"),
    ("links", "see https://example.org and www.example.org", "see the example"),
    ("emoji", "well done 🎉🙂 :)", "well done"),
    ("quotation", 'he said "yes" and “no”', "he said yes and no"),
    ("questions", "Why? Who? Where?", "Why. Who. Where."),
    ("ends_with_question", "And you? ", "And you? Yes."),
    ("exclamations", "Great! Wow! Yes!", "Great. Wow. Yes."),
    ("ellipses", "Well... maybe…", "Well. Maybe."),
    ("commas", "a, b, c, d", "a b c d"),
    ("parentheses", "a (b) c (d)", "a b c d"),
    ("colons", "note: this; and: that", "note this and that"),
    ("digits", "in 2024 it was 1234", "in that year it was much"),
    ("capitals", "NASA and ESA", "nasa and esa"),
    ("shouting", "THIS is VERY BAD", "This is very bad"),
    ("lowercase_start", "  lower first", "  Upper first"),
    ("contractions", "I'm sure it’s fine", "I am sure it is fine"),
    ("first_person_singular", "I think my idea helps me", "The idea helps"),
    ("first_person_plural", "we like our town", "they like that town"),
    ("second_person", "you and your plan", "they and that plan"),
    ("third_person", "they and their plan", "you and your plan"),
    ("hedging", "perhaps it might seem likely", "it is so"),
    ("certainty", "it is obviously always true", "it is sometimes true"),
    ("negation", "no, I don't and won't", "yes, I do and will"),
    ("obligation", "we must, it is required", "we can, it is allowed"),
    ("courtesy", "please help, thanks", "help now"),
    ("reasoning", "because of this, therefore that", "this and that"),
    ("positive_sentiment", "a great and helpful success", "a terrible failure"),
    ("negative_sentiment", "a terrible, harmful failure", "a great success"),
]


def test_every_attribute_has_a_contrast():
    assert [name for name, _, _ in CONTRASTS] == list(ATTRIBUTE_NAMES)


@pytest.mark.parametrize(("name", "more", "less"), CONTRASTS, ids=[c[0] for c in CONTRASTS])
def test_an_attribute_rises_with_what_it_is_named_after(name, more, less):
    assert named(more)[name] > named(less)[name]


def test_hand_counted_values():
    values = named("I can't wait! Will you come, or not? See 42 (maybe).")
    words = ["i", "can't", "wait", "will", "you", "come", "or", "not", "see", "maybe"]
    letters = sum(map(len, words))
    chars = 52
    expected = {
        "length": math.log(1 + 10),
        "sentences": math.log(3),
        "sentence_length": math.log(1 + 10 / 3),
        "word_length": letters / 10 / 4,
        "vocabulary": 10 / math.sqrt(20),
        "questions": math.log(1 + 1 / 3),
        "exclamations": math.log(1 + 1 / 3),
        "commas": math.log(1 + 1 / 3),
        "parentheses": math.log(1 + 1 / 3),
        "digits": 2 / chars,
        "capitals": 3 / chars,
        "contractions": 1 / 10,
        "first_person_singular": 1 / 10,
        "second_person": 1 / 10,
        "negation": 2 / 10,
        "hedging": 1 / 10,
        "ends_with_question": 0.0,
        "lowercase_start": 0.0,
        "bullets": 0.0,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_typographic_apostrophes_count_as_apostrophes():
    assert named("It’s here, isn’t it?") == pytest.approx(named("It's here, isn't it?"))


def test_case_does_not_hide_a_word():
    assert named("PLEASE")["courtesy"] == named("please")["courtesy"] == 1.0


ODD = {
    "empty": "",
    "blank": " \t\n ",
    "one letter": "a",
    "punctuation": "?!.,;:()[]{}'\"…",
    "emoji": "🎉" * 50,
    "flags and joiners": "🏳️‍🌈👩‍👩‍👧‍👦🇩🇪",
    "lone surrogates": "\ud800 and \udfff",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u2029",
    "right to left": "\u202eהטקסט הזה עברי وهذا عربي",
    "chinese": "今天天气很好，我们去公园吧。你觉得呢？",
    "combining": "Z̸̡͓̦̏͗a̷l̶g̵o̴" * 50,
    "one long word": "a" * 300_000,
    "digits": "0123456789" * 1000,
    "exotic digits": "²³①५๓",
    "a megabyte": "The quick brown fox jumps over the lazy dog. " * 23_000,
    "apostrophes": "a'" * 5000,
    "zeros": "\x00" * 1000,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_texts_have_finite_attributes_that_fit_float16(text):
    values = np.array(compute_attributes(text))
    assert len(values) == len(ATTRIBUTE_NAMES)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (values < FLOAT16_MAX).all()


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 6000,
        " \n" * 4000,
        "\t\n\n" * 3000,
        "." * 10_000 + "a",
        "?!" * 5000 + "x",
        "(" * 10_000,
        "**" * 5000,
    ],
    ids=["newlines", "blank lines", "tabs", "dots", "marks", "parentheses", "stars"],
)
def test_no_text_takes_longer_than_its_length(text):
    """Linear cost takes a millisecond or two. A pattern that tries every start and end would take seconds."""
    start = time.perf_counter()
    compute_attributes(text)
    assert time.perf_counter() - start < 0.2


@given(st.text(st.characters(), max_size=200) | st.text(string.punctuation + "\n aA1é🎉\ud800", max_size=200))
def test_any_text_has_finite_attributes(text):
    values = np.array(compute_attributes(text))
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert values.max() < 210.0  # the longest word of 200 characters is the largest of them
    assert compute_attributes(text) == values.tolist()


def test_only_the_first_hundred_thousand_characters_are_read():
    page = "A sentence of some words. " * 4000
    assert compute_attributes(page[:100_000]) == compute_attributes(page[:100_000] + " More? YES! " * 100_000)


def test_a_matrix_has_the_rows_of_single_texts():
    texts = ["One.", "Two, please?", ""]
    values = compute_attribute_matrix(texts)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.array([compute_attributes(t) for t in texts], np.float32))
    assert compute_attribute_matrix([]).shape == (0, len(ATTRIBUTE_NAMES))
    assert len(set(ATTRIBUTE_NAMES)) == len(ATTRIBUTE_NAMES)
