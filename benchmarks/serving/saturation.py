"""The growth of documents per second with the batch, and the share of the device's peak that it reaches.

Each batch is measured twice: as it is served (`encode_tokens`: cut, sent, computed, vectors back on the host), and as
the bare forward pass over one batch that is already on the device. The share of the peak refers to the bare forward
pass.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import torch
from transformers import PreTrainedConfig

from benchmarks.serving.encoder_backends import OnTorch

_Runs = dict[tuple[str, str], Callable[[], object]]

LENGTH: Final = 128
SIZES: Final = tuple(2**i for i in range(13))
SQUARES: Final = tuple(2**i for i in range(10, 15))
WAYS: Final = ("served", "forward")
ENOUGH: Final = 0.95
"""Share of the best rate from which a batch counts as large enough."""

_TERA: Final = 1e12
_WORD: Final = "time"  # one token; two special ones come on top


@dataclass(frozen=True)
class Effort:
    """The duration of the measurement.

    Attributes:
        rounds: Number of rounds, in each of which all runs take turns.
        turn_seconds: Minimum duration of a turn; shorter calls are repeated.
    """

    rounds: int = 5
    turn_seconds: float = 0.05


PRESET: Final = Effort()


@dataclass(frozen=True)
class Peak:
    """The peak performance of a device.

    Attributes:
        tflops: 10¹² floating-point operations per second.
        source: Origin of the figure.
    """

    tflops: float
    source: str


def flops(config: PreTrainedConfig, length: int) -> int:
    """Return the floating-point operations that a document of n tokens costs in a model of BERT's shape.

    They are 2·weights·n for the linear layers (four of h × h and two of h × intermediate in each layer), and
    4·layers·n²·h for attention's two products. Norms, softmax, embeddings and pooling are left out; they are under 0.1
    % at 128 tokens.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    return int(2 * weights * length + 4 * layers * length**2 * hidden)


def saturating(rates: Mapping[int, float]) -> int:
    """Return the smallest batch that reaches 95 % of the best rate, given documents per second by batch size."""
    enough = ENOUGH * max(rates.values())
    return min(size for size, rate in rates.items() if rate >= enough)


def measured_peak(precision: str, device: str, squares: Sequence[int], effort: Effort = PRESET) -> Peak:
    """Measure the fastest product of two square random matrices in a precision, over all given sizes."""
    best, at = 0.0, 0
    for n in squares:
        try:
            a, b = (torch.randn(n, n, device=device).to(getattr(torch, precision)) for _ in range(2))
            runs: _Runs = {("product", ""): partial(torch.mm, a, b, out=torch.empty_like(a))}
        except torch.OutOfMemoryError:
            break
        for seconds in _turns(runs, device, effort).values():
            best, at = max((best, at), (2 * n**3 / min(seconds) / _TERA, n))
    return Peak(best, f"the product of two matrices of {at} × {at}, measured in the same run")


def measured(
    backends: Mapping[str, OnTorch],
    device: str,
    *,
    sizes: Sequence[int] = SIZES,
    length: int = LENGTH,
    squares: Sequence[int] = SQUARES,
    peaks: Mapping[str, Peak] | None = None,
    effort: Effort = PRESET,
) -> dict[str, Any]:
    """Measure every backend at every batch size, all taking turns. A batch that exceeds the memory has no figure.

    Args:
        backends: Backends by name.
        device: Device that they compute on.
        sizes: Numbers of documents in a batch, ascending.
        length: Tokens of a document, special ones included; a multiple of 16, so that nothing is padded.
        squares: Sides of the matrices whose fastest product is the peak.
        peaks: Known peaks by precision; the others are measured.
        effort: Duration of the measurement.

    Cost: about a minute on a device with the default effort.
    """
    rates: dict[str, dict[str, dict[int, float]]] = {name: {way: {} for way in WAYS} for name in backends}
    for size in sizes:
        runs = _runs(backends, device, size, length)
        for (name, way), seconds in _turns(runs, device, effort).items():
            rates[name][way][size] = size / statistics.median(seconds)
    known = dict(peaks or {})
    for precision in sorted({one.encoder.precision for one in backends.values()} - known.keys()):
        known[precision] = measured_peak(precision, device, squares, effort)
    return {
        "length": length,
        "peaks": {precision: asdict(peak) for precision, peak in known.items()},
        "backends": {
            name: _figures(rates[name], one, sizes, length, known[one.encoder.precision])
            for name, one in backends.items()
        },
    }


def _runs(backends: Mapping[str, OnTorch], device: str, size: int, length: int) -> _Runs:
    """Return the functions to time for every backend at one batch size."""
    tokens = next(iter(backends.values())).encoder.tokenize([" ".join([_WORD] * (length - 2))] * size)
    if set(tokens.lengths.tolist()) != {length}:
        raise ValueError(f"documents of {set(tokens.lengths.tolist())} tokens, not of {length}")
    ids = torch.from_numpy(tokens.ids.reshape(size, length)).to(device)
    mask = torch.ones_like(ids)
    runs: _Runs = {}
    for name, one in backends.items():
        runs[name, "served"] = partial(one.encoder.encode_tokens, tokens)
        runs[name, "forward"] = partial(_forward, one, ids, mask)
    return runs


@torch.inference_mode()
def _forward(one: OnTorch, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    vectors: torch.Tensor = one.backend.forward(ids, mask)
    return vectors


def _turns(runs: _Runs, device: str, effort: Effort) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of one call of each run in every round, without the runs that exceed the memory.

    Each run is called twice before that. The first call compiles and allocates. The second call determines how many
    calls fill a turn.
    """
    calls: dict[tuple[str, str], int] = {}
    for key, run in runs.items():
        with suppress(torch.OutOfMemoryError):
            _seconds(run, device, 1)
            calls[key] = max(1, math.ceil(effort.turn_seconds / _seconds(run, device, 1)))
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(effort.rounds):
        for key, times in calls.items():
            taken[key].append(_seconds(runs[key], device, times))
    return taken


def _seconds(run: Callable[[], object], device: str, calls: int) -> float:
    """Return the seconds per call of several calls in a row, from idle device to idle device."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    _synchronize(device)
    return (time.perf_counter() - start) / calls


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _figures(
    rates: Mapping[str, Mapping[int, float]], one: OnTorch, sizes: Sequence[int], length: int, peak: Peak
) -> dict[str, Any]:
    tflops = {size: flops(one.config, length) * rate / _TERA for size, rate in rates["forward"].items()}
    return {
        "precision": one.encoder.precision,
        "documents_at_once": one.backend.most_tokens // length,
        "saturates": {way: saturating(rates[way]) for way in WAYS},
        "batches": [
            {
                "documents": size,
                "served": rates["served"].get(size),
                "forward": rates["forward"].get(size),
                "tflops": tflops.get(size),
                "share_of_peak": tflops[size] / peak.tflops if size in tflops else None,
            }
            for size in sizes
        ],
    }
