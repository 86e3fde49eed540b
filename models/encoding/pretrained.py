"""The weights of a transformer on torch, loaded through transformers, with pooling to unit vectors."""

import hashlib
import struct
from typing import Final

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as hf_logging

from penchant.models.encoding.encoder import EncoderError, Pooling
from penchant.models.encoding.model_files import EMBEDDED_SHA256, ModelCard, ModelFiles

_NO_LIMIT: Final = 1 << 20


class PooledModel(torch.nn.Module):
    """A transformer with its final hidden states pooled to unit vectors. All backends take the pooling from here."""

    def __init__(self, model: torch.nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return vectors `[b, dim]` float32 for token numbers and mask `[b, length]`, with padding on the right."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if self.pooling == "mean":
            weight = mask.to(hidden.dtype)
            pooled = (hidden * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True)
        else:
            last = (mask.sum(1) - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
            pooled = hidden.gather(1, last).squeeze(1)
        return torch.nn.functional.normalize(pooled, dim=1)


def load_pretrained(files: ModelFiles, pooling: Pooling) -> tuple[ModelCard, PooledModel]:
    """Load the card and the float32 weights of a model. Cost: seconds, mostly for importing transformers.

    Raises:
        EncoderError: If the files are damaged, pickled or incomplete, or if they lack a fast tokenizer.
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
    # A missing pooler is initialised at random, but it is not used.
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderError(f"encoder {name!r} lacks these weights: {', '.join(missing)}")
    model = model.eval().requires_grad_(requires_grad=False)
    model.config.use_cache = False  # a decoder would keep keys and values for a next token
    card = ModelCard(
        weights=EMBEDDED_SHA256 if name == "embedded" else _hash_weights(model),
        dim=int(model.config.hidden_size),
        positions=_count_positions(model),
        pad=int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0),
        tokenizer=tokenizer.backend_tokenizer.to_str(),
    )
    return card, PooledModel(model, pooling)


def _count_positions(model: torch.nn.Module) -> int:
    """Return the number of positions of a model. RoBERTa and similar models start behind the index of the padding."""
    positions = int(getattr(model.config, "max_position_embeddings", _NO_LIMIT))
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
