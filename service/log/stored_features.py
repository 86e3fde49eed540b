"""`StoredFeatures`: the stored features of logged texts, with their match, as a fit reads them. Nothing is encoded."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.features import TextFeatures, get_embedding, join_vectors
from penchant.models.encoding.match import BRIEF, COSINE, MATCH_NAMES, compute_cosine, compute_match

Item = tuple[str, str]
"""(context, text), where each is a hash or key that stands for the text itself."""


class StoredFeatures(Mapping[Item, NDArray[np.float16]]):
    """Raw vectors of (context, text) pairs from the store.

    It also finds the vector of a text with the prompt of another, for prompts whose features are stored. The words that
    the two share are then known if the texts were kept; otherwise they are NaN.

    Args:
        reads_prompts: Whether the vectors hold match features.
        reads_prompt_embedding: Whether vectors also hold the embedding of the prompt, NaN if it is not stored. It has no
            effect if prompts are not read.

    Attributes:
        reads_prompts: Whether the vectors hold match features.
    """

    def __init__(self, *, reads_prompts: bool, reads_prompt_embedding: bool = False) -> None:
        self.reads_prompts = reads_prompts
        self._reads_embedding = reads_prompts and reads_prompt_embedding
        self._texts: dict[str, TextFeatures] = {}
        self._match: dict[Item, NDArray[np.float16]] = {}
        self._prompts: dict[str, TextFeatures] = {}
        self._brief: dict[str, float] = {}
        self._words: dict[str, str] = {}

    def add_text(self, item: Item, features: TextFeatures, match: NDArray[np.float16] | None) -> None:
        """Add a judged text. A known match replaces an unknown one.

        Args:
            item: Context and text.
            features: Features of the text.
            match: Match with the context. None if it is unknown, or if prompts are not read.
        """
        self._texts[item[1]] = features
        if match is not None:
            self._match[item] = match
            self._brief.setdefault(item[0], float(match[BRIEF]))
        elif item not in self._match:
            self._match[item] = np.full(len(MATCH_NAMES) if self.reads_prompts else 0, np.nan, np.float16)

    def add_prompt(self, context: str, features: TextFeatures) -> None:
        """Add the features of the prompt that a context stands for."""
        self._prompts[context] = features

    def add_words(self, name: str, text: str) -> None:
        """Add the text that a name, which is a context or the text of an item, stands for."""
        self._words[name] = text

    def __getitem__(self, item: Item) -> NDArray[np.float16]:
        vector: NDArray[np.float16] = self._join([item], self._match[item][None])[0]
        return vector

    def __iter__(self) -> Iterator[Item]:
        return iter(self._match)

    def __len__(self) -> int:
        return len(self._match)

    @property
    def prompt_dim(self) -> int:
        """Width of the prompt's embedding at the end of the vectors; 0 if they do not hold it."""
        if not self._reads_embedding or not self._texts:
            return 0
        return int(get_embedding(next(iter(self._texts.values())).vector).shape[1])

    def has_prompt(self, context: str) -> bool:
        """Return whether a context stands for a prompt whose features are stored."""
        return context in self._prompts

    def get_prompt(self, context: str) -> NDArray[np.float16]:
        """Return the embedding of a prompt, `[encoder.dim]`.

        Raises:
            KeyError: If the features of the prompt are not stored.
        """
        embedding: NDArray[np.float16] = get_embedding(self._prompts[context].vector)[0]
        return embedding

    def cross(self, items: Sequence[Item]) -> NDArray[np.float16]:
        """Return the raw vectors `[n, width]` of texts with prompts that they may not answer.

        Args:
            items: Pairs of a context and a text, each of which occurs in the log.

        Raises:
            KeyError: If the features of a prompt or a text are not stored.
        """
        if not self.reads_prompts:
            return np.stack([self._texts[text].vector for _, text in items])
        return self._join(items, np.stack([self._find_match(item) for item in items]))

    def _join(self, items: Sequence[Item], match: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return the raw vectors of texts with their match features `[n, w]`."""
        vectors = np.stack([self._texts[text].vector for _, text in items])
        if not self._reads_embedding:
            return join_vectors(vectors, match)
        unknown = np.full(self.prompt_dim, np.nan, np.float16)
        prompts = [self.get_prompt(c) if self.has_prompt(c) else unknown for c, _ in items]
        return join_vectors(vectors, match, np.stack(prompts))

    def _find_match(self, item: Item) -> NDArray[np.float16]:
        """Return the stored match of a judged pair, or compute that of another one."""
        stored = self._match.get(item)
        if stored is not None and not np.isnan(stored[COSINE]):
            return stored
        context, text = item
        embedding, windows = self.get_prompt(context), self._texts[text].windows
        if context in self._words and text in self._words:
            prompt, words = self._words[context], self._words[text]
            computed: NDArray[np.float16] = compute_match([prompt], [words], embedding[None], [windows])[0]
            return computed
        match = np.full(len(MATCH_NAMES), np.nan, np.float16)
        match[COSINE] = compute_cosine(embedding, windows)
        match[BRIEF] = self._brief.get(context, np.nan)
        return match
