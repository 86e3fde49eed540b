"""`OpenVinoBackend`: a converted model on OpenVINO. Serving from it needs neither torch nor transformers."""

import importlib.util
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.batches import Batch

_MOST_TOKENS: Final = 2048
_HINTS: Final = {"float32": "f32", "bfloat16": "bf16"}


def is_installed() -> bool:
    """Return whether the extra `openvino` is installed."""
    return importlib.util.find_spec("openvino") is not None


@cache
def import_openvino() -> ModuleType:
    """Import the package `openvino` without its telemetry.

    Otherwise, importing it sends an event to an analytics service, unless a file in the user's home folder forbids it.
    The package works without the module that sends events, for which it has a stub, so that module is hidden.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


@cache
def has_bfloat16() -> bool:
    """Return whether OpenVINO finds that this processor multiplies bfloat16 (AVX512-BF16, AMX)."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoBackend:
    """A backend on the CPU plugin of OpenVINO, with streams of one thread each.

    Args:
        model: XML file of the converted model. Its weights are in the same folder and are mapped into memory.
        precision: `float32`, or `bfloat16` if the processor supports it. It is always set, because OpenVINO takes
            bfloat16 by default wherever it can.
        workers: Number of streams.
    """

    name = "openvino"

    def __init__(self, model: Path, *, precision: str, workers: int) -> None:
        self.precision = precision
        self.workers = workers
        self.place = f"{workers} threads"
        self.most_tokens = _MOST_TOKENS
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": workers,
            "INFERENCE_NUM_THREADS": workers,
            # A pinned thread waits for its core even if another core is free.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = import_openvino().Core().compile_model(str(model), "CPU", options)
        # Two requests for each stream: one waits while the other is computed, so that no stream waits for Python.
        self._requests = [compiled.create_infer_request() for _ in range(2 * workers)]
        self._lock = threading.Lock()

    def embed(self, batches: Sequence[Batch]) -> list[NDArray[np.float32]]:
        """Return the unit vectors of each batch.

        All requests are made from the calling thread, one caller at a time: two Python threads that enter OpenVINO for
        the first time can deadlock (2026.4).
        """
        vectors = []
        with self._lock:
            for i, batch in enumerate(batches):
                request = self._requests[i % len(self._requests)]
                if i >= len(self._requests):
                    vectors.append(_wait_for_result(request))
                request.start_async({"ids": batch.ids, "mask": batch.mask}, share_inputs=True)
            for i in range(len(vectors), len(batches)):
                vectors.append(_wait_for_result(self._requests[i % len(self._requests)]))
        return vectors


def _wait_for_result(request: Any) -> NDArray[np.float32]:  # noqa: ANN401 - an openvino.InferRequest
    request.wait()
    return np.array(request.get_output_tensor().data, np.float32)
