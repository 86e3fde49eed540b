"""Atomic writes leave the old file or the complete new one."""

import os
from pathlib import Path

import pytest

from penchant.models.files import open_atomically, write_atomically


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", b"new")
    assert names(tmp_path) == ["taken"]


def test_a_file_is_replaced_only_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(ZeroDivisionError), open_atomically(path) as file:
        file.write(b"half" * (1 // 0))
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["file"])
    write_atomically(path, b"new")
    assert (path.read_bytes(), names(tmp_path)) == (b"new", ["file"])


def test_a_file_that_must_not_be_overwritten_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open_atomically(path, overwrite=False) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), open_atomically(path, overwrite=False) as file:
        file.write(b"second")
    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["file"])


def test_a_file_is_never_readable_by_more_than_its_mode_allows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    leftover = tmp_path / f"file.{os.getpid()}.partial"
    leftover.touch(0o666)  # left by a killed process with the same id
    with open_atomically(path, mode=0o600):
        assert leftover.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600
