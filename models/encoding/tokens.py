"""From texts to tokens: `TextTokenizer` and `Tokens`, which can be made in one thread and encoded in another."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

CHARS_PER_TOKEN: Final = 64
"""A text is cut at this many characters for each token that is read, before it is tokenized, which bounds the cost."""

PROMPT_SHARE: Final = 0.25
"""Share of the sequence that a prompt may take in joint mode. It also gets the space that the text leaves free."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of n texts, concatenated. A long text consists of several windows, and each window is one sequence.

    Attributes:
        ids: Token numbers of all windows, special tokens included, `[total]`.
        lengths: Number of tokens in each window, at least 1, `[n_windows]`.
        counts: Number of windows of each text, at least 1, `[n]`.
        truncated: Whether some of the *text* was cut off, `[n]`. A cut prompt does not count.
        leading: Number of tokens of each window that stand before those of the text, `[n_windows]`, for models that
            distinguish the two segments of a pair. None for any other model.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    leading: NDArray[np.int64] | None = None

    @classmethod
    def from_sequences(
        cls,
        sequences: Sequence[Sequence[int]],
        truncated: NDArray[np.bool_] | None = None,
        counts: NDArray[np.int64] | None = None,
    ) -> "Tokens":
        """Make tokens from sequences of token numbers.

        Args:
            sequences: Token numbers of each window.
            truncated: Whether some of the text was cut off, `[n]`. None if no text was.
            counts: Number of windows of each text, `[n]`. None if every text is one window.
        """
        total = len(sequences)
        lengths = np.fromiter(map(len, sequences), np.int64, total)
        ids = np.fromiter((i for sequence in sequences for i in sequence), np.int64, int(lengths.sum()))
        counts = np.ones(total, np.int64) if counts is None else counts
        return cls(ids, lengths, counts, np.zeros(len(counts), np.bool_) if truncated is None else truncated)

    @classmethod
    def join(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """Concatenate the tokens of several calls."""
        if not parts:
            return cls.from_sequences([])
        leading = [part.leading for part in parts if part.leading is not None]
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.truncated for part in parts]),
            np.concatenate(leading) if leading else None,
        )

    def split(self) -> list["Tokens"]:
        """Return the tokens of each text."""
        window_ends = np.cumsum(self.counts)
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        parts, first = [], 0
        for i, last in enumerate(window_ends.tolist()):
            parts.append(
                Tokens(
                    self.ids[ends[first] : ends[last]],
                    self.lengths[first:last],
                    self.counts[i : i + 1],
                    self.truncated[i : i + 1],
                    None if self.leading is None else self.leading[first:last],
                )
            )
            first = last
        return parts

    def __len__(self) -> int:
        return len(self.counts)


class TextTokenizer:
    """A tokenizer for one encoder, with windows and truncation. Safe to use from several threads.

    A text that does not fit into one sequence is split into as few windows as possible, evenly spaced, which overlap so
    that all of them are full: the last one has fewer tokens than the others by less than the number of windows. In joint
    mode each window has the prompt before it.

    Args:
        definition: A fast tokenizer as JSON.
        max_tokens: Longest sequence, in tokens.
        max_windows: Largest number of windows of a text. The rest of a longer text is cut off.
        joint: Whether a prompt precedes each text.
        segmented: Whether prompt and text are the two segments of a pair, as a cross-encoder reads them. Otherwise, a
            blank line follows the prompt. In joint mode only.
        pad: Number of the padding token, which represents a text without tokens.
    """

    def __init__(
        self,
        definition: str,
        *,
        max_tokens: int,
        max_windows: int = 1,
        joint: bool,
        segmented: bool = False,
        pad: int,
    ) -> None:
        self._tokenizer: Any = Tokenizer.from_str(definition)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_chars = max_tokens * max_windows * CHARS_PER_TOKEN
        self._max_windows = max_windows
        self._room = max_tokens - self._tokenizer.num_special_tokens_to_add(joint)
        self._joint = joint
        self._segmented = segmented
        self._pad = pad

    def __call__(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Tokens:
        """Return the tokens of n texts. `prompts`, one for each text, are read in joint mode only.

        Cost: about 1 % of encoding the texts.
        """
        n = len(texts)
        truncated = np.fromiter((len(text) > self._max_chars for text in texts), np.bool_, n)
        counts = np.ones(n, np.int64)
        sequences, leading = [], []
        encoded = self._encode(texts)
        end = "" if self._segmented else "\n\n"
        encoded_prompts = self._encode(prompts or [""] * n, end) if self._joint else [None] * n
        for i, (text, prompt) in enumerate(zip(encoded, encoded_prompts, strict=True)):
            room = self._room
            if prompt is not None:
                # The prompt gets its share or the space that the text leaves free, whichever is larger.
                prompt.truncate(min(len(prompt), max(int(self._room * PROMPT_SHARE), self._room - len(text))))
                room -= len(prompt)
            truncated[i] |= len(text) > room * self._max_windows
            windows = self._split(text, room)
            counts[i] = len(windows)
            for window in windows:
                pair = (window,) if prompt is None else (prompt, window)
                sequence = self._tokenizer.post_process(*pair)
                sequences.append(sequence.ids or [self._pad])
                if self._segmented:
                    leading.append(bisect_left(sequence.type_ids, 1))
        tokens = Tokens.from_sequences(sequences, truncated, counts)
        return replace(tokens, leading=np.array(leading, np.int64)) if self._segmented else tokens

    def cut(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Return each text up to the end of its first `max_tokens` tokens. Special tokens do not count.

        At most 64 characters a token are kept, as in every text that is encoded.
        """
        max_chars = max_tokens * CHARS_PER_TOKEN
        # Each ASCII character is at most one token, and some tokenizers put one token before the text.
        long = [i for i, text in enumerate(texts) if len(text) >= max_tokens or not text.isascii()]
        cut = list(texts)
        encoded = self._tokenizer.encode_batch(
            [_replace_surrogates(texts[i][:max_chars]) for i in long], add_special_tokens=False
        )
        for i, text in zip(long, encoded, strict=True):
            end = max_chars if len(text) <= max_tokens else text.token_to_chars(max_tokens - 1)[1]
            cut[i] = texts[i][:end]
        return cut

    def _encode(self, texts: Sequence[str], end: str = "") -> list[Any]:
        cleaned = [_replace_surrogates(text[: self._max_chars]) + end for text in texts]
        encoded: list[Any] = self._tokenizer.encode_batch_fast(cleaned, add_special_tokens=False)
        return encoded

    def _split(self, text: Any, room: int) -> list[Any]:  # noqa: ANN401 - a tokenizers.Encoding
        """Return the windows of a text, of at most `room` tokens each, without special tokens."""
        if len(text) <= room or self._max_windows == 1:
            text.truncate(room)
            return [text]
        n_windows = min(self._max_windows, -(-len(text) // room))
        text.truncate(min(len(text), n_windows * room))
        step = -(-(len(text) - room) // (n_windows - 1))
        text.truncate(room, stride=room - step)
        return [text, *text.overflowing[: n_windows - 1]]


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON strings may hold but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
