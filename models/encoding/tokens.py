"""From texts to tokens: `TextTokenizer` and `Tokens`, which can be made in one thread and encoded in another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

CHARS_PER_TOKEN: Final = 64
"""A text is cut at `max_tokens` times this many characters before it is tokenized, which bounds the cost."""

PROMPT_SHARE: Final = 0.25
"""Share of the sequence that a prompt may take in joint mode. It also gets the space that the text leaves free."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of n texts, concatenated.

    Attributes:
        ids: Token numbers of all texts, special tokens included, `[total]`.
        lengths: Number of tokens of each text, at least 1, `[n]`.
        truncated: Whether some of the *text* was cut off, `[n]`. A cut prompt does not count.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @classmethod
    def from_sequences(
        cls, sequences: Sequence[Sequence[int]], truncated: NDArray[np.bool_] | None = None
    ) -> "Tokens":
        """Make tokens from n sequences of token numbers, which are not truncated by default."""
        n = len(sequences)
        lengths = np.fromiter(map(len, sequences), np.int64, n)
        ids = np.fromiter((i for sequence in sequences for i in sequence), np.int64, int(lengths.sum()))
        return cls(ids, lengths, np.zeros(n, np.bool_) if truncated is None else truncated)

    @classmethod
    def join(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """Concatenate the tokens of several calls."""
        if not parts:
            return cls.from_sequences([])
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.truncated for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.lengths)


class TextTokenizer:
    """A tokenizer for one encoder, with truncation. Safe to use from several threads.

    Args:
        definition: A fast tokenizer as JSON.
        max_tokens: Longest sequence, in tokens.
        joint: Whether a prompt precedes each text.
        pad: Number of the padding token, which represents a text without tokens.
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
        """Return the tokens of n texts. `prompts`, one for each text, are read in joint mode only.

        Cost: about 1 % of encoding the texts.
        """
        n = len(texts)
        truncated = np.fromiter((len(text) > self._max_chars for text in texts), np.bool_, n)
        encoded = self._encode(texts)
        if not self._joint:
            sequences = []
            for i, text in enumerate(encoded):
                truncated[i] |= len(text) > self._room
                text.truncate(self._room)
                sequences.append(self._tokenizer.post_process(text).ids or [self._pad])
            return Tokens.from_sequences(sequences, truncated)
        sequences = []
        pairs = zip(encoded, self._encode(prompts or [""] * n, end="\n\n"), strict=True)
        for i, (text, prompt) in enumerate(pairs):
            # The prompt gets its share or the space that the text leaves free, whichever is larger.
            prompt.truncate(min(len(prompt), max(int(self._room * PROMPT_SHARE), self._room - len(text))))
            text_room = self._room - len(prompt)
            truncated[i] |= len(text) > text_room
            text.truncate(text_room)
            sequences.append(self._tokenizer.post_process(prompt, text).ids or [self._pad])
        return Tokens.from_sequences(sequences, truncated)

    def _encode(self, texts: Sequence[str], end: str = "") -> list[Any]:
        cleaned = [_replace_surrogates(text[: self._max_chars]) + end for text in texts]
        encoded: list[Any] = self._tokenizer.encode_batch_fast(cleaned, add_special_tokens=False)
        return encoded


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON strings may hold but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
