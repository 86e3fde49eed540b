"""`TorchBackend`: the reference for every other backend, and the backend for CUDA."""

import copy
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from penchant.models.encoding.batches import Batch
from penchant.models.encoding.encoder import EncoderError
from penchant.models.encoding.pretrained import PooledModel, ScoringModel

_CPU_TOKENS: Final = 2048
_CUDA_TOKENS: Final = 32768

_M = TypeVar("_M", bound=torch.nn.Module)
_T = TypeVar("_T")
_R = TypeVar("_R")


class TorchBackend:
    """A backend on torch, eager or compiled.

    On a processor, `workers` threads compute one batch each on one core. On CUDA, one thread feeds the device and sends
    every batch before it waits for the first result.

    Args:
        model: Model in float32. It is used as it is if the precision is float32, and copied otherwise. Scores of a
            classifier are vectors of one number.
        device: Device, such as `cpu`, `cuda` or `cuda:1`.
        precision: `float32` or `bfloat16`.
        workers: Number of threads on a processor.
        compiled: Whether to use `torch.compile`, with dynamic shapes.

    Attributes:
        forward: The forward pass from token numbers and mask to vectors, all on the device.

    Raises:
        EncoderError: If the device cannot be used.
    """

    name = "torch"

    def __init__(
        self,
        model: PooledModel | ScoringModel,
        *,
        device: str,
        precision: str,
        workers: int,
        compiled: bool = False,
    ) -> None:
        self.precision = precision
        self._device = torch.device(device)
        on_cpu = self._device.type == "cpu"
        self.workers = workers if on_cpu else 1
        self.place = (f"{workers} threads" if on_cpu else device) + (", compiled" if compiled else "")
        self.most_tokens = _CPU_TOKENS if on_cpu else _CUDA_TOKENS
        try:
            model = model if precision == "float32" else _with_bfloat16_products(model)
            model = model.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise EncoderError(f"cannot use device {device!r}: {error}") from error
        self.forward = torch.compile(model, dynamic=True) if compiled else model
        threads = torch.get_num_threads()
        self._pool = Workers(self.workers, _take_one_core if on_cpu else _do_nothing)
        torch.set_num_threads(threads)  # applies to new threads; the workers keep one core each

    def embed(self, batches: Sequence[Batch]) -> list[NDArray[np.float32]]:
        """Return the unit vectors of each batch."""
        return [vectors.cpu().numpy() for vectors in self._pool.map(self._embed, batches)]

    @torch.inference_mode()
    def _embed(self, batch: Batch) -> torch.Tensor:
        ids = torch.from_numpy(batch.ids).to(self._device, non_blocking=True)
        mask = torch.from_numpy(batch.mask).to(self._device, non_blocking=True)
        vectors: torch.Tensor = self.forward(ids, mask)
        return vectors


class _Bfloat16Linear(torch.nn.Module):
    """A linear layer that multiplies in bfloat16 and returns float32."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.to(torch.bfloat16))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.to(torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x.to(torch.bfloat16), self.weight, self.bias).float()


def _with_bfloat16_products(model: _M) -> _M:
    """Return a copy whose linear layers multiply in bfloat16.

    Everything else stays in float32: with residual sums rounded to 8 bits too, MiniLM only reaches a cosine of 0.9999.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, _Bfloat16Linear(child))
    return model


def _take_one_core() -> None:
    # The first query of a thread resets its number of threads to that of the process, so it must come first.
    torch.get_num_threads()
    torch.set_num_threads(1)


def _do_nothing() -> None:
    pass


class Workers:
    """A fixed number of threads, all started at once, that compute batches side by side.

    Every batch is computed by one thread. Threads that share a batch wait for the slowest of them at every layer, so
    that another process on one core delays them all; here, any free thread takes the next batch.

    Args:
        count: Number of threads.
        enter: Function that each thread calls first.
    """

    def __init__(self, count: int, enter: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="penchant-encode", initializer=enter)
        barrier = threading.Barrier(
            count
        )  # each thread waits for all others, so that `enter` runs in every one
        list(self._pool.map(lambda _: barrier.wait(), range(count)))

    def map(self, work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Return the results in the order of the items, or raise the first error in that order."""
        return list(self._pool.map(work, items))
