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


class EncoderError(ModelError, RuntimeError):
    """An encoder cannot be loaded, its weights have the wrong hash, or it fails."""


@dataclass(frozen=True)
class Encoding:
    """Embeddings of n texts.

    Attributes:
        embeddings: Vectors of unit length, `[n, dim]` float32.
        tokens: Number of tokens read, `[n]`, including special tokens and, in joint mode, the prompt.
        truncated: Whether some of the *text* was cut off, `[n]`. A cut prompt does not count.
    """

    embeddings: NDArray[np.float32]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class Encoder(Protocol):
    """A text encoder.

    Attributes:
        name: Name of the model, as in `load_encoder`.
        pooling: Pooling of token states to one vector.
        identity: Hash of the weights and of every setting that changes the embeddings.
        backend: Readable description of the backend. It is not part of the identity, because backends agree.
        dim: Width of an embedding.
        max_tokens: Longest sequence, in tokens. Longer texts are cut and reported as truncated.
        joint: Whether prompt and text are read in one sequence; otherwise only the text is read.
    """

    name: str
    pooling: Pooling
    identity: str
    backend: str
    dim: int
    max_tokens: int
    joint: bool

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        """Embed texts. `prompts`, one for each text, are given in joint mode only."""
        ...
