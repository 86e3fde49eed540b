"""The options of a caller, the candidate backends on this machine, and the choice of an earlier start."""

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from penchant.models.encoding.backends import openvino
from penchant.models.encoding.encoder import BackendName, Pooling, Precision
from penchant.models.encoding.model_files import ModelFiles, find_model_files
from penchant.models.files import write_atomically

_FORMAT: Final = 1
_CUDA_PATHS: Final = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A backend with its options.

    Attributes:
        backend: `torch` or `openvino`.
        precision: `float32` or `bfloat16`.
        compiled: Whether the model goes through `torch.compile`.
    """

    backend: str
    precision: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}{' compiled' if self.compiled else ''}"


@dataclass(frozen=True)
class BackendRequest:
    """Options of a caller of `load_encoder`.

    Attributes:
        name: Name of the model.
        pooling: Pooling of token states to one vector.
        backend: Backend, or `auto`.
        precision: Precision, or `auto`.
        device: Device, or `auto`.
        threads: Number of cores to use. None uses all cores that this process may use.
        root: Folder of converted models and recorded choices.
        native_bfloat16: Names of the backends for which this processor multiplies bfloat16. If it is None, each backend
            detects this itself.
    """

    name: str
    pooling: Pooling
    backend: BackendName
    precision: Precision
    device: str
    threads: int | None
    root: str
    native_bfloat16: Collection[str] | None = None

    @cached_property
    def files(self) -> ModelFiles:
        """Files of the model."""
        return find_model_files(self.name)

    @property
    def workers(self) -> int:
        """Number of threads on a processor."""
        return self.threads or count_available_cores()

    @cached_property
    def actual_device(self) -> str:
        """Device, with `auto` resolved."""
        if self.device != "auto":
            return self.device
        return "cuda" if _has_cuda() else "cpu"

    @property
    def can_use_openvino(self) -> bool:
        """Whether OpenVINO is allowed, installed, and able to use the device."""
        return self.backend != "torch" and self.actual_device == "cpu" and openvino.is_installed()

    def list_candidates(self) -> list[Candidate]:
        """Return the candidates that fit request and machine, in order of preference among equally fast ones."""
        candidates = []
        if self.can_use_openvino:
            candidates.append(Candidate("openvino", "float32"))
            if self._multiplies_bfloat16("openvino"):
                candidates.append(Candidate("openvino", "bfloat16"))
        if self.backend != "openvino":
            candidates.append(Candidate("torch", "float32"))
            if self.actual_device != "cpu":
                candidates += [Candidate("torch", "bfloat16"), Candidate("torch", "bfloat16", compiled=True)]
            elif self.precision == "bfloat16" or self._multiplies_bfloat16("torch"):
                candidates.append(Candidate("torch", "bfloat16"))
        return [c for c in candidates if self.precision in {"auto", c.precision}]

    def _multiplies_bfloat16(self, backend: str) -> bool:
        if self.native_bfloat16 is not None:
            return backend in self.native_bfloat16
        return openvino.has_bfloat16() if backend == "openvino" else _torch_has_bfloat16()

    def find_recorded(self) -> Candidate | None:
        """Return the recorded choice for the same request on this machine, or None."""
        try:
            return Candidate(**json.loads(self._record_path().read_text("utf-8"))["chosen"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def find_settled(self) -> Candidate | None:
        """Return the candidate that serves if no measurement is needed: the recorded choice or the only candidate."""
        if self.backend != "openvino" or not self.can_use_openvino:
            return self.find_recorded()
        candidates = self.list_candidates()
        return candidates[0] if len(candidates) == 1 else self.find_recorded()

    def record_choice(self, chosen: Candidate, seconds: Mapping[Candidate, float]) -> None:
        """Record a choice and the measurements behind it."""
        content = {"chosen": asdict(chosen), "seconds": {str(c): round(s, 4) for c, s in seconds.items()}}
        try:
            write_atomically(self._record_path(), json.dumps(content, indent=1).encode())
        except OSError as error:
            _log.warning("the choice of an encoder backend is not kept: %s", error)

    def _record_path(self) -> Path:
        """Return the file of a choice, which depends on model, machine, versions of libraries and request."""
        facts = {
            "format": _FORMAT,
            "request": asdict(self)
            | {
                "name": self.files.fingerprint,
                "threads": self.workers,
                "device": self.actual_device,
                "root": "",
            },
            "machine": [platform.machine(), _describe_processor(), _describe_accelerator(self.actual_device)],
            "versions": [_find_version(name) for name in ("openvino", "torch", "transformers")],
        }
        name = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
        return Path(self.root) / f"{name}.choice.json"


def count_available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Count the cores that this process may use: its affinity or its cgroup v2 quota, rounded down, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text("ascii").split()
        return max(1, min(cores, int(most) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return cores


def _describe_processor() -> str:
    """Return the model and instruction sets of the processor, which determine the speed of each backend."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _describe_accelerator(device: str) -> str:
    """Return the model of a CUDA device, or an empty string for a processor."""
    if not device.startswith("cuda") or not _has_cuda():
        return ""
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name(device)


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _has_cuda() -> bool:
    """Return whether torch has a CUDA device. torch is not imported if the system shows that there is none."""
    is_possible = sys.platform != "linux" or any(Path(path).exists() for path in _CUDA_PATHS)
    if "torch" not in sys.modules and not is_possible:
        return False
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()


def _torch_has_bfloat16() -> bool:
    import torch  # noqa: PLC0415

    return bool(torch.cpu._is_avx512_bf16_supported())
