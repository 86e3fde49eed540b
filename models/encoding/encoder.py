"""Text encoders: the protocol `Encoder` and its result.

An encoder maps texts to unit vectors `[n, dim]` float32. The vector of a text does not depend on the other texts of the
call; batches only affect speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from penchant.models.errors import ModelError

Pooling = Literal["mean", "last"]
Precision = Literal["auto", "float32", "bfloat16"]
BackendName = Literal["auto", "torch", "openvino"]

DEFAULT_MAX_TOKENS: Final = 256

MAX_WINDOWS: Final = 64
"""Largest number of windows in which an encoder may read a text."""


class EncoderError(ModelError, RuntimeError):
    """An encoder cannot be loaded, its weights have the wrong hash, or it fails."""


@dataclass(frozen=True)
class Encoding:
    """Embeddings of n texts.

    Attributes:
        embeddings: Vectors of unit length, `[n, dim]` float32. The vector of a text of several windows is the mean of
            their vectors, weighted by tokens and scaled to unit length. The vector of any other text is its window's.
        tokens: Number of tokens read, `[n]`, including the special tokens and, in joint mode, the prompt of each window.
        truncated: Whether some of the *text* was cut off, `[n]`. A cut prompt does not count.
        windows: Vectors of unit length of all texts' windows, in order, `[total, dim]` float32.
        counts: Number of windows of each text, at least 1, `[n]`.
    """

    embeddings: NDArray[np.float32]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    windows: NDArray[np.float32]
    counts: NDArray[np.int64]

    @classmethod
    def from_windows(
        cls,
        windows: NDArray[np.float32],
        lengths: NDArray[np.int64],
        counts: NDArray[np.int64],
        truncated: NDArray[np.bool_],
    ) -> "Encoding":
        """Make the encoding of n texts from the vectors of their windows.

        Args:
            windows: Vectors of unit length of all windows, `[total, dim]`.
            lengths: Number of tokens in each window, `[total]`.
            counts: Number of windows of each text, at least 1, `[n]`.
            truncated: Whether some of the text was cut off, `[n]`.
        """
        if len(windows) == len(counts):
            return cls(windows, lengths, truncated, windows, counts)
        starts = np.cumsum(counts) - counts
        embeddings = windows[starts]
        for i in np.flatnonzero(counts > 1):
            rows = slice(starts[i], starts[i] + counts[i])
            # Sums of one text at a time, so that its vector does not depend on the other texts.
            total = (windows[rows].astype(np.float64) * lengths[rows, None]).sum(axis=0)
            norm = np.linalg.norm(total)
            embeddings[i] = total / norm if norm > 0 else 0.0
        return cls(embeddings, np.add.reduceat(lengths, starts), truncated, windows, counts)


class Encoder(Protocol):
    """A text encoder.

    Attributes:
        name: Name of the model, as in `load_encoder`.
        pooling: Pooling of token states to one vector.
        identity: Hash of the weights and of every setting that changes the embeddings.
        window_identity: Identity of the same encoder when it reads a single window of each text.
        backend: Readable description of the backend. It is not part of the identity, because backends agree.
        dim: Width of an embedding.
        max_tokens: Longest sequence, in tokens.
        max_windows: Largest number of sequences in which a text is read. Texts that need more are cut and reported as
            truncated.
        joint: Whether prompt and text are read in one sequence; otherwise only the text is read.
    """

    name: str
    pooling: Pooling
    identity: str
    window_identity: str
    backend: str
    dim: int
    max_tokens: int
    max_windows: int
    joint: bool

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        """Embed texts. `prompts`, one for each text, are given in joint mode only."""
        ...

    def cut(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Return each text up to the end of its first `max_tokens` tokens. Special tokens do not count."""
        ...
