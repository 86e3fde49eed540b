"""`HashingEncoder`: an encoder without weights, for tests."""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from penchant.models.encoding.encoder import DEFAULT_MAX_TOKENS, Encoding, Pooling

_WORD: Final = re.compile(r"\w+")


class HashingEncoder:
    """An encoder without weights, by signed feature hashing of words (Weinberger et al. 2009). Only for tests.

    Texts that share words get similar vectors, so that tests of ranking and learning run in milliseconds.
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        max_windows: int = 1,
        joint: bool = False,
    ) -> None:
        self.name = "hashing"
        self.pooling: Pooling = "mean"
        self.backend = "none"
        self.dim = dim
        self.max_tokens = max_tokens
        self.max_windows = max_windows
        self.joint = joint
        self.window_identity = f"hashing-{dim}-{max_tokens}-{'joint' if joint else 'text'}"
        self.identity = self.window_identity + (f"-{max_windows}" if max_windows > 1 else "")

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        """Embed texts. Cost: linear in the number of words."""
        n = len(texts)
        truncated = np.zeros(n, np.bool_)
        counts = np.ones(n, np.int64)
        windows: list[list[str]] = []
        added: list[list[str]] = []
        for i, text in enumerate(texts):
            words = _WORD.findall(text.lower())
            truncated[i] = len(words) > self.max_tokens * self.max_windows
            words = words[: self.max_tokens * self.max_windows]
            counts[i] = max(1, -(-len(words) // self.max_tokens))
            size = max(1, -(-len(words) // int(counts[i])))
            windows += [words[start : start + size] for start in range(0, max(1, len(words)), size)]
            prompt = [] if prompts is None else _WORD.findall(prompts[i].lower())[: self.max_tokens]
            added += [prompt] * int(counts[i])
        embeddings = np.zeros((len(windows), self.dim), np.float32)
        for row, (words, prompt) in enumerate(zip(windows, added, strict=True)):
            for word in words + prompt:
                digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                number = int.from_bytes(digest, "big")
                embeddings[row, (number >> 1) % self.dim] += 1.0 if number & 1 else -1.0
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        lengths = np.fromiter(map(len, windows), np.int64, len(windows))
        return Encoding.from_windows(embeddings / np.maximum(norms, 1.0), lengths, counts, truncated)

    def cut(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Return each text up to the end of its first `max_tokens` words."""
        ends = [[word.end() for word in _WORD.finditer(text)] for text in texts]
        return [
            text if len(own) <= max_tokens else text[: own[max_tokens - 1]]
            for text, own in zip(texts, ends, strict=True)
        ]
