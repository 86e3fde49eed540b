"""A description of the machine that figures were measured on."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine(libraries: Sequence[str] = ("torch", "numpy", "scipy")) -> dict[str, Any]:
    """Return the commit, the processor and the versions of a run."""
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", "models", "benchmarks")
    return {
        "commit": commit + (" and uncommitted changes" if changed else ""),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
    }


def processor() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def accelerator() -> str | None:
    """Return the CUDA device's name and memory. None if there is no CUDA device."""
    import torch  # noqa: PLC0415 - not every benchmark stands on it

    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(0)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
