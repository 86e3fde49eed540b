"""Windows of a tokenized text, with their special tokens and prompts, and texts cut to a number of tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.models.encoding.tokens import TextTokenizer, Tokens

LETTERS = "abcdefghijkl"
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer(letter_tokenizer):
    """Makes a tokenizer with one token per letter and at most 12 tokens a window, 10 of them letters."""
    definition = letter_tokenizer(framed=True).backend_tokenizer.to_str()

    def make(max_windows: int = 4, *, joint: bool = False, max_tokens: int = 12) -> TextTokenizer:
        return TextTokenizer(definition, max_tokens=max_tokens, max_windows=max_windows, joint=joint, pad=0)

    return make


def letters(n: int) -> str:
    return " ".join(LETTERS[i % len(LETTERS)] for i in range(n))


def windows_of(tokens: Tokens) -> list[list[int]]:
    ends = np.cumsum(tokens.lengths)
    return [tokens.ids[end - n : end].tolist() for end, n in zip(ends, tokens.lengths, strict=True)]


@pytest.mark.parametrize(
    ("n", "sizes", "truncated"),
    [
        (0, [0], False),
        (10, [10], False),
        (11, [10, 10], False),
        (15, [10, 10], False),
        (20, [10, 10], False),
        (21, [10, 10, 9], False),
        (23, [10, 10, 9], False),
        (40, [10, 10, 10, 10], False),
        (41, [10, 10, 10, 10], True),
    ],
)
def test_a_long_text_becomes_the_fewest_windows_which_are_full(tokenizer, n, sizes, truncated):
    tokens = tokenizer()([letters(n)])
    assert (tokens.lengths - 2).tolist() == sizes
    assert tokens.counts.tolist() == [len(sizes)]
    assert tokens.truncated.tolist() == [truncated]
    windows = windows_of(tokens)
    assert all(window[0] == CLS and window[-1] == SEP for window in windows)
    assert [window[1:-1] for window in windows] == expected_windows(n, 10, 4)


def expected_windows(n, room, max_windows):
    """Evenly spaced windows that overlap, of a text of n letters."""
    read = [4 + i % len(LETTERS) for i in range(min(n, room * max_windows))]
    if len(read) <= room:
        return [read]
    number = -(-len(read) // room)
    step = -(-(len(read) - room) // (number - 1))
    return [read[i * step : i * step + room] for i in range(number)]


@given(n=st.integers(0, 120), max_windows=st.integers(1, 9), max_tokens=st.integers(3, 20))
def test_windows_cover_a_text_in_order(tokenizer, n, max_windows, max_tokens):
    room = max_tokens - 2
    tokens = tokenizer(max_windows, max_tokens=max_tokens)([letters(n)])
    assert [window[1:-1] for window in windows_of(tokens)] == expected_windows(n, room, max_windows)
    assert tokens.truncated.tolist() == [n > room * max_windows]
    assert tokens.counts[0] == len(tokens.lengths) == max(1, min(max_windows, -(-n // room)))
    assert tokens.lengths.max() <= max_tokens
    assert np.ptp(tokens.lengths) < max(2, max_windows)


def test_one_window_reads_what_it_always_read(tokenizer):
    tokens = tokenizer(1)([letters(10), letters(11), "", letters(3)])
    assert tokens.lengths.tolist() == [12, 12, 2, 5]
    assert tokens.counts.tolist() == [1, 1, 1, 1]
    assert tokens.truncated.tolist() == [False, True, False, False]


def test_every_window_has_the_prompt_in_joint_mode(tokenizer):
    """Nine tokens remain besides [CLS] and two [SEP]. A prompt may take a quarter of them, 2."""
    tokens = tokenizer(joint=True)([letters(14), letters(3), letters(29)], ["k l k l", "k", "k l"])
    prompt = [CLS, 14, 15, SEP]
    windows = windows_of(tokens)
    assert tokens.counts.tolist() == [2, 1, 4]
    assert [window[:4] for window in windows[:2]] == [prompt, prompt]
    assert [len(window) for window in windows[:2]] == [12, 12]
    assert windows[2] == [CLS, 14, SEP, 4, 5, 6, SEP]
    assert [window[:4] for window in windows[3:]] == [prompt] * 4
    assert tokens.truncated.tolist() == [False, False, True]


def test_texts_of_several_calls_join_and_split(tokenizer):
    texts = [letters(25), "", letters(41), letters(4)]
    together = tokenizer()(texts)
    parts = [tokenizer()([text]) for text in texts]
    joined = Tokens.join(parts)
    for name in ("ids", "lengths", "counts", "truncated"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(together, name))
    assert len(joined) == len(texts)
    for part, own in zip(parts, together.split(), strict=True):
        assert len(own) == 1
        np.testing.assert_array_equal(own.ids, part.ids)
        np.testing.assert_array_equal(own.lengths, part.lengths)
        assert own.truncated == part.truncated
    assert len(Tokens.join([])) == len(Tokens.from_sequences([]).split()) == 0


# ---------------------------------------------------------------- cutting


def test_a_text_is_cut_behind_its_last_token(tokenizer):
    cut = tokenizer().cut
    texts = ["a b c d", "a b c", "  a  b  ", "", "é\ud800 a b c", "c d"]
    assert cut(texts, 3) == ["a b c", "a b c", "  a  b  ", "", "é\ud800 a", "c d"]
    assert cut(texts, 1) == ["a", "a", "  a", "", "é", "c"]
    assert cut(["x" * 1000, "a " * 1000], 5) == ["x" * 320, "a a a a a"]  # one long word is a single token


@given(st.lists(st.sampled_from([*LETTERS, "zz", "é", "🎉", "  "]), max_size=30), st.integers(1, 12))
def test_a_cut_text_reads_as_the_beginning_of_the_text(tokenizer, words, n):
    text = " ".join(words)
    (cut,) = tokenizer().cut([text], n)
    assert text.startswith(cut)
    wide = tokenizer(1, max_tokens=200)
    assert wide([cut]).ids[1:-1].tolist() == wide([text]).ids[1:-1][:n].tolist()
