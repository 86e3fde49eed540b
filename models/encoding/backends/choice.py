"""The choice of a backend: each candidate is tested on the probes against torch in float32, and the fastest one serves.

On the first start on a machine, the weights are loaded on torch and converted, all candidates are tested and timed,
and the choice is recorded. Later starts read the choice, load a converted model and test it again, without importing
torch.
"""

import atexit
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penchant.models.encoding.backends import conversion as conversions
from penchant.models.encoding.backends.base import PROBES, Backend, Probes, embed, find_fault
from penchant.models.encoding.backends.openvino import OpenVinoBackend
from penchant.models.encoding.backends.request import BackendRequest, Candidate
from penchant.models.encoding.encoder import EncoderError
from penchant.models.encoding.model_files import ModelCard
from penchant.models.encoding.tokens import TextTokenizer, Tokens

if TYPE_CHECKING:
    from penchant.models.encoding.backends.torch import TorchBackend
    from penchant.models.encoding.pretrained import PooledModel

_REFERENCE: Final = Candidate("torch", "float32")
_PROBE_TOKENS: Final = 128
_ROUNDS: Final = 5
_TIE_RATIO: Final = 1.2
"""Among candidates within this ratio of the fastest time, the first in order of preference is taken."""

_log = logging.getLogger(__name__)


def open_backend(request: BackendRequest) -> tuple[ModelCard, Backend]:
    """Return the card of a model and the backend that serves it.

    Cost: the first call on a machine takes seconds to load torch, convert and measure. Later calls take less than a
    second if OpenVINO serves.

    Raises:
        EncoderError: If the model does not exist, or the requested backend cannot serve it.
    """
    if request.backend == "openvino" and not request.can_use_openvino:
        raise EncoderError("backend 'openvino' needs the extra penchant[openvino] and device 'cpu' or 'auto'")
    opened = _open_converted(request)
    if opened is not None:
        return opened
    request = _ensure_writable_root(request)
    if request.can_use_openvino and "torch" not in sys.modules:
        settled = request.find_settled()
        if settled is None or settled.backend == "openvino":
            # A separate process frees its memory when it ends; this one may never need torch.
            _prepare_in_subprocess(request)
            opened = _open_converted(request)
    return opened or _open_from_weights(request)


def _open_converted(request: BackendRequest) -> tuple[ModelCard, Backend] | None:
    """Open a converted model on OpenVINO, if it is known that OpenVINO serves."""
    choice = request.find_settled() if request.can_use_openvino else None
    if choice is None or choice.backend != "openvino":
        return None
    conversion = conversions.load_conversion(
        Path(request.root), conversions.compute_key(request.files, request.pooling)
    )
    if conversion is None:
        return None
    backend = _build_verified(
        choice, conversion.probes, conversion.card.pad, lambda: _open_on_openvino(conversion, choice, request)
    )
    return None if backend is None else (conversion.card, backend)


def _open_from_weights(request: BackendRequest) -> tuple[ModelCard, Backend]:
    """Load the weights on torch, test all candidates and return the best one."""
    weights = _Weights.load(request)
    recorded, candidates = request.find_recorded(), request.list_candidates()
    if recorded in candidates and recorded.backend == "torch":
        candidates = [recorded]
    passing = {c: backend for c in candidates if (backend := weights.build_verified(c)) is not None}
    if not passing:
        if request.backend != "auto" or request.precision != "auto":
            raise EncoderError(
                f"encoder {request.name!r} cannot be served with backend {request.backend!r}, precision "
                f"{request.precision!r} and device {request.actual_device!r}; the log gives the reasons"
            )
        passing = {_REFERENCE: weights.reference}
    seconds = _measure(passing, weights.probes.tokens, weights.card.pad)
    chosen = next(c for c in passing if seconds[c] <= _TIE_RATIO * min(seconds.values()))
    if candidates != [recorded]:
        request.record_choice(chosen, seconds)
    return weights.card, passing[chosen]


@dataclass(frozen=True)
class _Weights:
    """A model on torch, and the backends that can be built from it."""

    request: BackendRequest
    card: ModelCard
    model: "PooledModel"
    reference: "TorchBackend"
    probes: Probes

    @classmethod
    def load(cls, request: BackendRequest) -> "_Weights":
        # A start from a converted model needs neither torch nor transformers.
        from penchant.models.encoding import pretrained  # noqa: PLC0415
        from penchant.models.encoding.backends.torch import TorchBackend  # noqa: PLC0415

        card, model = pretrained.load_pretrained(request.files, request.pooling)
        reference = TorchBackend(
            model, device=request.actual_device, precision="float32", workers=request.workers
        )
        most = min(_PROBE_TOKENS, card.positions)
        tokens = TextTokenizer(card.tokenizer, max_tokens=most, joint=False, pad=card.pad)(PROBES)
        return cls(request, card, model, reference, Probes(tokens, embed(reference, tokens, card.pad)))

    def build_verified(self, candidate: Candidate) -> Backend | None:
        if candidate == _REFERENCE:
            return self.reference
        return _build_verified(candidate, self.probes, self.card.pad, lambda: self._build(candidate))

    def _build(self, candidate: Candidate) -> Backend:
        if candidate.backend == "torch":
            return type(self.reference)(
                self.model,
                device=self.request.actual_device,
                precision=candidate.precision,
                workers=self.request.workers,
                compiled=candidate.compiled,
            )
        root, name = (
            Path(self.request.root),
            conversions.compute_key(self.request.files, self.request.pooling),
        )
        conversion = conversions.load_conversion(root, name)
        if conversion is None:
            conversion = conversions.save_conversion(root, name, self.model, self.card, self.probes)
        return _open_on_openvino(conversion, candidate, self.request)


def _open_on_openvino(
    conversion: conversions.Conversion, candidate: Candidate, request: BackendRequest
) -> Backend:
    return OpenVinoBackend(conversion.model, precision=candidate.precision, workers=request.workers)


def _build_verified(
    candidate: Candidate, probes: Probes, pad: int, build: Callable[[], Backend]
) -> Backend | None:
    """Build a backend and return it if it agrees with torch in float32; otherwise log why and return None."""
    try:
        backend = build()
        fault = find_fault(backend, probes, pad)
    except Exception as error:  # unusual models fail in unusual ways, and torch serves all of them
        fault = f"{type(error).__name__}: {error}"
    if fault is None:
        return backend
    _log.warning("the encoder backend %s is not used: %s", candidate, fault)
    return None


def _measure(backends: Mapping[Candidate, Backend], tokens: Tokens, pad: int) -> dict[Candidate, float]:
    """Return the seconds that each backend takes for the probes; a single backend is not measured.

    Backends take turns, and the best round of each counts: other processes only add time while a server starts.
    """
    if len(backends) == 1:
        return dict.fromkeys(backends, 0.0)
    rounds: list[dict[Candidate, float]] = [
        {c: timeit.timeit(lambda: embed(b, tokens, pad), number=1) for c, b in backends.items()}  # noqa: B023
        for _ in range(_ROUNDS)
    ]
    return {c: min(seconds[c] for seconds in rounds) for c in backends}


# ---------------------------------------------------------------- the first start, in a separate process


def _prepare_in_subprocess(request: BackendRequest) -> None:
    """Convert, test and measure in another process, which caches its results. Failures show up again here."""
    command = [sys.executable, "-m", "penchant.models.encoding.backends.choice", json.dumps(asdict(request))]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)  # noqa: S603


def _ensure_writable_root(request: BackendRequest) -> BackendRequest:
    """Return the request with a writable folder: its own, or a temporary one of this process."""
    try:
        root = Path(request.root)
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return request
    except OSError as error:
        _log.warning("converted models and choices are not kept: %s", error)
        folder = tempfile.mkdtemp(prefix="penchant-encoders-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return replace(request, root=folder)


if __name__ == "__main__":
    import torch  # noqa: F401 - otherwise this process would start another one

    open_backend(BackendRequest(**json.loads(sys.argv[1])))
