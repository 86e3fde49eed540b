"""From texts to token numbers: `TextTokenizer`, and `Tokens`, which can be made in one thread and encoded in another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

CHARS_PER_TOKEN: Final = 64
"""A text is cut at `max_tokens` times this before it is tokenized: a megabyte of text costs what a page costs."""

PROMPT_SHARE: Final = 0.25
"""In joint mode a prompt may take this share of the sequence, and whatever the text leaves free."""


@dataclass(frozen=True)
class Tokens:
    """Token numbers of n texts, one after the other.

    Attributes:
        ids: `[total]` of all texts, special tokens included.
        lengths: `[n]` how many of them are each text's, at least 1.
        truncated: `[n]` whether some of the *text* was cut off (a cut prompt does not count).
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], truncated: NDArray[np.bool_] | None = None) -> "Tokens":
        """Tokens of n sequences; none of them cut unless it is said."""
        n = len(sequences)
        lengths = np.fromiter(map(len, sequences), np.int64, n)
        ids = np.fromiter((i for sequence in sequences for i in sequence), np.int64, int(lengths.sum()))
        return cls(ids, lengths, np.zeros(n, np.bool_) if truncated is None else truncated)

    @classmethod
    def join(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """Texts of several calls as if they came in one, in their order."""
        if not parts:
            return cls.of([])
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.truncated for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.lengths)


class TextTokenizer:
    """Tokenizes texts for one encoder. Safe to use from several threads.

    Args:
        definition: A fast tokenizer as JSON.
        max_tokens: Longest sequence.
        joint: Whether a prompt is read before each text.
        pad: Number of the padding token, which stands for a text without any token.
    """

    def __init__(self, definition: str, *, max_tokens: int, joint: bool, pad: int) -> None:
        self._tokenizer: Any = Tokenizer.from_str(definition)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_chars = max_tokens * CHARS_PER_TOKEN
        self._room = max_tokens - self._tokenizer.num_special_tokens_to_add(joint)
        self._joint = joint
        self._pad = pad

    def __call__(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Tokens:
        """Tokens of n texts; `prompts`, one a text, are read in joint mode alone. Cost: about 1 % of encoding them."""
        n = len(texts)
        truncated = np.fromiter((len(text) > self._max_chars for text in texts), np.bool_, n)
        encoded = self._encode(texts)
        if not self._joint:
            sequences = []
            for i, text in enumerate(encoded):
                truncated[i] |= len(text) > self._room
                text.truncate(self._room)
                sequences.append(self._tokenizer.post_process(text).ids or [self._pad])
            return Tokens.of(sequences, truncated)
        sequences = []
        pairs = zip(encoded, self._encode(prompts or [""] * n, end="\n\n"), strict=True)
        for i, (text, prompt) in enumerate(pairs):
            # The text comes first: a prompt gets its share, or what the text leaves.
            prompt.truncate(min(len(prompt), max(int(self._room * PROMPT_SHARE), self._room - len(text))))
            text_room = self._room - len(prompt)
            truncated[i] |= len(text) > text_room
            text.truncate(text_room)
            sequences.append(self._tokenizer.post_process(prompt, text).ids or [self._pad])
        return Tokens.of(sequences, truncated)

    def _encode(self, texts: Sequence[str], end: str = "") -> list[Any]:
        cleaned = [_clean(text[: self._max_chars]) + end for text in texts]
        encoded: list[Any] = self._tokenizer.encode_batch_fast(cleaned, add_special_tokens=False)
        return encoded


def _clean(text: str) -> str:
    """Lone surrogates, which a JSON string may hold, are not encodable; the tokenizer gets the replacement sign."""
    return text.encode("utf-8", "replace").decode("utf-8")
