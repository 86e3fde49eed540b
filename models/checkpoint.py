"""`Checkpoint`: what long work has finished so far, stage by stage, so that it can be interrupted and go on.

folder/
  identity                     what the work depends on: data, options, encoder, versions
  <stage>.safetensors          arrays of a stage that is done
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
    """A folder of work cannot be used: it belongs to other work, is damaged, or cannot be written."""


class CheckpointMismatchError(CheckpointError):
    """A folder holds work of another identity: `Checkpoint.start_over` forgets it."""


class Checkpoint:
    """Keeps the arrays of finished stages in a folder, which is made when the first is saved.

    Args:
        folder: Of this work alone.
        identity: Of the work (`compute_fingerprint`): equal identities must lead to equal arrays.

    Raises:
        CheckpointMismatchError: The folder holds work of another identity.
        CheckpointError: The folder holds something else, or cannot be read.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self._identity = identity
        try:
            found = (folder / _IDENTITY).read_text("utf-8")
        except FileNotFoundError:
            found = None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {folder}: {error}") from error
        if found is None and folder.exists() and any(not is_partial(p) for p in folder.iterdir()):
            raise CheckpointError(f"{folder} is not empty and holds no work that could go on")
        if found is not None and found != identity:
            raise CheckpointMismatchError(
                f"{folder} holds work on other data, with other options or of another version"
            )

    @classmethod
    def start_over(cls, folder: Path, identity: str) -> "Checkpoint":
        """The same, after forgetting the work of whatever identity that the folder holds.

        Raises:
            CheckpointError: The folder holds something else, or it cannot be removed.
        """
        try:
            cls(folder, (folder / _IDENTITY).read_text("utf-8")).clear()
        except FileNotFoundError:
            pass  # nothing, or no work: what follows tells
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {folder}: {error}") from error
        return cls(folder, identity)

    @property
    def stages(self) -> int:
        """How many stages are saved."""
        return sum(1 for _ in self.folder.glob(f"*{_ENDING}"))

    def load(self, stage: str) -> dict[str, NDArray[Any]] | None:
        """The arrays of a stage, exactly as they were saved; None if it was not.

        Raises:
            CheckpointError: They cannot be read.
        """
        path = self._path(stage)
        try:
            return dict(load_tensors(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error

    def save(self, stage: str, arrays: Arrays) -> None:
        """Saves a stage whole, in place of what was saved of it before. On disk when this returns.

        Args:
            stage: Its name; any text of moderate length.
            arrays: Of numbers, of any shape.

        Raises:
            CheckpointError: They cannot be written.
        """
        # safetensors writes the memory of an array as it lies: it must lie in C order.
        content = save_tensors({name: np.array(array, order="C") for name, array in arrays.items()})
        try:
            if not (self.folder / _IDENTITY).exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self.folder / _IDENTITY, self._identity.encode())
            write_atomically(self._path(stage), content)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.folder}: {error}") from error

    def clear(self) -> None:
        """Forgets all stages, and removes the folder unless something else is in it.

        Raises:
            CheckpointError: It cannot be removed.
        """
        if not self.folder.exists():
            return
        try:
            for path in list(self.folder.iterdir()):
                # The identity last: what is left of an interrupted clearing can be cleared.
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
    """Keeps nothing: for work that is not to be resumed."""

    def __init__(self) -> None:
        """Needs no folder."""

    @property
    def stages(self) -> int:
        """None is saved."""
        return 0

    def load(self, stage: str) -> None:
        """Nothing was saved."""

    def save(self, stage: str, arrays: Arrays) -> None:
        """Saves nothing."""

    def clear(self) -> None:
        """There is nothing to forget."""


NO_CHECKPOINT: Final = NoCheckpoint()


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Report no progress: the default of every `progress` argument."""


def compute_fingerprint(**parts: object) -> str:
    """Identity of work by what it depends on: 32 hex digits of the JSON of `parts`, whatever their order."""
    content = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
