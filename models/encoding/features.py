"""From text to feature vector: encoder embedding beside named attributes, one float16 row a text.

extract = read, then encode; the two can run in different threads.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, ATTRIBUTE_VERSION, attribute_matrix
from penchant.models.encoding.encoder import Encoder, Encoding

if TYPE_CHECKING:  # whoever has no transformer needs no tokenizers
    from penchant.models.encoding.tokens import Tokens

KEY_BYTES: Final = 16
CHARS_PER_TOKEN: Final = 4
"""Of English; where an encoder cannot tell how many tokens a text has before it encodes it."""


@dataclass(frozen=True)
class Features:
    """Feature vectors of n texts, before standardisation.

    Attributes:
        vectors: `[n, dim]` float16: the embedding, then the attributes. This rounding is *the* representation: it is
            what is cached, stored with the log, learned from and ranked from, so that all of them agree exactly.
        tokens: `[n]` tokens that the encoder read, after truncation.
        truncated: `[n]` whether the encoder saw only the beginning of the text.
    """

    vectors: NDArray[np.float16]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


@runtime_checkable
class TwoStepEncoder(Protocol):
    """An encoder whose two steps can be taken apart: one thread tokenizes while another encodes."""

    def tokenize(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> "Tokens":
        """Token numbers of texts."""
        ...

    def encode_tokens(self, tokens: "Tokens") -> Encoding:
        """Embeddings of them."""
        ...


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text that was read: what is left to do is the encoder's.

    Attributes:
        text: The text.
        prompt: Its prompt, which a joint encoder alone minds.
        attributes: `[n_attributes]`.
        tokens: Its token numbers; None where the encoder takes texts.
        size: How many tokens the encoder will read; estimated where `tokens` is None.
    """

    text: str
    prompt: str
    attributes: NDArray[np.float32]
    tokens: "Tokens | None"
    size: int


class FeatureExtractor:
    """Computes features and their content keys with one encoder.

    Attributes:
        encoder: The text encoder.
        dim: Width of a feature vector, `encoder.dim` + number of attributes.
        identity: Hash of all that determines the vectors; features of different identities must never be mixed.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.dim = encoder.dim + len(ATTRIBUTE_NAMES)
        content = "\x1f".join((encoder.identity, ATTRIBUTE_VERSION, *ATTRIBUTE_NAMES))
        self.identity = hashlib.blake2b(content.encode(), digest_size=KEY_BYTES).hexdigest()
        self._salt = bytes.fromhex(self.identity)

    def key(self, text: str, prompt: str = "") -> bytes:
        """Content key of a text's features, 16 bytes; the prompt counts only where the encoder reads it."""
        digest = hashlib.blake2b(digest_size=KEY_BYTES, key=self._salt)
        if self.encoder.joint:
            prompt_bytes = prompt.encode("utf-8", "surrogatepass")
            digest.update(len(prompt_bytes).to_bytes(8, "big") + prompt_bytes)
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def extract(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Features:
        """Features of texts; `prompts` (one a text) are read by a joint encoder and ignored otherwise.

        Cost: one encoder pass; the attributes add about 0.6 ms a KB of text.
        """
        return self.encode(self.read(texts, prompts))

    def read(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> list[ReadText]:
        """The first step of `extract`: tokens and attributes. Safe beside `encode` in another thread."""
        attributes = attribute_matrix(texts)
        asked = prompts if prompts is not None else [""] * len(texts)
        if not isinstance(self.encoder, TwoStepEncoder):
            sizes = [self.estimate(text) for text in texts]
            rows = zip(texts, asked, attributes, sizes, strict=True)
            return [ReadText(text, prompt, row, None, size) for text, prompt, row, size in rows]
        tokens = _apart(self.encoder.tokenize(texts, prompts if self.encoder.joint else None))
        together = zip(texts, asked, attributes, tokens, strict=True)
        return [ReadText(text, prompt, row, own, len(own.ids)) for text, prompt, row, own in together]

    def encode(self, texts: Sequence[ReadText]) -> Features:
        """The second step of `extract`, for texts that may have been read in several calls."""
        attributes = np.array([text.attributes for text in texts], np.float32)
        encoding = self._encoding(texts)
        vectors = np.concatenate(
            [encoding.embeddings, attributes.reshape(len(texts), len(ATTRIBUTE_NAMES))], axis=1
        )
        return Features(vectors.astype(np.float16), encoding.tokens, encoding.truncated)

    def estimate(self, text: str) -> int:
        """About how many tokens the encoder will read of a text."""
        return min(self.encoder.max_tokens, 1 + len(text) // CHARS_PER_TOKEN)

    def _encoding(self, texts: Sequence[ReadText]) -> Encoding:
        tokens = [text.tokens for text in texts if text.tokens is not None]
        if tokens and isinstance(self.encoder, TwoStepEncoder):
            return self.encoder.encode_tokens(type(tokens[0]).join(tokens))
        prompts = [text.prompt for text in texts] if self.encoder.joint else None
        return self.encoder.encode([text.text for text in texts], prompts)


def _apart(tokens: "Tokens") -> "list[Tokens]":
    """Each text's own tokens."""
    ends = np.cumsum(tokens.lengths).tolist()
    starts = [0, *ends[:-1]]
    return [
        type(tokens)(tokens.ids[start:end], tokens.lengths[i : i + 1], tokens.truncated[i : i + 1])
        for i, (start, end) in enumerate(zip(starts, ends, strict=False))
    ]
