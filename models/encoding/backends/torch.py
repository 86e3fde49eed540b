"""`TorchBackend`: the reference for every other backend, and the one that runs on CUDA."""

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
from penchant.models.encoding.pretrained import PooledModel

_CPU_TOKENS: Final = 2048
_CUDA_TOKENS: Final = 32768

_T = TypeVar("_T")
_R = TypeVar("_R")


class TorchBackend:
    """A forward pass on torch, eager or compiled.

    On a processor, `workers` threads compute one batch each on one core. On CUDA one thread feeds the device: every
    batch is sent before the first result is waited for.

    Args:
        model: In float32. Taken over where the precision is float32, else copied.
        device: `cpu`, `cuda`, `cuda:1` …
        precision: `float32` or `bfloat16`.
        workers: Threads on a processor.
        compiled: Through `torch.compile`, with dynamic shapes.

    Attributes:
        forward: The pass itself: numbers and mask that are on the device to vectors that stay there.

    Raises:
        EncoderError: The device cannot be used.
    """

    name = "torch"

    def __init__(
        self, model: PooledModel, *, device: str, precision: str, workers: int, compiled: bool = False
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
        torch.set_num_threads(threads)  # for threads to come: the workers keep their one

    def embed(self, batches: Sequence[Batch]) -> list[NDArray[np.float32]]:
        """Unit vectors of each batch."""
        return [vectors.cpu().numpy() for vectors in self._pool.map(self._embed, batches)]

    @torch.inference_mode()
    def _embed(self, batch: Batch) -> torch.Tensor:
        ids = torch.from_numpy(batch.ids).to(self._device, non_blocking=True)
        mask = torch.from_numpy(batch.mask).to(self._device, non_blocking=True)
        vectors: torch.Tensor = self.forward(ids, mask)
        return vectors


class _Bfloat16Linear(torch.nn.Module):
    """A linear layer that multiplies in bfloat16 and gives float32."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.to(torch.bfloat16))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.to(torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x.to(torch.bfloat16), self.weight, self.bias).float()


def _with_bfloat16_products(model: PooledModel) -> PooledModel:
    """A copy whose linear layers multiply in bfloat16.

    All else stays in float32: what layers add up, when that too is rounded to 8 bits, costs MiniLM a cosine of 0.9999.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, _Bfloat16Linear(child))
    return model


def _take_one_core() -> None:
    torch.get_num_threads()  # a thread's first question sets its number to the process's, which must not come after
    torch.set_num_threads(1)


def _do_nothing() -> None:
    pass


class Workers:
    """A fixed number of threads, all started at once.

    Args:
        count: How many.
        enter: Called once in each thread, before anything else.
    """

    def __init__(self, count: int, enter: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="penchant-encode", initializer=enter)
        barrier = threading.Barrier(count)  # held until all have come, so that none serves twice
        list(self._pool.map(lambda _: barrier.wait(), range(count)))

    def map(self, work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Results in the order of the items; the first error is raised once it is reached."""
        return list(self._pool.map(work, items))
