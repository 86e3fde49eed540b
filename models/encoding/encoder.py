"""Text encoders: the protocol `Encoder`, and what an encoder returns.

An encoder maps texts to unit vectors `[n, dim]` float32. What it computes for a text does not depend on the other texts
of the call: batches are only a matter of speed.
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
    """An encoder cannot be loaded, or its weights are not what was promised."""


@dataclass(frozen=True)
class Encoding:
    """What an encoder says about n texts.

    Attributes:
        embeddings: `[n, dim]` float32, unit length.
        tokens: `[n]` tokens read (special tokens and, in joint mode, the prompt included).
        truncated: `[n]` whether some of the *text* was cut off (a cut prompt does not count).
    """

    embeddings: NDArray[np.float32]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class Encoder(Protocol):
    """A text encoder.

    Attributes:
        name: As `load_encoder` takes it.
        pooling: How token states become one vector.
        identity: Hash of the weights and of every setting that changes what an embedding means.
        backend: What computes it, for people to read; not part of the identity, for backends agree.
        dim: Width of an embedding.
        max_tokens: Longest sequence it reads; what is longer is cut and reported.
        joint: Whether prompt and text are read in one sequence (else the text alone).
    """

    name: str
    pooling: Pooling
    identity: str
    backend: str
    dim: int
    max_tokens: int
    joint: bool

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        """Embeds texts; `prompts`, one a text, only in joint mode."""
        ...
