"""The sets of a folder: judgements, hashes, and where their features are."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.judgements.files import read, with_scales
from penchant.models.judgements.judgement import Judgement

Vectors = Mapping[tuple[str, str], NDArray[np.float16]]
"""Feature vector `[dim]` of every (context, text)."""

FILE: Final = "data.jsonl.gz"


@dataclass(frozen=True)
class Source:
    """One set on disk.

    Attributes:
        name: Of its folder.
        path: The gzip JSON Lines file.
        sha256: Of that file.
        features: The NumPy file of its feature vectors, or of where they will be.
        identity: Of the extractor that they come from.
    """

    name: str
    path: Path
    sha256: str
    features: Path
    identity: str

    def judgements(self) -> list[Judgement]:
        """All of them, in file order; the last set read is kept."""
        return _judgements(self.path)

    def vectors(self) -> Vectors:
        """Feature vector of every (context, text)."""
        stored: NDArray[np.float16] = np.load(self.features)
        return dict(zip(items(self.judgements()), stored, strict=True))


def items(judgements: Sequence[Judgement]) -> list[tuple[str, str]]:
    """Every (context, text), in order of first appearance: the order of the stored features."""
    return list(dict.fromkeys((j.context, text) for j in judgements for text in j.texts))


def sources(folder: Path, names: Sequence[str] | None, identity: str, cache_folder: Path) -> list[Source]:
    """The sets of a folder: those named, or every folder that holds data.jsonl.gz.

    Raises:
        FileNotFoundError: A set that was asked for is not there, or none is.
    """
    found = sorted(path.parent.name for path in folder.glob(f"*/{FILE}"))
    wanted = found if names is None else list(names)
    if missing := sorted(set(wanted) - set(found)):
        raise FileNotFoundError(f"{folder} holds no set {', '.join(missing)}; it holds {', '.join(found)}")
    if not wanted:
        raise FileNotFoundError(f"{folder} holds no folder with {FILE}")
    result = []
    for name in wanted:
        path = folder / name / FILE
        digest = _sha256(path)
        features = cache_folder / "features" / identity / f"{name}-{digest[:16]}.npy"
        result.append(Source(name, path, digest, features, identity))
    return result


@lru_cache(maxsize=1)
def _judgements(path: Path) -> list[Judgement]:
    return with_scales(list(read(path)))


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
