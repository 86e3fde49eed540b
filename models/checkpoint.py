"""Long work: callbacks that report its progress, and checkpoints from which an interrupted run resumes.

folder/
  identity                     hash of what the work depends on: data, options, encoder, versions
  <stage>.safetensors          arrays of a finished stage
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from penchant.models.errors import ModelError
from penchant.models.files import is_partial, write_atomically

Arrays = Mapping[str, NDArray[Any]]

Progress = Callable[[str, int, int], None]
"""Callback that receives the name of the stage, the number of finished steps, and the number of all steps."""

_IDENTITY: Final = "identity"
_ENDING: Final = ".safetensors"


class CheckpointError(ModelError, RuntimeError):
    """The folder of a checkpoint belongs to other work, is damaged, or cannot be read or written."""


class CheckpointMismatchError(CheckpointError):
    """The folder of a checkpoint holds work of another identity, which `Checkpoint.start_over` discards."""


class Checkpoint:
    """A folder with the arrays of finished stages. The folder is created when the first stage is saved.

    Args:
        folder: Folder that is used for this work only.
        identity: Identity of the work from `compute_fingerprint`. Equal identities must lead to equal arrays.

    Attributes:
        folder: Folder of the checkpoint.

    Raises:
        CheckpointMismatchError: If the folder holds work of another identity.
        CheckpointError: If the folder holds other files or cannot be read.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self._identity = identity
        try:
            saved = (folder / _IDENTITY).read_text("utf-8")
        except FileNotFoundError:
            saved = None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {folder}: {error}") from error
        if saved is None and folder.exists() and any(not is_partial(p) for p in folder.iterdir()):
            raise CheckpointError(f"{folder} is not empty and holds no work that can be resumed")
        if saved is not None and saved != identity:
            raise CheckpointMismatchError(
                f"{folder} holds work on other data, with other options or of another version"
            )

    @classmethod
    def start_over(cls, folder: Path, identity: str) -> "Checkpoint":
        """Discard the work in the folder, of any identity, and return an empty checkpoint.

        Args:
            folder: Folder that is used for this work only.
            identity: Identity of the new work.

        Raises:
            CheckpointError: If the folder holds other files, or its work cannot be read or removed.
        """
        try:
            cls(folder, (folder / _IDENTITY).read_text("utf-8")).clear()
        except FileNotFoundError:
            pass  # an empty or missing folder, or other files, which the constructor refuses
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {folder}: {error}") from error
        return cls(folder, identity)

    @property
    def stages(self) -> int:
        """Number of saved stages."""
        return sum(1 for _ in self.folder.glob(f"*{_ENDING}"))

    def load(self, stage: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of a stage exactly as they were saved, or None if it was not saved.

        Raises:
            CheckpointError: If the arrays cannot be read.
        """
        path = self._path(stage)
        try:
            return dict(load_tensors(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error

    def save(self, stage: str, arrays: Arrays) -> None:
        """Save a stage atomically, in place of an earlier version. The arrays are on disk when this returns.

        Args:
            stage: Name of the stage, any text of moderate length.
            arrays: Numeric arrays of any shape, by name.

        Raises:
            CheckpointError: If the arrays cannot be written.
        """
        # safetensors writes the memory of an array as it is, so it must be in C order.
        content = save_tensors({name: np.array(array, order="C") for name, array in arrays.items()})
        try:
            if not (self.folder / _IDENTITY).exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self.folder / _IDENTITY, self._identity.encode())
            write_atomically(self._path(stage), content)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.folder}: {error}") from error

    def clear(self) -> None:
        """Delete all stages, and the folder unless it holds other files.

        Raises:
            CheckpointError: If a file or the folder cannot be deleted.
        """
        if not self.folder.exists():
            return
        try:
            for path in list(self.folder.iterdir()):
                # The identity goes last, so that an interrupted call can be repeated.
                if path.name.endswith(_ENDING) or is_partial(path):
                    path.unlink(missing_ok=True)
            (self.folder / _IDENTITY).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            raise CheckpointError(f"cannot remove {self.folder}: {error}") from error

    def _path(self, stage: str) -> Path:
        return self.folder / (quote(stage, safe=" ") + _ENDING)


class NoCheckpoint(Checkpoint):
    """A checkpoint that saves nothing, for work that cannot be resumed."""

    def __init__(self) -> None:
        """Make a checkpoint without a folder."""

    @property
    def stages(self) -> int:
        """Always 0."""
        return 0

    def load(self, stage: str) -> None:
        """Return None."""

    def save(self, stage: str, arrays: Arrays) -> None:
        """Do nothing."""

    def clear(self) -> None:
        """Do nothing."""


NO_CHECKPOINT: Final = NoCheckpoint()


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Report no progress: the default of every `progress` argument."""


def compute_fingerprint(**parts: object) -> str:
    """Return the identity of work that depends on `parts`: 32 hex digits of a hash of their JSON, in any order."""
    content = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
