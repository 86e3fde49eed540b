"""The sets of a folder: judgements, hashes, and the files of their features."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.extract import FeatureTable
from penchant.models.judgements.files import read, with_scales
from penchant.models.judgements.judgement import Judgement

Vectors = Mapping[tuple[str, str], NDArray[np.float16]]
"""Feature vector of every (context, text): `[width]` with its match, or `[dim]` of the text alone."""

FILE: Final = "data.jsonl.gz"


@dataclass(frozen=True)
class Source:
    """A set on disk.

    Attributes:
        name: Name of its folder.
        path: Its gzip JSON Lines file.
        sha256: Hash of that file.
        features: NumPy file of the features of its texts and prompts, which may not exist yet.
        identity: Identity of the extractor of the features.
    """

    name: str
    path: Path
    sha256: str
    features: Path
    identity: str

    def judgements(self) -> list[Judgement]:
        """Return all judgements in file order. The last set read is cached."""
        return _judgements(self.path)

    def vectors(self) -> FeatureTable:
        """Return the feature vector of every (context, text)."""
        with np.load(self.features) as arrays:
            return FeatureTable.from_arrays(items(self.judgements()), arrays)


def items(judgements: Sequence[Judgement]) -> list[tuple[str, str]]:
    """Return every (context, text) in order of first appearance, which is the order of the stored features."""
    return list(dict.fromkeys((j.context, text) for j in judgements for text in j.texts))


def sources(folder: Path, names: Sequence[str] | None, identity: str, cache_folder: Path) -> list[Source]:
    """Return the named sets of a folder, or all of its folders that hold data.jsonl.gz.

    Raises:
        FileNotFoundError: If a named set does not exist, or the folder holds no set.
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
        features = cache_folder / "features" / identity / f"{name}-{digest[:16]}.npz"
        result.append(Source(name, path, digest, features, identity))
    return result


@lru_cache(maxsize=1)
def _judgements(path: Path) -> list[Judgement]:
    return with_scales(list(read(path)))


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
