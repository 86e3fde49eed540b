"""From text to feature vector: the embedding followed by the attributes, in float16, and then the match with a prompt.

`extract` is `read` followed by `encode`; the two steps can run in different threads. The prompt is a text of its own:
its features are extracted, cached and stored like those of any other text, and `add_match` compares the two.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, ATTRIBUTE_VERSION, compute_attribute_matrix
from penchant.models.encoding.encoder import Encoder, Encoding
from penchant.models.encoding.match import MATCH_NAMES, MATCH_VERSION, RELEVANCE, compute_match

if TYPE_CHECKING:  # tokenizers are needed for transformers only
    from penchant.models.encoding.tokens import Tokens

KEY_BYTES: Final = 16
_FLOAT16: Final = np.dtype("<f2")
_SUFFIX: Final = struct.Struct("<IB")
CHARS_PER_TOKEN: Final = 4
"""Characters in an English token, for encoders that cannot count the tokens of a text before they encode it."""


@dataclass(frozen=True)
class Features:
    """Feature vectors of n texts, before standardisation.

    Attributes:
        vectors: The embedding followed by the attributes, `[n, dim]` float16. The same rounded vectors are cached,
            stored with the log, learned from and ranked from, so that all of them agree exactly.
        tokens: Number of tokens that the encoder read, in all windows and after truncation, `[n]`.
        truncated: Whether the encoder read only the beginning of the text, `[n]`.
        windows: Embeddings of each text's windows: n arrays `[w, encoder.dim]` float16. Those of a text of one window
            equal the first `encoder.dim` numbers of its vector.
    """

    vectors: NDArray[np.float16]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    windows: tuple[NDArray[np.float16], ...]

    @classmethod
    def join(cls, parts: "Sequence[Features]") -> "Features":
        """Concatenate the features of one or several calls."""
        return cls(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.truncated for part in parts]),
            tuple(windows for part in parts for windows in part.windows),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of a checkpoint, by name."""
        counts = np.array([len(windows) for windows in self.windows], np.int64)
        return {
            "vectors": self.vectors,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "windows": np.concatenate(self.windows),
            "counts": counts,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Features":
        """Return the features that `to_arrays` wrote."""
        split = np.split(arrays["windows"], np.cumsum(arrays["counts"])[:-1])
        return cls(arrays["vectors"], arrays["tokens"], arrays["truncated"], tuple(split))


def join_vectors(
    vectors: NDArray[np.float16], match: NDArray[np.float16], prompts: NDArray[np.float16] | None = None
) -> NDArray[np.float16]:
    """Return the raw vectors of n texts as a reward model reads them.

    Args:
        vectors: `[n, dim]` feature vectors of the texts alone.
        match: `[n, w]` match features of the texts with their prompts. `w` is 0 for a model that does not read prompts.
        prompts: `[n, E]` embeddings of the prompts, NaN for a blank one. None for a model that does not read them.
    """
    parts = [vectors, match] if prompts is None else [vectors, match, prompts]
    return np.concatenate(parts, axis=1) if match.shape[1] else vectors


def get_embedding(vector: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return the embedding within a feature vector, `[1, encoder.dim]`, as a view: the only window of a short text."""
    return vector[None, : len(vector) - len(ATTRIBUTE_NAMES)]


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """The features of one text.

    Attributes:
        vector: Feature vector, `[dim]`.
        tokens: Number of tokens that the encoder read.
        truncated: Whether the encoder read only the beginning of the text.
        several: Embeddings of the windows of a text of several windows, `[w, encoder.dim]`. None for any other text.
    """

    vector: NDArray[np.float16]
    tokens: int
    truncated: bool
    several: NDArray[np.float16] | None = None

    @property
    def windows(self) -> NDArray[np.float16]:
        """Embeddings of the text's windows, `[w, encoder.dim]`. A single window is a view of the vector."""
        return get_embedding(self.vector) if self.several is None else self.several


def blank_unknown(prompts: Sequence[str], embeddings: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return the embeddings `[n, E]` of n prompts, with NaN for a blank prompt, which is none."""
    is_blank = np.array([not prompt.strip() for prompt in prompts], np.bool_)
    return np.where(is_blank[:, None], np.float16(np.nan), embeddings)


def pack_features(vector: NDArray[np.float16], windows: NDArray[np.float16]) -> bytes:
    """Return the features of a text as bytes: the vector and, for a text of several windows, the windows.

    The numbers are float16, little-endian. The windows are followed by `dim` and their number in 5 bytes, so that the
    length is odd if there are windows.

    Args:
        vector: Feature vector, `[dim]`.
        windows: Embeddings of the text's windows, `[w, encoder.dim]`. A single window is part of the vector and is not
            stored again.
    """
    content = vector.astype(_FLOAT16, copy=False).tobytes()
    if len(windows) == 1:
        return content
    return content + windows.astype(_FLOAT16, copy=False).tobytes() + _SUFFIX.pack(len(vector), len(windows))


def unpack_features(content: bytes) -> tuple[NDArray[np.float16], NDArray[np.float16] | None]:
    """Return vector `[dim]` and windows as `pack_features` packed them. Windows are None for a text of one window."""
    if len(content) % _FLOAT16.itemsize == 0:
        return np.frombuffer(content, _FLOAT16), None
    dim, n_windows = _SUFFIX.unpack(content[-_SUFFIX.size :])
    numbers = np.frombuffer(content, _FLOAT16, (len(content) - _SUFFIX.size) // _FLOAT16.itemsize)
    return numbers[:dim], numbers[dim:].reshape(n_windows, -1)


def read_vector_bytes(content: bytes) -> bytes:
    """Return the bytes of the vector that `pack_features` packed, without the windows."""
    if len(content) % _FLOAT16.itemsize == 0:
        return content
    dim, _ = _SUFFIX.unpack_from(content, len(content) - _SUFFIX.size)
    return content[: dim * _FLOAT16.itemsize]


def pack_match(match: NDArray[np.float16]) -> bytes:
    """Pack the match features `[w]` of a text into bytes."""
    return match.astype(_FLOAT16, copy=False).tobytes()


def unpack_match(content: bytes) -> NDArray[np.float16]:
    """Return match features as `pack_match` packed them."""
    return np.frombuffer(content, _FLOAT16)


@runtime_checkable
class TwoStepEncoder(Protocol):
    """An encoder with two separate steps, so that one thread can tokenize while another encodes."""

    def tokenize(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> "Tokens":
        """Return the tokens of texts. `prompts`, one for each text, are given in joint mode only."""
        ...

    def encode_tokens(self, tokens: "Tokens") -> Encoding:
        """Return the embeddings of tokenized texts."""
        ...


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text with its attributes and tokens, ready to be encoded.

    Attributes:
        text: The text.
        prompt: Its prompt, which only a joint encoder uses.
        attributes: Attributes of the text, `[n_attributes]`.
        tokens: Tokens of the text. None if the encoder takes texts.
        size: Number of tokens that the encoder will read, estimated if `tokens` is None.
    """

    text: str
    prompt: str
    attributes: NDArray[np.float32]
    tokens: "Tokens | None"
    size: int


class FeatureExtractor:
    """An extractor of features, and of the content keys of features, with one encoder.

    Args:
        encoder: Text encoder.
        reads_prompts: Whether to compare a text with its prompt. A joint encoder reads both in one sequence instead.
        reads_prompt_embedding: Whether vectors also hold the embedding of the prompt, for a model with a gate. It has no
            effect if prompts are not read.

    Attributes:
        encoder: Text encoder.
        reads_prompts: Whether `add_match` adds match features.
        dim: Width of a text's feature vector: `encoder.dim` plus the number of attributes.
        prompt_dim: Width of the prompt's embedding at the end of a vector; 0 if vectors do not hold it.
        width: Width of a vector with its match features and the prompt's embedding; `dim` without them.
        max_tokens: Largest number of tokens that the encoder reads of a text, in all windows.
        identity: Hash of everything that determines the vectors. Features of different identities must never be mixed.
        window_identity: Identity of the features by the same encoder when it reads a single window of each text. A text
            that fits one window has the same vector under both.
    """

    def __init__(
        self, encoder: Encoder, *, reads_prompts: bool = True, reads_prompt_embedding: bool = False
    ) -> None:
        self.encoder = encoder
        self.reads_prompts = reads_prompts and not encoder.joint
        self.dim = encoder.dim + len(ATTRIBUTE_NAMES)
        self.prompt_dim = encoder.dim if self.reads_prompts and reads_prompt_embedding else 0
        self.width = self.dim + (len(MATCH_NAMES) if self.reads_prompts else 0) + self.prompt_dim
        self.max_tokens = encoder.max_tokens * encoder.max_windows
        self.identity = _hash_identity(encoder.identity)
        self.window_identity = _hash_identity(encoder.window_identity)
        self._salt = bytes.fromhex(self.identity)

    def key(self, text: str, prompt: str = "") -> bytes:
        """Return the content key of the features of a text, 16 bytes. The prompt matters to a joint encoder only."""
        digest = hashlib.blake2b(digest_size=KEY_BYTES, key=self._salt)
        if self.encoder.joint:
            prompt_bytes = prompt.encode("utf-8", "surrogatepass")
            digest.update(len(prompt_bytes).to_bytes(8, "big") + prompt_bytes)
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def extract(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Features:
        """Return the features of texts. `prompts`, one for each text, are used by a joint encoder and ignored otherwise.

        Cost: one encoder pass, and about 0.6 ms per KB of text for the attributes.
        """
        return self.encode(self.read(texts, prompts))

    def read(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> list[ReadText]:
        """Compute tokens and attributes of texts: the first step of `extract`. Safe while another thread encodes."""
        attributes = compute_attribute_matrix(texts)
        used_prompts = prompts if prompts is not None else [""] * len(texts)
        if not isinstance(self.encoder, TwoStepEncoder):
            sizes = [self.estimate(text) for text in texts]
            rows = zip(texts, used_prompts, attributes, sizes, strict=True)
            return [ReadText(text, prompt, row, None, size) for text, prompt, row, size in rows]
        tokens = self.encoder.tokenize(texts, prompts if self.encoder.joint else None).split()
        together = zip(texts, used_prompts, attributes, tokens, strict=True)
        return [ReadText(text, prompt, row, own, len(own.ids)) for text, prompt, row, own in together]

    def encode(self, texts: Sequence[ReadText]) -> Features:
        """Compute the features of texts from one or several calls of `read`: the second step of `extract`."""
        attributes = np.array([text.attributes for text in texts], np.float32)
        encoding = self._encode_texts(texts)
        vectors = np.concatenate(
            [encoding.embeddings, attributes.reshape(len(texts), len(ATTRIBUTE_NAMES))], axis=1
        )
        rounded = vectors.astype(np.float16)
        windows = encoding.windows.astype(np.float16)
        ends = np.cumsum(encoding.counts)
        split = tuple(windows[end - n : end] for end, n in zip(ends, encoding.counts, strict=True))
        return Features(rounded, encoding.tokens, encoding.truncated, split)

    @property
    def match_version(self) -> str:
        """Version of the match features; empty if the extractor does not read prompts."""
        return MATCH_VERSION if self.reads_prompts else ""

    def add_match(
        self,
        vectors: NDArray[np.float16],
        prompts: Sequence[str],
        texts: Sequence[str],
        prompt_vectors: NDArray[np.float16],
        windows: Sequence[NDArray[np.float16]],
    ) -> NDArray[np.float16]:
        """Return the vectors `[n, width]` of n texts, each with its match to its prompt appended.

        With a `prompt_dim`, the embedding of the prompt follows.

        Args:
            vectors: `[n, dim]` feature vectors of the texts.
            prompts: n prompts. An empty one has no match information: its features and its embedding are NaN.
            texts: n texts.
            prompt_vectors: `[n, dim]` feature vectors of the prompts.
            windows: Embeddings of each text's windows, as in `Features`.

        Cost: that of `compute_match`. No encoder pass.
        """
        match = self.compute_match(prompts, texts, prompt_vectors, windows)
        return join_vectors(vectors, match, self.get_prompt_embeddings(prompts, prompt_vectors))

    def get_prompt_embeddings(
        self, prompts: Sequence[str], prompt_vectors: NDArray[np.float16]
    ) -> NDArray[np.float16]:
        """Return the embeddings `[n, prompt_dim]` of prompts with feature vectors `[n, dim]`, NaN for a blank prompt."""
        if not self.prompt_dim:
            return np.zeros((len(prompts), 0), np.float16)
        return blank_unknown(prompts, prompt_vectors[:, : self.prompt_dim])

    def compute_match(
        self,
        prompts: Sequence[str],
        texts: Sequence[str],
        prompt_vectors: NDArray[np.float16],
        windows: Sequence[NDArray[np.float16]],
        *,
        relevance: NDArray[np.float16] | None = None,
    ) -> NDArray[np.float16]:
        """Return the match features of n texts with their prompts; see `add_match`.

        Args:
            prompts: n prompts.
            texts: n texts.
            prompt_vectors: `[n, dim]` feature vectors of the prompts.
            windows: Embeddings of each text's windows.
            relevance: `[n]` scores of the texts by a cross-encoder, NaN for a blank prompt. None without one.
        """
        if not self.reads_prompts:
            return np.zeros((len(texts), 0), np.float16)
        match = compute_match(prompts, texts, prompt_vectors[:, : self.encoder.dim], windows)
        if relevance is not None:
            match[:, RELEVANCE] = relevance
        return match

    def estimate(self, text: str) -> int:
        """Estimate how many tokens of a text the encoder will read."""
        return min(self.max_tokens, 1 + len(text) // CHARS_PER_TOKEN)

    def _encode_texts(self, texts: Sequence[ReadText]) -> Encoding:
        tokens = [text.tokens for text in texts if text.tokens is not None]
        if tokens and isinstance(self.encoder, TwoStepEncoder):
            return self.encoder.encode_tokens(type(tokens[0]).join(tokens))
        prompts = [text.prompt for text in texts] if self.encoder.joint else None
        return self.encoder.encode([text.text for text in texts], prompts)


def _hash_identity(encoder: str) -> str:
    content = "\x1f".join((encoder, ATTRIBUTE_VERSION, *ATTRIBUTE_NAMES))
    return hashlib.blake2b(content.encode(), digest_size=KEY_BYTES).hexdigest()
