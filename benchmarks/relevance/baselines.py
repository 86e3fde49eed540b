"""Rankings to compare with: BM25, and the cosine between the embeddings of question and candidate."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.relevance.questions import QuestionSet

Order = NDArray[np.int64]

K1: Final = 1.2
B: Final = 0.75
_WORD: Final = re.compile(r"\w+")


def order_by(scores: NDArray[np.float64]) -> Order:
    """Return indices by descending score; ties keep their order."""
    return np.asarray((-scores).argsort(kind="stable"))


def bm25_orders(questions: QuestionSet) -> list[Order]:
    """Return the order of each question's candidates by BM25: the set's own scores, or else those computed here."""
    index = Bm25(questions.texts)
    return [
        order_by(q.bm25 if q.bm25 is not None else index.scores(q.text, q.candidates))
        for q in questions.questions
    ]


def cosine_orders(
    questions: QuestionSet, queries: Sequence[str], embeddings: Mapping[str, NDArray[np.float32]]
) -> list[Order]:
    """Return the order of each question's candidates by the cosine with a query.

    Args:
        questions: The set.
        queries: Query of each question: its own text, or another one.
        embeddings: Unit vector `[dim]` of every query and candidate, each encoded on its own.
    """
    return [
        order_by(np.stack([embeddings[text] for text in q.candidates]).astype(np.float64) @ embeddings[query])
        for q, query in zip(questions.questions, queries, strict=True)
    ]


class Bm25:
    """BM25 over a collection (Robertson and Zaragoza 2009), with the IDF that cannot be negative.

    Args:
        collection: Texts that document frequencies and the mean length are taken from.
    """

    def __init__(self, collection: Sequence[str]) -> None:
        counts = [Counter(words(text)) for text in collection]
        self._size = len(counts)
        self._length = sum(count.total() for count in counts) / max(self._size, 1)
        self._frequency = Counter(word for count in counts for word in count)

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the score of each text, `[n]`."""
        return np.array([self._score(words(query), Counter(words(text))) for text in texts])

    def _score(self, query: Sequence[str], text: Counter[str]) -> float:
        norm = K1 * (1 - B + B * text.total() / self._length)
        return sum(self._idf(word) * text[word] * (K1 + 1) / (text[word] + norm) for word in query)

    def _idf(self, word: str) -> float:
        n = self._frequency[word]
        return float(np.log1p((self._size - n + 0.5) / (n + 0.5)))


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())
