"""Features on disk. Every set is encoded once."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.code import code_hash
from benchmarks.personalization.data import Source
from penchant.models.encoding.extract import extract_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.files import open_atomically


def encode(source: Source, extractor: Callable[[], FeatureExtractor]) -> None:
    """Encode the texts that are not in the cache. The extractor is only loaded if there are any."""
    if source.features.exists():
        return
    print(f"{source.name}: encoding", flush=True)
    vectors = extract_features(source.judgements(), extractor())
    source.features.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(source.features) as file:
        np.savez(file, **vectors.to_arrays())


def extractor_identity(encoder: str, extractor: Callable[[], FeatureExtractor], cache_folder: Path) -> str:
    """Return the extractor's identity. That of the embedded encoder is cached, so a resumed run loads no weights."""
    if encoder != "embedded":
        return extractor().identity
    index = cache_folder / "embedded.json"
    known: dict[str, str] = json.loads(index.read_text("utf-8")) if index.exists() else {}
    key = code_hash("penchant.models.encoding.features", "penchant.models.encoding.transformer")
    if key not in known:
        known[key] = extractor().identity
        cache_folder.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps(known, indent=2) + "\n", "utf-8")
    return known[key]
