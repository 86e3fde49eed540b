"""The contestants of the encoder benchmark: the anchor, and the backends tried on a processor or a device."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from transformers import AutoModel, PreTrainedConfig

from penchant.models.encoding import pretrained
from penchant.models.encoding.backends.base import PROBES, Probes, embed, find_fault
from penchant.models.encoding.backends.request import BackendRequest, Candidate
from penchant.models.encoding.backends.torch import TorchBackend
from penchant.models.encoding.encoder import DEFAULT_MAX_TOKENS, BackendName, EncoderError, Precision
from penchant.models.encoding.features import TwoStepEncoder
from penchant.models.encoding.loading import load_encoder
from penchant.models.encoding.model_files import find_model_files
from penchant.models.encoding.tokens import TextTokenizer, Tokens
from penchant.models.encoding.transformer import TransformerEncoder

ANCHOR: Final = "torch eager float32, padded to batch"
_KINDS: Final[tuple[tuple[BackendName, Precision], ...]] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
_PROBE_TOKENS: Final = 128


class Anchor:
    """transformers' model, called directly.

    Args:
        threads: Number of threads that share a batch on a processor. It has no effect on a device.
        device: `cpu` or `cuda`.
    """

    def __init__(self, threads: int, device: str = "cpu") -> None:
        model = AutoModel.from_pretrained(find_model_files("embedded").folder, dtype=torch.float32)
        self._model = model.eval().to(device)
        self._device = torch.device(device)
        self._threads = threads

    @torch.inference_mode()
    def __call__(self, tokens: Tokens, batch: int) -> None:
        """Compute mean-pooled unit vectors of all texts, in batches in the given order, and copy them to the host."""
        if self._device.type == "cpu":
            torch.set_num_threads(self._threads)
        ends = np.cumsum(tokens.lengths)
        texts = [torch.from_numpy(tokens.ids[e - n : e]) for e, n in zip(ends, tokens.lengths, strict=True)]
        for first in range(0, len(texts), batch):
            ids = torch.nn.utils.rnn.pad_sequence(texts[first : first + batch], batch_first=True)
            ids = ids.to(self._device)
            mask = (ids != 0).long()
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()


def on_processor(threads: int) -> tuple[dict[str, TwoStepEncoder], dict[str, str]]:
    """Return every backend that serves on this processor by name, and the reasons why the others do not."""
    serving: dict[str, TwoStepEncoder] = {}
    absent: dict[str, str] = {}
    for backend, precision in _KINDS:
        if precision == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():
            absent[f"{backend} {precision}"] = "the processor does not multiply bfloat16"
            continue
        try:
            encoder = load_encoder(backend=backend, precision=precision, device="cpu", threads=threads)
        except EncoderError as error:
            absent[f"{backend} {precision}"] = str(error)
            continue
        if not isinstance(encoder, TwoStepEncoder):  # every transformer is one
            raise TypeError(f"{encoder.name} does not tokenize apart from encoding")
        serving[f"{backend} {precision}"] = encoder
    return serving, absent


@dataclass(frozen=True)
class OnTorch:
    """The embedded encoder on torch, and its parts.

    Attributes:
        encoder: Encoder as it serves.
        backend: Its forward pass.
        config: Configuration of the model, from transformers.
    """

    encoder: TransformerEncoder
    backend: TorchBackend
    config: PreTrainedConfig


def on_torch(device: str, threads: int = 1) -> tuple[dict[str, OnTorch], dict[str, str]]:
    """Return every torch variant that the service would try on a device, and why the failing ones do not serve.

    The service takes one of them, by its own measurement. Here each is built separately and must pass the same test.
    """
    request = BackendRequest(
        name="embedded",
        pooling="mean",
        backend="torch",
        precision="auto",
        device=device,
        threads=threads,
        root="",
    )
    card, model = pretrained.load_pretrained(request.files, request.pooling)
    tokens = TextTokenizer(card.tokenizer, max_tokens=_PROBE_TOKENS, joint=False, pad=card.pad)(PROBES)

    def built(candidate: Candidate) -> TorchBackend:
        return TorchBackend(
            model,
            device=device,
            precision=candidate.precision,
            workers=threads,
            compiled=candidate.compiled,
        )

    exact = Candidate("torch", "float32")
    backends, absent = {exact: built(exact)}, {}
    probes = Probes(tokens, embed(backends[exact], tokens, card.pad))
    for candidate in request.list_candidates():
        if candidate == exact:
            continue
        try:
            backend = built(candidate)
            wrong = find_fault(backend, probes, card.pad)
        except Exception as error:  # as the service does: a compiler may be missing, or fail in its own way
            wrong = f"{type(error).__name__}: {error}".partition("\n")[0]
        if wrong is None:
            backends[candidate] = backend
        else:
            absent[str(candidate)] = wrong
    serving = {
        str(candidate): OnTorch(
            TransformerEncoder(
                "embedded", card, backend, pooling="mean", max_tokens=DEFAULT_MAX_TOKENS, joint=False
            ),
            backend,
            model.model.config,
        )
        for candidate, backend in backends.items()
    }
    return serving, absent
