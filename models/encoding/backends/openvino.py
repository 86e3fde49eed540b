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
    """Whether the extra `openvino` is there."""
    return importlib.util.find_spec("openvino") is not None


@cache
def openvino() -> ModuleType:
    """The package `openvino`, which is not allowed to report its use to its maker.

    Importing it would send an event to an analytics service unless the user has forbidden it in their home folder. It
    does without the package that sends (and has a stub for that case), so that package is hidden from it.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


@cache
def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 (AVX512-BF16, AMX), as OpenVINO sees it."""
    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoBackend:
    """A forward pass on OpenVINO's CPU plugin: `workers` streams of one thread each.

    Args:
        model: The converted model's XML file; its weights lie beside it and are mapped into memory.
        precision: `float32`, or `bfloat16` where the processor has it. It is always said: left to itself, OpenVINO
            takes bfloat16 wherever it can.
        workers: Streams.
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
            # A pinned thread waits for its core even when another one is free.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = openvino().Core().compile_model(str(model), "CPU", options)
        # One waits in the queue of its stream while another is computed, so that no stream waits for Python.
        self._requests = [compiled.create_infer_request() for _ in range(2 * workers)]
        self._lock = threading.Lock()

    def embed(self, batches: Sequence[Batch]) -> list[NDArray[np.float32]]:
        """Unit vectors of each batch.

        All requests are made from the calling thread, and one caller is served at a time: two Python threads that enter
        OpenVINO for the first time can wait for each other for ever (2026.4).
        """
        vectors = []
        with self._lock:
            for i, batch in enumerate(batches):
                request = self._requests[i % len(self._requests)]
                if i >= len(self._requests):
                    vectors.append(_result(request))
                request.start_async({"ids": batch.ids, "mask": batch.mask}, share_inputs=True)
            for i in range(len(vectors), len(batches)):
                vectors.append(_result(self._requests[i % len(self._requests)]))
        return vectors


def _result(request: Any) -> NDArray[np.float32]:  # noqa: ANN401 - an openvino.InferRequest
    request.wait()
    return np.array(request.get_output_tensor().data, np.float32)
