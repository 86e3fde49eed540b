"""The weights of a transformer on torch, loaded through transformers, with pooling to vectors or as a classifier."""

import hashlib
import inspect
import struct
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
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


class ScoringModel(torch.nn.Module):
    """A sequence classifier whose score is its only logit, or the second logit minus the first.

    Args:
        model: Classifier with one or two labels.
        segmented: Whether the model distinguishes the segments of a pair.
    """

    def __init__(self, model: torch.nn.Module, *, segmented: bool) -> None:
        super().__init__()
        self.model = model
        self.segmented = segmented

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return scores `[b, 1]` float32 for token numbers and mask `[b, length]`, as in `Batch`."""
        segments = {"token_type_ids": (mask == 2).long()} if self.segmented else {}
        logits: torch.Tensor = self.model(
            input_ids=ids, attention_mask=(mask > 0).long(), **segments
        ).logits.float()
        return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


def load_pretrained(files: ModelFiles, pooling: Pooling) -> tuple[ModelCard, PooledModel]:
    """Load the card and the float32 weights of a model. Cost: seconds, mostly for importing transformers.

    Raises:
        EncoderError: If the files are damaged, pickled or incomplete, or if they lack a fast tokenizer.
    """
    tokenizer, model, missing = _load(files, AutoModel, "encoder")
    # A missing pooler is initialised at random, but it is not used.
    missing = [key for key in missing if not key.startswith("pooler.")]
    if missing:
        raise EncoderError(f"encoder {files.name!r} lacks these weights: {', '.join(missing)}")
    return _make_card(files, tokenizer, model), PooledModel(model, pooling)


def load_classifier(files: ModelFiles) -> tuple[ModelCard, ScoringModel]:
    """Load the card and the float32 weights of a sequence classifier. Cost: as for `load_pretrained`.

    Raises:
        EncoderError: If the files are damaged, pickled or incomplete, if they lack a fast tokenizer, or if the model has
            no trained head with one or two labels.
    """
    if files.gguf is not None:
        raise EncoderError(f"cross-encoder {files.name!r} is a GGUF file, which has no classification head")
    tokenizer, model, missing = _load(files, AutoModelForSequenceClassification, "cross-encoder")
    if missing:
        raise EncoderError(
            f"cross-encoder {files.name!r} lacks these weights: {', '.join(missing)}; it must be a sequence classifier "
            "with a trained head"
        )
    labels = int(model.config.num_labels)
    if labels not in (1, 2):
        raise EncoderError(f"cross-encoder {files.name!r} has {labels} labels, it must have 1 or 2")
    card = _make_card(files, tokenizer, model)
    model.config.pad_token_id = card.pad  # a decoder scores the last token before the padding
    has_segments = (
        "token_type_ids" in inspect.signature(model.forward).parameters
        and int(getattr(model.config, "type_vocab_size", 0) or 0) > 1
    )
    return card, ScoringModel(model, segmented=has_segments)


def _load(files: ModelFiles, auto: Any, role: str) -> tuple[Any, Any, list[str]]:  # noqa: ANN401 - transformers
    """Return the tokenizer, the model, and the names of its weights that the files lack."""
    hf_logging.disable_progress_bar()
    name, options = files.name, {} if files.gguf is None else {"gguf_file": files.gguf}
    weights = {"use_safetensors": True} if files.gguf is None else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, **options)
        model, found = auto.from_pretrained(
            files.folder,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **weights,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, struct.error) as error:
        raise EncoderError(f"cannot load {role} {name!r}: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(f"{role} {name!r} has no fast tokenizer")
    model = model.eval().requires_grad_(requires_grad=False)
    model.config.use_cache = False  # a decoder would keep keys and values for a next token
    return tokenizer, model, sorted(found["missing_keys"])


def _make_card(files: ModelFiles, tokenizer: Any, model: Any) -> ModelCard:  # noqa: ANN401 - transformers
    return ModelCard(
        weights=EMBEDDED_SHA256 if files.name == "embedded" else _hash_weights(model),
        dim=int(model.config.hidden_size),
        positions=_count_positions(model.base_model),
        pad=int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0),
        tokenizer=tokenizer.backend_tokenizer.to_str(),
    )


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
