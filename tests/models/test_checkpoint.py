"""Checkpoints restore exactly what was saved, and nothing of other work."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penchant.models.checkpoint import (
    NO_CHECKPOINT,
    Checkpoint,
    CheckpointError,
    CheckpointMismatchError,
    compute_fingerprint,
)

RNG = np.random.default_rng(5)
ARRAYS = {
    "empty": np.zeros((0, 3)),
    "number": np.array(1.5),
    "transposed": RNG.normal(size=(3, 4)).T,
    "strided": RNG.normal(size=(6, 4))[::2, 1:3],
    "small": RNG.normal(size=5).astype(np.float16),
    "bytes": np.frombuffer(b"keys", np.uint8),
    "counts": np.arange(4),
    "flags": np.array([True, False]),
    "odd": np.array([np.nan, np.inf, -0.0]),
}


def test_a_stage_is_restored_exactly(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "work", "a").save("try rank 2/round 10", ARRAYS)
    restored = Checkpoint(tmp_path / "work", "a").load("try rank 2/round 10")
    assert restored is not None
    assert restored.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (restored[name].dtype, restored[name].shape) == (array.dtype, array.shape)
        assert restored[name].tobytes() == array.tobytes()


def test_a_stage_that_was_not_saved_is_absent(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "work", "a")
    assert checkpoint.load("fit") is None
    assert not (tmp_path / "work").exists()
    checkpoint.save("fit", {})
    assert checkpoint.load("fit") == {}
    assert checkpoint.load("fit/1") is None
    assert checkpoint.stages == 1


def test_saving_again_replaces(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "a")
    for value in (1, 2):
        checkpoint.save("fit", {"x": np.array([value])})
    restored = checkpoint.load("fit")
    assert restored is not None
    assert restored["x"] == [2]
    assert checkpoint.stages == 1


def test_other_work_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "a").save("fit", {})
    with pytest.raises(CheckpointMismatchError, match="holds work on other data"):
        Checkpoint(tmp_path, "b")
    checkpoint = Checkpoint.start_over(tmp_path, "b")
    assert checkpoint.load("fit") is None
    checkpoint.save("fit", {"x": np.ones(1)})
    assert Checkpoint(tmp_path, "b").stages == 1
    assert Checkpoint.start_over(tmp_path / "new", "b").stages == 0


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    for make in (Checkpoint, Checkpoint.start_over):
        with pytest.raises(CheckpointError, match="is not empty and holds no work"):
            make(tmp_path, "a")
    checkpoint = Checkpoint(tmp_path / "work", "a")
    checkpoint.save("fit", {})
    (tmp_path / "work" / "diary.txt").write_text("mine")
    checkpoint.clear()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["diary.txt"]


def test_a_cleared_checkpoint_is_removed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "work", "a")
    checkpoint.clear()
    checkpoint.save("fit", {})
    checkpoint.clear()
    assert not (tmp_path / "work").exists()
    checkpoint.save("fit", {})
    assert Checkpoint(tmp_path / "work", "a").load("fit") == {}


def test_damaged_and_unwritable_checkpoints_are_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "work", "a")
    checkpoint.save("fit", {"x": np.zeros(100)})
    (file,) = (tmp_path / "work").glob("fit*")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"cannot read .*fit"):
        checkpoint.load("fit")
    checkpoint.clear()
    (tmp_path / "work").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"cannot write .*work"):
        checkpoint.save("fit", {})
    with pytest.raises(CheckpointError, match=r"cannot read .*work"):
        Checkpoint(tmp_path / "work", "a")


def test_a_kill_while_saving_keeps_the_previous_stage(tmp_path: Path) -> None:
    code = (
        "import numpy as np, os, signal, sys\n"
        "from pathlib import Path\n"
        "from penchant.models.checkpoint import Checkpoint\n"
        "checkpoint = Checkpoint(Path(sys.argv[1]), 'a')\n"
        "checkpoint.save('fit', {'x': np.ones(3)})\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.save('fit', {'x': np.zeros(3)})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "work")], check=False)
    assert done.returncode == -signal.SIGKILL
    checkpoint = Checkpoint(tmp_path / "work", "a")
    restored = checkpoint.load("fit")
    assert restored is not None
    assert restored["x"].tolist() == [1, 1, 1]
    assert any("partial" in path.name for path in (tmp_path / "work").iterdir())
    checkpoint.clear()
    assert not (tmp_path / "work").exists()


def test_without_a_checkpoint_nothing_is_kept(tmp_path: Path) -> None:
    NO_CHECKPOINT.save("fit", ARRAYS)
    assert NO_CHECKPOINT.load("fit") is None
    NO_CHECKPOINT.clear()
    assert NO_CHECKPOINT.stages == 0
    assert not list(tmp_path.iterdir())


def test_a_fingerprint_distinguishes_work() -> None:
    assert compute_fingerprint(data=["ab"], seed=1) == compute_fingerprint(seed=1, data=["ab"])
    assert compute_fingerprint(data=["ab"], seed=1) != compute_fingerprint(data=["a", "b"], seed=1)
    assert len(compute_fingerprint()) == 32
