"""Match features: cosine over windows, coverage of the prompt's words, and the kind of prompt."""

import numpy as np
import pytest

from penchant.models.encoding.attributes import MAX_CHARS
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.match import (
    BRIEF,
    COSINE,
    COVERAGE,
    LATER_WINDOW,
    MATCH_NAMES,
    MAX_PROMPT_WORDS,
    RELEVANCE,
    compute_cosine,
    compute_coverage,
    compute_match,
)

DIM = 6


def draw_windows(rng: np.random.Generator, *counts: int) -> list[np.ndarray]:
    return [rng.normal(size=(count, DIM)).astype(np.float16) for count in counts]


def match_one(prompt: str, text: str) -> np.ndarray:
    """Return the match of a prompt and a text under the weight-free encoder."""
    extractor = FeatureExtractor(HashingEncoder())
    features = extractor.extract([prompt, text])
    return compute_match([prompt], [text], features.vectors[:1, :64], features.windows[1:])[0]


# ---------------------------------------------------------------- cosine


def test_the_cosine_is_that_of_the_nearest_window(rng):
    (prompt,), (windows,) = draw_windows(rng, 1)[0], draw_windows(rng, 5)
    expected = [
        np.dot(prompt.astype(float), w)
        / np.linalg.norm(prompt.astype(float))
        / np.linalg.norm(w.astype(float))
        for w in windows.astype(float)
    ]
    assert compute_cosine(prompt, windows) == pytest.approx(max(expected), abs=1e-6)
    for window, cosine in zip(windows, expected, strict=True):
        assert compute_cosine(prompt, window[None]) == pytest.approx(cosine, abs=1e-6)


def test_the_cosine_does_not_depend_on_lengths(rng):
    (prompt,), (windows,) = draw_windows(rng, 1)[0], draw_windows(rng, 2)
    assert compute_cosine(4 * prompt, windows / 8) == pytest.approx(compute_cosine(prompt, windows), abs=1e-6)
    assert compute_cosine(prompt, prompt[None]) == pytest.approx(1)
    assert compute_cosine(prompt, -prompt[None]) == pytest.approx(-1)


@pytest.mark.parametrize("zero", ["prompt", "text", "window"])
def test_a_zero_embedding_has_no_cosine(rng, zero):
    (prompt,), (windows,) = draw_windows(rng, 1)[0], draw_windows(rng, 3)
    if zero == "prompt":
        prompt = np.zeros_like(prompt)
    else:
        windows[slice(None) if zero == "text" else 1] = 0
    assert np.isnan(compute_cosine(prompt, windows))


def test_a_later_window_counts_a_little_less_than_the_first():
    extractor = FeatureExtractor(HashingEncoder(max_tokens=5, max_windows=3))
    prompt = "purple lighthouse keeper"
    passage, padding = "the purple lighthouse keeper sleeps", "some other words stand here"
    features = extractor.extract([prompt, passage, f"{padding} {passage}", padding])
    rows = [1, 2, 3]
    match = compute_match(
        [prompt] * 3,
        [passage, f"{padding} {passage}", padding],
        features.vectors[[0, 0, 0], :64],
        [features.windows[row] for row in rows],
    )
    assert len(features.windows[2]) == 2
    assert match[1, COSINE] == pytest.approx(match[0, COSINE] - LATER_WINDOW, abs=1e-3)
    assert match[1, COSINE] > match[2, COSINE] + 0.3


# ---------------------------------------------------------------- coverage


@pytest.mark.parametrize(
    ("prompt", "text", "share"),
    [
        ("What is the capital of France?", "Paris is the capital of France.", 1.0),
        ("What is the capital of France?", "PARIS, A CAPITAL.", 0.5),
        ("What is the capital of France?", "Sourdough needs time.", 0.0),
        ("What is the capital of France?", "", 0.0),
        ("lift of a wing", "wings lifted", 1.0),  # plural and past tense
        ("delta wings", "a delta wing", 1.0),
        ("studies of boundary layers", "one study, one boundary layer", 1.0),
        ("cat cat cat dog", "cat", 0.5),  # distinct words
        ("cat", "concatenate", 0.0),  # whole words
        ("section 42 of 1998", "in 1998, section 7", 2 / 3),
        ("mach 2.5", "at mach 2 or 5", 1.0),  # digits apart from the point
        ("snake_case name", "a name in snake case", 1.0),
        ("Größe der Wörter", "GRÖSSE ist größe", 1 / 3),
        ("東京の天気", "今日の東京", 3 / 5),  # every character counts as a word
        ("날씨 서울", "서울", 0.5),
        ("🎉 party", "a party", 1.0),
    ],
)
def test_coverage_is_the_share_of_content_words(prompt, text, share):
    assert compute_coverage(prompt, text) == pytest.approx(share)


@pytest.mark.parametrize("prompt", ["", " \n", "What is it?", "who are you", "?!", "🎉"])
def test_a_prompt_without_content_words_has_no_coverage(prompt):
    assert np.isnan(compute_coverage(prompt, "It is what it is."))


@pytest.mark.parametrize(
    ("contracted", "plain"),
    [
        ("What's the capital of France?", "What is the capital of France?"),
        ("What’s France’s capital?", "What is France capital"),
        ("Why don't cats swim?", "Why do cats swim?"),
        ("I'll ask why they're late, she'd've", "I ask why they late, she"),
    ],
)
def test_contractions_add_no_words(contracted, plain):
    for text in ("It's Paris", "Paris, France", "don't swim, cat: it's late", "capital", "we'd ask"):
        assert compute_coverage(contracted, text) == compute_coverage(plain, text)


def test_a_word_of_another_language_keeps_what_follows_an_apostrophe():
    assert compute_coverage("l'avion", "un avion") == 0.5


def test_only_the_first_words_of_a_prompt_are_looked_for():
    words = [f"term{i}" for i in range(3 * MAX_PROMPT_WORDS)]
    prompt = " ".join(words)
    assert compute_coverage(prompt, " ".join(words[:MAX_PROMPT_WORDS])) == 1
    assert compute_coverage(prompt, " ".join(words[MAX_PROMPT_WORDS:])) == 0
    assert compute_coverage(f"{words[0]} " * 1000 + words[1], words[1]) == 0.5


def test_only_the_beginning_of_a_very_long_text_is_read():
    filling = "filling " * (MAX_CHARS // 8)
    assert compute_coverage("needle", f"needle {filling}") == 1
    assert compute_coverage("needle", f"{filling}needle") == 0
    assert compute_coverage("needle " + "x " * MAX_CHARS, "needle") == 0.5
    assert compute_coverage(f"{filling}needle", "filling") == 1


# ---------------------------------------------------------------- all of them


def test_the_columns_have_names():
    assert MATCH_NAMES == ("cosine", "coverage", "brief", "relevance")
    assert (COSINE, COVERAGE, BRIEF, RELEVANCE) == (0, 1, 2, 3)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t"])
def test_a_blank_prompt_has_no_match(prompt):
    match = match_one(prompt, "any text")
    assert match.dtype == np.float16
    assert np.isnan(match).all()


def test_without_content_words_there_is_a_cosine_alone():
    match = match_one("What is it?", "It is what it is.")
    assert np.isfinite(match[[COSINE, BRIEF]]).all()
    assert np.isnan(match[[COVERAGE, RELEVANCE]]).all()


def test_an_empty_text_covers_nothing_and_has_no_cosine():
    match = match_one("the moon", "")
    assert np.isnan(match[COSINE])
    assert match[COVERAGE] == 0


@pytest.mark.parametrize(
    ("prompt", "brief"),
    [
        ("Why?", 0),
        ("\n  Why is the sky blue?\n\n", 0),
        ("Write a poem.\nIt must rhyme.", 1),
        ("a\r\nb", 1),
    ],
)
def test_a_prompt_of_several_lines_is_a_brief(prompt, brief):
    assert match_one(prompt, "text")[BRIEF] == brief


def test_other_candidates_do_not_matter(rng):
    prompts = ["the moon is grey", "tea", "", "the moon is grey", "What is it?"]
    texts = ["moon", "tea and moon", "tea", "grey tea", "grey"]
    vectors, windows = rng.normal(size=(5, DIM)).astype(np.float16), draw_windows(rng, 1, 3, 2, 1, 4)
    together = compute_match(prompts, texts, vectors, windows)
    for order in (range(5), [3, 1, 4, 0, 2]):
        for i in order:
            own = compute_match([prompts[i]], [texts[i]], vectors[[i]], [windows[i]])
            np.testing.assert_array_equal(own[0], together[i])
    turned = [3, 1, 4, 0, 2]
    shuffled = compute_match(
        [prompts[i] for i in turned],
        [texts[i] for i in turned],
        vectors[turned],
        [windows[i] for i in turned],
    )
    np.testing.assert_array_equal(shuffled, together[turned])


def test_no_texts_have_no_match():
    assert compute_match([], [], np.zeros((0, DIM), np.float16), []).shape == (0, len(MATCH_NAMES))


def test_every_prompt_needs_a_text():
    with pytest.raises(ValueError, match="zip"):
        compute_match(["a", "b"], ["a"], np.ones((1, DIM), np.float16), [np.ones((1, DIM), np.float16)])
