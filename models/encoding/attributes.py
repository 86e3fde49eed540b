"""Interpretable attributes of a text, which can be named as reasons for liking it.

Every attribute is a pure function of the text. It is finite and of moderate size (counts enter as logarithms, rates as
shares), so that it survives float16 and a linear model extrapolates gently. The word lists are English; in other
languages those attributes are near zero and have no effect.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_CHARS: Final = 100_000
"""Number of characters that attributes are computed from; longer texts are cut."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
# Every pattern runs in linear time: no run of characters is tried from more than one start.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++(?=\s|$)")
_BULLET = re.compile(r"^[^\S\n]*(?:[-*•–]|\(?\w[.)])\s+", re.MULTILINE)
_NUMBERED = re.compile(r"^[^\S\n]*\(?\d{1,3}[.)]\s+", re.MULTILINE)
_HEADING = re.compile(r"^[^\S\n]*(?:#{1,6}\s+\S|\*\*[^*\n]{1,80}\*\*:?\s*$)", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__|<(?:b|strong|em)>")
_CODE = re.compile(r"```|`[^`\n]+`")
_LINK = re.compile(r"https?://|www\.|<url>|\]\(", re.IGNORECASE)
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]|[:;]-?[)(DP]")
_QUOTE = re.compile('["“”«»]')


def _split_words(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LEXICONS: Final[dict[str, frozenset[str]]] = {
    "first_person_singular": _split_words("i me my mine myself i'm i've i'd i'll"),
    "first_person_plural": _split_words("we us our ours ourselves we're we've we'd we'll let's"),
    "second_person": _split_words("you your yours yourself yourselves you're you've you'd you'll"),
    "third_person": _split_words("he him his she her hers they them their theirs they're it its"),
    "hedging": _split_words(
        "maybe perhaps possibly probably might may could seems seem appears somewhat guess suppose likely "
        "sometimes often generally usually apparently roughly about"
    ),
    "certainty": _split_words(
        "always never certainly definitely clearly obviously absolutely must undoubtedly surely every all none "
        "completely totally proven fact"
    ),
    "negation": _split_words(
        "no not nor none neither never cannot can't don't doesn't didn't won't wouldn't isn't aren't wasn't "
        "shouldn't couldn't hasn't haven't without nothing"
    ),
    "obligation": _split_words("should must ought need needs required require shall have"),
    "courtesy": _split_words(
        "please thank thanks appreciate grateful welcome sorry apologies apologize pardon kindly cheers hi hello "
        "dear regards excuse"
    ),
    "reasoning": _split_words(
        "because therefore thus hence since so consequently if then whereas although however but example reason "
        "due result means"
    ),
    "positive_sentiment": _split_words(
        "good great excellent nice love like best better benefit benefits helpful happy wonderful positive support "
        "improve improved improvement success fair safe healthy important enjoy fun well right interesting amazing "
        "effective valuable free"
    ),
    "negative_sentiment": _split_words(
        "bad worse worst hate wrong problem problems poor terrible awful harm harmful danger dangerous fail failed "
        "failure unfair stupid kill death die sick crime ugly waste expensive pain difficult hard lack against "
        "useless ridiculous"
    ),
}
FUNCTION_WORDS = _split_words(
    "the a an of to in on at by for with from as and or but if is are was were be been being it this that these "
    "those he she they we you i not no do does did have has had will would can could should may might must there "
    "which who what when where how why than then so such"
)


class _TextStatistics:
    """Words and counts of a text that several attributes need."""

    def __init__(self, text: str) -> None:
        self.text = text[:MAX_CHARS]
        self.chars = max(len(self.text), 1)
        self.words = [w.lower().replace("’", "'") for w in _WORD.findall(self.text)]
        self.n_words = max(len(self.words), 1)
        self.sentences = max(len(_SENTENCE_END.findall(self.text)), 1)
        self.letters = max(sum(len(w) for w in self.words), 1)

    def share(self, words: frozenset[str]) -> float:
        return sum(w in words for w in self.words) / self.n_words

    def per_sentence(self, count: int) -> float:
        return math.log1p(count / self.sentences)


def _log_count(pattern: re.Pattern[str]) -> Callable[[_TextStatistics], float]:
    return lambda r: math.log1p(sum(1 for _ in pattern.finditer(r.text)))


def _type_token_ratio(r: _TextStatistics) -> float:
    """Return the number of distinct words over the square root of twice the words (Carroll's corrected ratio)."""
    return len(set(r.words)) / math.sqrt(2 * r.n_words)


def _capitalised_words(r: _TextStatistics) -> float:
    shouted = [w for w in _WORD.findall(r.text) if len(w) > 1 and w.isupper()]
    return len(shouted) / r.n_words


def _share(words: frozenset[str]) -> Callable[[_TextStatistics], float]:
    return lambda r: r.share(words)


_ATTRIBUTES: Final[dict[str, Callable[[_TextStatistics], float]]] = {
    "length": lambda r: math.log1p(len(r.words)),
    "sentences": lambda r: math.log(r.sentences),
    "paragraphs": lambda r: math.log1p(len(re.findall(r"\n\s*\n|\n", r.text.strip()))),
    "sentence_length": lambda r: math.log1p(len(r.words) / r.sentences),
    "word_length": lambda r: r.letters / r.n_words / 4.0,
    "long_words": lambda r: sum(len(w) >= 8 for w in r.words) / r.n_words,
    "vocabulary": _type_token_ratio,
    "function_words": lambda r: r.share(FUNCTION_WORDS),
    "bullets": _log_count(_BULLET),
    "numbered_list": _log_count(_NUMBERED),
    "headings": _log_count(_HEADING),
    "emphasis": _log_count(_EMPHASIS),
    "code": _log_count(_CODE),
    "links": _log_count(_LINK),
    "emoji": _log_count(_EMOJI),
    "quotation": lambda r: math.log1p(len(_QUOTE.findall(r.text))),
    "questions": lambda r: r.per_sentence(r.text.count("?")),
    "ends_with_question": lambda r: float(r.text.rstrip().endswith("?")),
    "exclamations": lambda r: r.per_sentence(r.text.count("!")),
    "ellipses": lambda r: r.per_sentence(r.text.count("...") + r.text.count("…")),
    "commas": lambda r: r.per_sentence(r.text.count(",")),
    "parentheses": lambda r: r.per_sentence(r.text.count("(")),
    "colons": lambda r: r.per_sentence(r.text.count(":") + r.text.count(";")),
    "digits": lambda r: sum(c.isdigit() for c in r.text) / r.chars,
    "capitals": lambda r: sum(c.isupper() for c in r.text) / r.chars,
    "shouting": _capitalised_words,
    "lowercase_start": lambda r: float(r.text.lstrip()[:1].islower()),
    "contractions": lambda r: sum("'" in w for w in r.words) / r.n_words,
    **{name: _share(words) for name, words in _LEXICONS.items()},
}

ATTRIBUTE_NAMES: Final[tuple[str, ...]] = tuple(_ATTRIBUTES)
"""Names in column order. A change of the set or of a definition must change `ATTRIBUTE_VERSION`."""

ATTRIBUTE_VERSION: Final = "1"

ATTRIBUTE_PHRASES: Final[dict[str, tuple[str, str]]] = {
    "length": ("longer answers", "shorter answers"),
    "sentences": ("more sentences", "fewer sentences"),
    "paragraphs": ("more paragraphs and line breaks", "fewer paragraphs and line breaks"),
    "sentence_length": ("longer sentences", "shorter sentences"),
    "word_length": ("longer words on average", "shorter words on average"),
    "long_words": ("more long words", "fewer long words"),
    "vocabulary": ("a more varied vocabulary", "a plainer, more repetitive vocabulary"),
    "function_words": ("more small connecting words", "fewer small connecting words"),
    "bullets": ("more bullet points", "fewer bullet points"),
    "numbered_list": ("more numbered steps", "fewer numbered steps"),
    "headings": ("more headings", "fewer headings"),
    "emphasis": ("more bold or emphasised text", "less bold or emphasised text"),
    "code": ("more code", "less code"),
    "links": ("more links", "fewer links"),
    "emoji": ("more emoji", "fewer emoji"),
    "quotation": ("more quotation marks", "fewer quotation marks"),
    "questions": ("more questions", "fewer questions"),
    "ends_with_question": ("ending with a question", "not ending with a question"),
    "exclamations": ("more exclamation marks", "fewer exclamation marks"),
    "ellipses": ("more ellipses", "fewer ellipses"),
    "commas": ("more commas in a sentence", "fewer commas in a sentence"),
    "parentheses": ("more asides in brackets", "fewer asides in brackets"),
    "colons": ("more colons and semicolons", "fewer colons and semicolons"),
    "digits": ("more figures", "fewer figures"),
    "capitals": ("more capital letters", "fewer capital letters"),
    "shouting": ("more words in all capitals", "fewer words in all capitals"),
    "lowercase_start": ("starting with a small letter", "not starting with a small letter"),
    "contractions": ("more contractions", "fewer contractions"),
    "first_person_singular": ('more "I" and "my"', 'less "I" and "my"'),
    "first_person_plural": ('more "we" and "our"', 'less "we" and "our"'),
    "second_person": ('more "you" and "your"', 'less "you" and "your"'),
    "third_person": ('more "they", "he", "she" and "it"', 'less "they", "he", "she" and "it"'),
    "hedging": ("more hedging", "less hedging"),
    "certainty": ("more words of certainty", "fewer words of certainty"),
    "negation": ("more negation", "less negation"),
    "obligation": ('more "should" and "must"', 'less "should" and "must"'),
    "courtesy": ("more words of courtesy", "fewer words of courtesy"),
    "reasoning": ("more words of reasoning", "fewer words of reasoning"),
    "positive_sentiment": ("more positive words", "fewer positive words"),
    "negative_sentiment": ("more negative words", "fewer negative words"),
}
"""Phrases for more and for less of each attribute, to complete "prefers …"."""


def compute_attributes(text: str) -> list[float]:
    """Return the attributes of a text, in the order of `ATTRIBUTE_NAMES`. Cost: linear, about 0.6 ms per KB."""
    statistics = _TextStatistics(text)
    return [value(statistics) for value in _ATTRIBUTES.values()]


def compute_attribute_matrix(texts: Sequence[str] | Iterable[str]) -> NDArray[np.float32]:
    """Return the attributes of n texts, `[n, n_attributes]` float32."""
    rows = [compute_attributes(text) for text in texts]
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), len(ATTRIBUTE_NAMES))
