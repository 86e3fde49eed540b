"""Models converted for OpenVINO, on disk. A conversion is written once, atomically, and checked at every load."""

import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from penchant.models.encoding.backends.base import Probes
from penchant.models.encoding.backends.openvino import import_openvino
from penchant.models.encoding.encoder import Pooling
from penchant.models.encoding.model_files import ModelCard, ModelFiles
from penchant.models.encoding.tokens import Tokens

if TYPE_CHECKING:
    from penchant.models.encoding.pretrained import PooledModel

_FORMAT: Final = 1
_MODEL: Final = "model.xml"
_WEIGHTS: Final = "model.bin"
_PROBES: Final = "probes.npz"
_CARD: Final = "card.json"
"""The file with the card, written last. It holds a hash of the card and of the other files."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """A converted model, with everything needed to serve from it.

    Attributes:
        model: XML file that `OpenVinoBackend` loads.
        card: Card of the model.
        probes: Probes with their vectors from torch in float32.
    """

    model: Path
    card: ModelCard
    probes: Probes


def compute_key(files: ModelFiles, pooling: Pooling) -> str:
    """Return the name of a conversion: a hash of the model's files, the pooling and the version of OpenVINO.

    The precision is left out: the file holds float32, and bfloat16 is an option of loading it.
    """
    content = "\x1f".join((str(_FORMAT), files.fingerprint, pooling, version("openvino")))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def load_conversion(root: Path, name: str) -> Conversion | None:
    """Load a conversion by name. Return None if it does not exist or is damaged. Cost: its files are hashed."""
    folder = root / name
    try:
        stored = json.loads((folder / _CARD).read_text("utf-8"))
        expected, card = stored.pop("hash"), ModelCard(**stored)
        if _compute_hash(folder, card) != expected:
            raise ValueError("the hash of its files is wrong")
        with np.load(folder / _PROBES, allow_pickle=False) as arrays:
            lengths = arrays["lengths"]
            tokens = Tokens(arrays["ids"], lengths, np.ones_like(lengths), np.zeros(len(lengths), np.bool_))
            return Conversion(folder / _MODEL, card, Probes(tokens, arrays["vectors"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("the converted model in %s is not used: %s", folder, error)
        return None


def save_conversion(
    root: Path, name: str, model: "PooledModel", card: ModelCard, probes: Probes
) -> Conversion:
    """Convert a model and save it under a name. Cost: seconds.

    The conversion is written to a temporary folder that is then renamed. If two processes convert at the same time, the
    first one wins, and readers never see half a conversion.

    Raises:
        OSError: If the folder cannot be written, or the conversion cannot be read back.
        Exception: Any error of tracing or converting an unusual model.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f"{name}.", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / name
        folder.mkdir()
        import_openvino().save_model(_convert(model, probes), str(folder / _MODEL), compress_to_fp16=False)
        np.savez(
            folder / _PROBES, ids=probes.tokens.ids, lengths=probes.tokens.lengths, vectors=probes.vectors
        )
        (folder / _CARD).write_text(
            json.dumps({**asdict(card), "hash": _compute_hash(folder, card)}), "utf-8"
        )
        for _ in range(2):
            with suppress(OSError):  # another process was faster, and its conversion is as good
                folder.rename(root / name)
            found = load_conversion(root, name)
            if found is not None:
                return found
            shutil.rmtree(root / name, ignore_errors=True)  # the existing one is damaged
    raise OSError(f"the converted model in {root / name} cannot be read back")


def _convert(model: "PooledModel", probes: Probes) -> object:
    import torch  # noqa: PLC0415 - already loaded if there is a model to convert

    # Two sequences of different lengths, so that the trace does not depend on the mask.
    n, length = 2, int(probes.tokens.lengths.max())
    ids = torch.from_numpy(np.resize(probes.tokens.ids, (n, length)))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    with warnings.catch_warnings(), _quiet(), torch.inference_mode():
        warnings.simplefilter("ignore")
        return import_openvino().convert_model(
            model, example_input={"ids": ids, "mask": mask}, input=[("ids", [-1, -1]), ("mask", [-1, -1])]
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers while a model is traced, and restore the root logger, which a failed conversion changes."""
    logger, root = logging.getLogger("transformers"), logging.getLogger()
    levels, filters, handlers = (logger.level, root.level), root.filters[:], root.handlers[:]
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(levels[0])
        root.setLevel(levels[1])
        root.filters[:], root.handlers[:] = filters, handlers


def _compute_hash(folder: Path, card: ModelCard) -> str:
    digest = hashlib.blake2b(json.dumps(asdict(card)).encode(), digest_size=16)
    for name in (_MODEL, _WEIGHTS, _PROBES):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
