"""The texts to rank: an unlimited number of seeded texts of about 128 tokens."""

import json
import random
from typing import Final

WORDS: Final = (  # noqa: SIM905
    "the a of to and in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were all her she there would their we him been has when who will no more if out so up said what its about "
    "than into them can only other time new some could these two may first then do any like my now over such our man me "
    "even most made after also did many off before must well back through years much where your way down should because "
    "long each just state people those too mister how little good world make very year still see work life under last"
).split()
TOKENS: Final = 128
CANDIDATES: Final = 16


class Texts:
    """An endless supply of texts.

    Args:
        seed: Seed of all random draws.
        tokens: Words per text, each of which is one token for most encoders.
    """

    def __init__(self, seed: int, tokens: int = TOKENS) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._tokens = tokens - 2  # the encoder adds two

    def text(self) -> str:
        """Return a new text."""
        return " ".join(self._random.choices(WORDS, k=self._tokens))

    def texts(self, number: int = CANDIDATES) -> list[str]:
        """Return several new texts."""
        return [self.text() for _ in range(number)]


def rerank_body(texts: list[str], **more: object) -> bytes:
    """Return a rerank request in the dialect of Cohere, Jina and Infinity."""
    return json.dumps({"query": "Which answer is best?", "documents": texts, **more}).encode()
