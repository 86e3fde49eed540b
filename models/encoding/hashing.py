"""`HashingEncoder`: an encoder without weights, for tests."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from penchant.models.encoding.encoder import DEFAULT_MAX_TOKENS, Encoding, Pooling


class HashingEncoder:
    """An encoder without weights, by signed feature hashing of words (Weinberger et al. 2009). Only for tests.

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
        """Embed texts. Cost: linear in the number of words."""
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
