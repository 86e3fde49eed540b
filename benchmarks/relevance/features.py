"""The encoder that a bundle names, and feature vectors in a cache on disk."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.bundle import Bundle
from penchant.models.encoding.encoder import Encoder
from penchant.models.encoding.extract import extract_text_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.loading import load_encoder
from penchant.models.files import open_atomically

Vectors = dict[tuple[str, str], NDArray[np.float16]]

_BATCH: Final = 256


def load_extractor(bundle: Bundle) -> FeatureExtractor:
    """Load the extractor that a bundle was fitted with.

    Raises:
        ValueError: If the encoder on this machine is another one.
    """
    card = bundle.manifest.encoder
    extractor = FeatureExtractor(
        load_encoder(
            card.name,
            pooling="last" if card.pooling == "last" else "mean",
            max_tokens=card.max_tokens,
            joint=card.joint,
            max_windows=card.max_windows,
        ),
        reads_prompts=bool(card.match),
    )
    if extractor.identity != card.features:
        raise ValueError(
            f"bundle {bundle.manifest.name} was fitted on features {card.features}, "
            f"the encoder {card.name} gives {extractor.identity}"
        )
    return extractor


def load_vectors(items: Sequence[tuple[str, str]], extractor: FeatureExtractor, cache: Path) -> Vectors:
    """Return the feature vector of each (prompt, text). They are computed once and stored.

    Args:
        items: Distinct (prompt, text) pairs.
        extractor: Extractor of the features.
        cache: Folder of stored vectors.
    """
    name = f"features-{extractor.identity}-{_digest(part for item in items for part in item)}"
    rows = _stored(cache, name, lambda: np.stack(list(extract_text_features(items, extractor).values())))
    return dict(zip(items, rows, strict=True))


def load_embeddings(texts: Sequence[str], encoder: Encoder, cache: Path) -> dict[str, NDArray[np.float32]]:
    """Return the embedding `[dim]` of each text, read on its own. They are computed once and stored.

    Args:
        texts: Distinct texts.
        encoder: Encoder of the texts.
        cache: Folder of stored embeddings.
    """

    def encode() -> NDArray[np.float32]:
        parts = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        return np.concatenate([encoder.encode(part).embeddings for part in parts])

    rows = _stored(cache, f"embeddings-{encoder.identity}-{_digest(texts)}", encode)
    return dict(zip(texts, rows, strict=True))


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _stored(cache: Path, name: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    path = cache / "relevance" / f"{name}.npy"
    if path.exists():
        stored: NDArray[Any] = np.load(path)
        return stored
    print(f"computing {name}", flush=True)
    rows = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        np.save(file, rows)
    return rows
