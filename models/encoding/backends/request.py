"""What a caller wants of an encoder's backend, what there is to choose from here, and what was chosen before."""

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
from penchant.models.encoding.model_files import ModelFiles, find
from penchant.models.files import write_atomically

_FORMAT: Final = 1
_SIGNS_OF_CUDA: Final = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """One way to compute the forward pass."""

    backend: str
    precision: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}{' compiled' if self.compiled else ''}"


@dataclass(frozen=True)
class BackendRequest:
    """What a caller asked for; as `load_encoder` takes it, which says what is meant.

    Attributes:
        root: Folder of converted models and choices.
        native_bfloat16: Names of the backends for which this processor multiplies bfloat16. None means that each backend
            is asked what the processor can do.
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
        """The model's files."""
        return find(self.name)

    @property
    def workers(self) -> int:
        """Threads on a processor."""
        return self.threads or available_cores()

    @cached_property
    def actual_device(self) -> str:
        """The device, `auto` resolved."""
        if self.device != "auto":
            return self.device
        return "cuda" if _cuda_is_there() else "cpu"

    @property
    def openvino_is_possible(self) -> bool:
        """Whether OpenVINO is allowed, there, and for this device."""
        return self.backend != "torch" and self.actual_device == "cpu" and openvino.is_installed()

    def candidates(self) -> list[Candidate]:
        """All that fit the request and could work here, in order of preference among equally fast ones."""
        found = []
        if self.openvino_is_possible:
            found.append(Candidate("openvino", "float32"))
            if self._multiplies_bfloat16("openvino"):
                found.append(Candidate("openvino", "bfloat16"))
        if self.backend != "openvino":
            found.append(Candidate("torch", "float32"))
            if self.actual_device != "cpu":
                found += [Candidate("torch", "bfloat16"), Candidate("torch", "bfloat16", compiled=True)]
            elif self.precision == "bfloat16" or self._multiplies_bfloat16("torch"):
                found.append(Candidate("torch", "bfloat16"))
        return [c for c in found if self.precision in {"auto", c.precision}]

    def _multiplies_bfloat16(self, backend: str) -> bool:
        if self.native_bfloat16 is not None:
            return backend in self.native_bfloat16
        return openvino.has_bfloat16() if backend == "openvino" else _torch_has_bfloat16()

    def recorded(self) -> Candidate | None:
        """What was chosen for the same request on this machine before."""
        try:
            return Candidate(**json.loads(self._record_path().read_text("utf-8"))["chosen"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def settled(self) -> Candidate | None:
        """What is to serve, where that is known without measuring: recorded, or the only way that was left open."""
        if self.backend != "openvino" or not self.openvino_is_possible:
            return self.recorded()
        candidates = self.candidates()
        return candidates[0] if len(candidates) == 1 else self.recorded()

    def record(self, chosen: Candidate, seconds: Mapping[Candidate, float]) -> None:
        """Writes a choice down, and what it rests on."""
        content = {"chosen": asdict(chosen), "seconds": {str(c): round(s, 4) for c, s in seconds.items()}}
        try:
            write_atomically(self._record_path(), json.dumps(content, indent=1).encode())
        except OSError as error:
            _log.warning("the choice of an encoder backend is not kept: %s", error)

    def _record_path(self) -> Path:
        """A choice holds for one model on one machine with the same libraries, and for the same request."""
        facts = {
            "format": _FORMAT,
            "request": asdict(self)
            | {
                "name": self.files.fingerprint,
                "threads": self.workers,
                "device": self.actual_device,
                "root": "",
            },
            "machine": [platform.machine(), _processor(), _accelerator(self.actual_device)],
            "versions": [_version(name) for name in ("openvino", "torch", "transformers")],
        }
        name = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
        return Path(self.root) / f"{name}.choice.json"


def available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may keep busy: its affinity, and a container's quota (cgroup v2), rounded down; ≥ 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text("ascii").split()
        return max(1, min(cores, int(most) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return cores


def _processor() -> str:
    """Model and instruction sets, which decide how fast each backend is."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _accelerator(device: str) -> str:
    """Model of a CUDA device; nothing of a processor."""
    if not device.startswith("cuda") or not _cuda_is_there():
        return ""
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name(device)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cuda_is_there() -> bool:
    """Whether torch has a device; it is not imported where a look at the system is enough."""
    looks_so = sys.platform != "linux" or any(Path(sign).exists() for sign in _SIGNS_OF_CUDA)
    if "torch" not in sys.modules and not looks_so:
        return False
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()


def _torch_has_bfloat16() -> bool:
    import torch  # noqa: PLC0415

    return bool(torch.cpu._is_avx512_bf16_supported())
