"""Atomic writes: a file appears complete under its name, or not at all."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

_PARTIAL: Final = re.compile(r"\.\d+\.partial$")


def is_partial(path: Path) -> bool:
    """Whether a path is the temporary file of an unfinished write."""
    return _PARTIAL.search(path.name) is not None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file through `open_atomically`.

    Raises:
        OSError: If it cannot be written. An earlier file of that name stays as it was.
    """
    with open_atomically(path) as file:
        file.write(content)


@contextmanager
def open_atomically(path: Path, *, overwrite: bool = True, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name when the block ends without an error.

    The content goes to a temporary file in the same folder, which is renamed at the end. Readers never see half a
    file, and after the block the file survives a power cut.

    Args:
        path: File to write.
        overwrite: Whether to replace an existing file.
        mode: Permissions of the file, before the process's umask is applied.

    Raises:
        FileExistsError: If the file exists and must not be overwritten.
        OSError: If it cannot be written. An earlier file of that name stays as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # left by a killed process with the same id
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            partial.replace(path)
        else:
            path.hardlink_to(partial)  # unlike a rename, a link never replaces a file
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable. Windows cannot open folders, and its file systems do this on their own."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
