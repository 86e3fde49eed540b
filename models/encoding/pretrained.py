"""A transformer's weights on torch: loaded through transformers, hashed, and pooled to unit vectors."""

import hashlib
import struct
from typing import Final

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as hf_logging

from penchant.models.encoding.encoder import EncoderError, Pooling
from penchant.models.encoding.model_files import EMBEDDED_SHA256, ModelCard, ModelFiles

_MANY: Final = 1 << 20


class PooledModel(torch.nn.Module):
    """Token numbers to pooled, unit-length final hidden states. The one definition of pooling, for every backend."""

    def __init__(self, model: torch.nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`[b, length]` numbers and mask (1 for a token, padding on the right) → `[b, dim]` float32."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if self.pooling == "mean":
            weight = mask.to(hidden.dtype)
            pooled = (hidden * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True)
        else:
            last = (mask.sum(1) - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
            pooled = hidden.gather(1, last).squeeze(1)
        return torch.nn.functional.normalize(pooled, dim=1)


def load(files: ModelFiles, pooling: Pooling) -> tuple[ModelCard, PooledModel]:
    """A model's card and its weights in float32. Cost: seconds, most of them transformers' imports.

    Raises:
        EncoderError: The files are damaged, pickled, incomplete or without a fast tokenizer.
    """
    hf_logging.disable_progress_bar()
    name, options = files.name, {} if files.gguf is None else {"gguf_file": files.gguf}
    weights = {"use_safetensors": True} if files.gguf is None else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, **options)
        model, found = AutoModel.from_pretrained(
            files.folder, dtype=torch.float32, output_loading_info=True, **weights, **options
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, struct.error) as error:
        raise EncoderError(f"cannot load encoder {name!r}: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(f"encoder {name!r} has no fast tokenizer")
    # A pooler that is not there is random, and not used.
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderError(f"encoder {name!r} lacks weights: {', '.join(missing)}")
    model = model.eval().requires_grad_(requires_grad=False)
    model.config.use_cache = False  # a decoder would keep keys and values for a next token that never comes
    card = ModelCard(
        weights=EMBEDDED_SHA256 if name == "embedded" else _hash_weights(model),
        dim=int(model.config.hidden_size),
        positions=_positions(model),
        pad=int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0),
        tokenizer=tokenizer.backend_tokenizer.to_str(),
    )
    return card, PooledModel(model, pooling)


def _positions(model: torch.nn.Module) -> int:
    """Tokens that a model has positions for; RoBERTa and its kind begin to count behind the padding's index."""
    positions = int(getattr(model.config, "max_position_embeddings", _MANY))
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions if padding is None else positions - padding - 1


def _hash_weights(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("pooler.")}
    for key, tensor in sorted(state.items()):
        digest.update(key.encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
    return digest.hexdigest()
