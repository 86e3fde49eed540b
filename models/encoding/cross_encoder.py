"""`CrossEncoder`: how well a text answers a prompt, by a sequence classifier that reads both in one sequence."""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.backends.base import Backend, embed
from penchant.models.encoding.backends.request import BackendRequest
from penchant.models.encoding.encoder import EncoderError
from penchant.models.encoding.model_files import ModelCard, ModelFiles, find_model_files
from penchant.models.encoding.tokens import TextTokenizer, Tokens

MAX_PAIR_TOKENS: Final = 512
"""Longest sequence of a prompt and a window of a text, in tokens. A model with fewer positions reads shorter ones."""

MAX_PAIR_WINDOWS: Final = 4
"""Largest number of windows in which a long text is read. The rest is cut off."""

_VERSION: Final = "1"  # of how pairs are read and scored


class CrossEncoder:
    """A sequence classifier as a source of scores.

    The score of a pair is the classifier's only logit, or the second minus the first. The score of a text of several
    windows is that of its best window. It does not depend on the other pairs of a call, except for rounding in float32.
    Safe to use from several threads: one may tokenize while another scores.

    Args:
        name: Name of the model, as in `load_cross_encoder`.
        identity: Identity from `identify_cross_encoder`.
        card: Card of the model.
        backend: Backend that computes the forward pass.

    Attributes:
        name: Name of the model, as in `load_cross_encoder`.
        identity: Hash of everything that determines the scores. Scores of different identities must never be mixed.
        backend: Readable description of the backend.
        joint: Always true: prompt and text are read in one sequence.
        max_tokens: Largest number of tokens that are read of a pair, in all windows.
    """

    joint = True

    def __init__(self, name: str, identity: str, card: ModelCard, backend: Backend) -> None:
        self.name = name
        self.identity = identity
        self.backend = f"{backend.name} {backend.precision}, {backend.place}"
        length = min(MAX_PAIR_TOKENS, card.positions)
        self.max_tokens = length * MAX_PAIR_WINDOWS
        self._backend = backend
        self._pad = card.pad
        self._tokenizer = TextTokenizer(
            card.tokenizer,
            max_tokens=length,
            max_windows=MAX_PAIR_WINDOWS,
            joint=True,
            segmented=True,
            pad=card.pad,
        )

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the scores `[n]` of n texts as answers to n prompts. Cost: one forward pass over all pairs.

        Raises:
            EncoderError: If a score is not finite.
        """
        return self.score_tokens(self.tokenize(prompts, texts))

    def tokenize(self, prompts: Sequence[str], texts: Sequence[str]) -> Tokens:
        """Tokenize n pairs: the first step of `score`. Results of several calls can be joined and scored together."""
        return self._tokenizer(texts, prompts)

    def score_tokens(self, tokens: Tokens) -> NDArray[np.float32]:
        """Return the scores `[n]` of tokenized pairs: the second step of `score`.

        Raises:
            EncoderError: If a score is not finite.
        """
        if len(tokens) == 0:
            return np.zeros(0, np.float32)
        windows = embed(self._backend, tokens, self._pad)[:, 0]
        if not np.isfinite(windows).all():
            raise EncoderError(f"cross-encoder {self.name!r} produced a score that is not finite")
        scores: NDArray[np.float32] = np.maximum.reduceat(windows, np.cumsum(tokens.counts) - tokens.counts)
        return scores


def load_cross_encoder(name: str, *, device: str = "auto", threads: int | None = None) -> CrossEncoder:
    """Load a sequence classifier as a cross-encoder, on torch in float32.

    Args:
        name: A folder, or the name of a model on the Hugging Face hub. Its weights must be safetensors.
        device: Device to compute on. `auto` takes CUDA if it is available.
        threads: Number of cores to use. None uses all cores that this process may use.

    Raises:
        EncoderError: If the model does not exist, cannot be read, has no trained head with one or two labels, or gives a
            score that is not finite, or if the device cannot be used.

    Cost: seconds, mostly for importing transformers.
    """
    # A server without a cross-encoder may never need torch.
    from penchant.models.encoding import pretrained  # noqa: PLC0415
    from penchant.models.encoding.backends.torch import TorchBackend  # noqa: PLC0415

    request = BackendRequest(
        name=name,
        pooling="mean",
        backend="torch",
        precision="float32",
        device=device,
        threads=threads,
        root="",
    )
    card, model = pretrained.load_classifier(request.files)
    backend = TorchBackend(model, device=request.actual_device, precision="float32", workers=request.workers)
    encoder = CrossEncoder(name, _compute_identity(request.files), card, backend)
    encoder.score(["Which city is the capital of France?"], ["Paris is the capital of France."])
    return encoder


def identify_cross_encoder(name: str) -> str:
    """Return the identity of a cross-encoder without loading it. Cost: its files are read once.

    Args:
        name: Name of the model, as in `load_cross_encoder`.

    Raises:
        EncoderError: If the model does not exist.
    """
    return _compute_identity(find_model_files(name))


def _compute_identity(files: ModelFiles) -> str:
    content = "\x1f".join((_VERSION, files.fingerprint, str(MAX_PAIR_TOKENS), str(MAX_PAIR_WINDOWS)))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
