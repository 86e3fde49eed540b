"""`TransformerEncoder`: a Hugging Face encoder or decoder as an `Encoder`, on any backend."""

import hashlib
from collections.abc import Sequence

import numpy as np

from penchant.models.encoding.backends.base import Backend, embed
from penchant.models.encoding.encoder import MAX_WINDOWS, EncoderError, Encoding, Pooling
from penchant.models.encoding.model_files import ModelCard
from penchant.models.encoding.tokens import TextTokenizer, Tokens


class TransformerEncoder:
    """An encoder that returns the pooled, unit-length final hidden states of a transformer.

    The vector of a text does not depend on the texts that are encoded with it: `batches` explains why, and every backend
    is tested for it before it serves. Safe to use from several threads: one may tokenize while another encodes.

    Args:
        name: Name of the model, as in `load_encoder`.
        card: Card of the model.
        backend: Backend that computes the forward pass.
        pooling: Pooling that the backend applies to token states.
        max_tokens: Longest sequence, in tokens.
        max_windows: Largest number of sequences in which a text is read, from 1 to 64.
        joint: Whether prompt and text are read in one sequence. Each window of a text then has the prompt.

    Attributes:
        name: Name of the model, as in `load_encoder`.
        pooling: Pooling of token states to one vector.
        identity: Hash of weights, pooling, `max_tokens`, joint mode, and `max_windows` if it is more than 1. Backend and
            precision are left out, so that features remain valid after a change of machine. Two backends in float32
            agree to 1e-6, a hundredth of the rounding of float16 features. bfloat16 (cosine ≥ 0.9999) moves a vector by
            up to 0.014 of its length, fifty times that rounding. Features of both kinds may meet in one store, at the
            cost of that much noise.
        window_identity: Identity of the same encoder when it reads a single window of each text.
        backend: Readable description of the backend.
        dim: Hidden size.
        max_tokens: Longest sequence, in tokens, limited by the positions of the model.
        max_windows: Largest number of sequences in which a text is read.
        joint: Whether prompt and text are read in one sequence.
        precision: Precision of matrix products.

    Raises:
        EncoderError: If `max_windows` is out of range.
    """

    def __init__(
        self,
        name: str,
        card: ModelCard,
        backend: Backend,
        *,
        pooling: Pooling,
        max_tokens: int,
        max_windows: int = 1,
        joint: bool,
    ) -> None:
        if not 1 <= max_windows <= MAX_WINDOWS:
            raise EncoderError(f"max_windows is {max_windows}, it must be from 1 to {MAX_WINDOWS}")
        self.name = name
        self.pooling: Pooling = pooling
        self.joint = joint
        self.dim = card.dim
        self.max_tokens = min(max_tokens, card.positions)
        self.max_windows = max_windows
        self.precision = backend.precision
        self.backend = f"{backend.name} {backend.precision}, {backend.place}"
        settings = f"{card.weights}|{pooling}|{self.max_tokens}|{joint}"
        self.window_identity = _hash(settings)
        self.identity = _hash(f"{settings}|{max_windows}") if max_windows > 1 else self.window_identity
        self._backend = backend
        self._pad = card.pad
        self._tokenizer = TextTokenizer(
            card.tokenizer, max_tokens=self.max_tokens, max_windows=max_windows, joint=joint, pad=card.pad
        )

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        """Embed texts. Cost: one forward pass over all tokens, with less than 16 tokens of padding for each window.

        Raises:
            EncoderError: If a vector is not finite.
        """
        return self.encode_tokens(self.tokenize(texts, prompts))

    def tokenize(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Tokens:
        """Tokenize texts: the first step of `encode`. Results of several calls can be joined and encoded together."""
        return self._tokenizer(texts, prompts)

    def cut(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Return each text up to the end of its first `max_tokens` tokens. Cost: that of `tokenize`."""
        return self._tokenizer.cut(texts, max_tokens)

    def encode_tokens(self, tokens: Tokens) -> Encoding:
        """Embed tokenized texts: the second step of `encode`.

        Raises:
            EncoderError: If a vector is not finite.
        """
        if len(tokens) == 0:
            empty = np.zeros((0, self.dim), np.float32)
            return Encoding.from_windows(empty, tokens.lengths, tokens.counts, tokens.truncated)
        vectors = embed(self._backend, tokens, self._pad)
        if not np.isfinite(vectors).all():
            raise EncoderError(f"encoder {self.name!r} produced a non-finite embedding")
        return Encoding.from_windows(vectors, tokens.lengths, tokens.counts, tokens.truncated)


def _hash(settings: str) -> str:
    return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
