"""Match features: what a text is to its prompt, beside what it is by itself.

A feature depends on the prompt and on this text alone, never on the other candidates of a request. Without a prompt
there is no match information: all features are NaN, which a reward model reads as neutral.
"""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import FUNCTION_WORDS, MAX_CHARS

MATCH_NAMES: Final = ("cosine", "coverage", "brief", "relevance")
"""Names in column order.

- `cosine`: largest cosine between the embedding of the prompt and those of the text's windows, those after the first
  less `LATER_WINDOW`.
- `coverage`: share of the prompt's distinct content words that the text contains. NaN if the prompt has none.
- `brief`: 1 if the prompt has several lines, 0 if it is a single line. Questions are single lines. A brief or the
  description of a discussion has several, and even its best answers repeat little of it.
- `relevance`: score of the text as an answer by the operator's cross-encoder. NaN without one.
"""

COSINE, COVERAGE, BRIEF, RELEVANCE = range(len(MATCH_NAMES))

MATCH_VERSION: Final = "1"
"""Version of the definitions. It is part of the identity of stored match features."""

_MODEL_DIGITS: Final = 8

MAX_PROMPT_WORDS: Final = 64
"""Number of distinct content words of a prompt that `coverage` looks for, from the beginning."""

LATER_WINDOW: Final = 0.05
"""How much closer than the first window a later one must be. A text says at its beginning what it is about, and the
largest of several cosines is larger by chance alone. `benchmarks.windows` measures texts read with it and without it."""

# Scripts without spaces between words count every character as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+")
_SEPARATORS: Final = {code: " " for code in range(128) if not chr(code).isalnum()}
# An English contraction adds no content: "what's" is "what", and "don't" is a function word.
_CONTRACTION = re.compile(r"\b[a-z]+n['’]t\b|['’](?:s|re|ve|ll|m|d)\b")
_SUFFIX = re.compile(r"(?:ies|ing|ed|es|s|e|y)$")
_SHORTEST_STEM: Final = 4


def name_version(version: str, model: str | None) -> str:
    """Return the version of stored match features: `version`, and a mark of the cross-encoder that gave `relevance`.

    Args:
        version: Version of the definitions. Empty for a model that does not read prompts.
        model: Identity of the cross-encoder. None without one.
    """
    return f"{version}+{model[:_MODEL_DIGITS]}" if version and model is not None else version


def have_same_definitions(version: str, other: str) -> bool:
    """Return whether match features of two versions from `name_version` differ at most in their cross-encoder."""
    return version.partition("+")[0] == other.partition("+")[0]


def convert_match(match: NDArray[np.float16], version: str, wanted: str) -> NDArray[np.float16]:
    """Return match features `[..., w]` of one version as a model of another version reads them.

    The scores of another cross-encoder are on another scale, so they become NaN.

    Args:
        match: Match features.
        version: Their version, from `name_version`.
        wanted: Version of the same definitions that the model reads.
    """
    if version == wanted:
        return match
    match = match.copy()
    match[..., RELEVANCE] = np.nan
    return match


def compute_match(
    prompts: Sequence[str],
    texts: Sequence[str],
    prompt_vectors: NDArray[np.float16],
    windows: Sequence[NDArray[np.float16]],
) -> NDArray[np.float16]:
    """Return the match features of n texts with their prompts, `[n, len(MATCH_NAMES)]`. NaN stands for unknown.

    Args:
        prompts: n prompts. An empty one has no match information.
        texts: n texts.
        prompt_vectors: `[n, dim]` embeddings of the prompts.
        windows: n arrays `[w, dim]`, the embeddings of each text's windows.

    Cost: about 0.05 ms per KB of text for the words, and one product per window.
    """
    match = np.full((len(texts), len(MATCH_NAMES)), np.nan, np.float16)
    last, wanted = "", frozenset[str]()
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if not prompt.strip():
            continue
        if prompt is not last:
            last, wanted = prompt, _find_content_words(prompt)
        match[row, COSINE] = compute_cosine(prompt_vectors[row], windows[row])
        match[row, COVERAGE] = _compute_share(wanted, text)
        match[row, BRIEF] = float("\n" in prompt.strip())
    return match


def compute_cosine(prompt: NDArray[np.float16], windows: NDArray[np.float16]) -> float:
    """Return the cosine between a prompt's embedding `[dim]` and the closest of a text's windows `[w, dim]`.

    NaN if an embedding is zero, as that of an empty text may be.
    """
    query, passages = prompt.astype(np.float32), windows.astype(np.float32)
    norms = np.linalg.norm(passages, axis=1) * np.linalg.norm(query)
    if not norms.all():
        return float("nan")
    cosines = passages @ query / norms
    cosines[1:] -= LATER_WINDOW
    return float(cosines.max())


def compute_coverage(prompt: str, text: str) -> float:
    """Return the share of the prompt's distinct content words that a text contains; NaN if the prompt has none."""
    return _compute_share(_find_content_words(prompt), text)


def _compute_share(wanted: frozenset[str], text: str) -> float:
    if not wanted:
        return float("nan")
    # A stem and its word begin with the same letters, so most words need not be stemmed.
    starts = {stem[:_SHORTEST_STEM] for stem in wanted}
    found = {_stem(word) for word in set(_split(text)) if word[:_SHORTEST_STEM] in starts}
    return len(wanted & found) / len(wanted)


def _find_content_words(prompt: str) -> frozenset[str]:
    words = dict.fromkeys(_stem(word) for word in _split(prompt) if word not in FUNCTION_WORDS)
    return frozenset(list(words)[:MAX_PROMPT_WORDS])


def _split(text: str) -> list[str]:
    text = text[:MAX_CHARS].lower()
    if "'" in text or "’" in text:
        text = _CONTRACTION.sub("", text)
    # Much faster than the pattern, and the same for text of ASCII characters.
    return text.translate(_SEPARATORS).split() if text.isascii() else _WORD.findall(text)


def _stem(word: str) -> str:
    """Cut a common English ending off, so that "wings" and "wing" are one word."""
    stem = _SUFFIX.sub("", word)
    return stem if len(stem) >= _SHORTEST_STEM else word
