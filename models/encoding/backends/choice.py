"""Which backend serves: every one that could is tried on the probes against torch in float32, and the fastest is taken.

First start on a machine: weights on torch → converted → all tried and timed → the choice is written down.
Later starts: the choice is read; a converted model is loaded, and tried again, without torch ever being imported.
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
from penchant.models.encoding.backends.base import PROBES, Backend, Probes, embed, fault
from penchant.models.encoding.backends.openvino import OpenVinoBackend
from penchant.models.encoding.backends.request import BackendRequest, Candidate
from penchant.models.encoding.encoder import EncoderError
from penchant.models.encoding.model_files import ModelCard
from penchant.models.encoding.tokens import TextTokenizer, Tokens

if TYPE_CHECKING:
    from penchant.models.encoding.backends.torch import TorchBackend
    from penchant.models.encoding.pretrained import PooledModel

_EXACT: Final = Candidate("torch", "float32")
_PROBE_TOKENS: Final = 128
_ROUNDS: Final = 5
_TIE: Final = 1.2
"""Within this ratio of the fastest, the more precise and the lighter backend is taken."""

_log = logging.getLogger(__name__)


def open_backend(request: BackendRequest) -> tuple[ModelCard, Backend]:
    """The model's card and the backend that serves it.

    Cost: the first time on a machine, seconds for loading torch, converting and measuring; later under a second where
    OpenVINO serves.

    Raises:
        EncoderError: There is no such model, or the one backend that was asked for cannot serve it.
    """
    if request.backend == "openvino" and not request.openvino_is_possible:
        raise EncoderError(
            "the backend openvino needs the extra penchant[openvino] and device 'cpu' or 'auto'"
        )
    found = _from_conversion(request)
    if found is not None:
        return found
    request = _with_a_folder_to_write(request)
    if request.openvino_is_possible and "torch" not in sys.modules:
        settled = request.settled()
        if settled is None or settled.backend == "openvino":
            # In a process of its own, whose memory goes with it: this one may never need torch.
            _prepare_elsewhere(request)
            found = _from_conversion(request)
    return found or _from_weights(request)


def _from_conversion(request: BackendRequest) -> tuple[ModelCard, Backend] | None:
    """OpenVINO with a model converted before, where it is known that it is to be taken."""
    choice = request.settled() if request.openvino_is_possible else None
    if choice is None or choice.backend != "openvino":
        return None
    conversion = conversions.read(Path(request.root), conversions.key(request.files, request.pooling))
    if conversion is None:
        return None
    backend = _passing(
        choice, conversion.probes, conversion.card.pad, lambda: _on_openvino(conversion, choice, request)
    )
    return None if backend is None else (conversion.card, backend)


def _from_weights(request: BackendRequest) -> tuple[ModelCard, Backend]:
    """Loads the weights on torch, tries what could serve, and takes the best."""
    weights = _Weights.load(request)
    recorded, candidates = request.recorded(), request.candidates()
    if recorded in candidates and recorded.backend == "torch":
        candidates = [recorded]
    passing = {c: backend for c in candidates if (backend := weights.passing(c)) is not None}
    if not passing:
        if request.backend != "auto" or request.precision != "auto":
            raise EncoderError(
                f"the encoder {request.name!r} cannot be served as asked for (backend {request.backend}, precision "
                f"{request.precision}, device {request.actual_device}); the log says what was wrong"
            )
        passing = {_EXACT: weights.reference}
    seconds = _measure(passing, weights.probes.tokens, weights.card.pad)
    chosen = next(c for c in passing if seconds[c] <= _TIE * min(seconds.values()))
    if candidates != [recorded]:
        request.record(chosen, seconds)
    return weights.card, passing[chosen]


@dataclass(frozen=True)
class _Weights:
    """A model on torch, and every backend that can be made of it."""

    request: BackendRequest
    card: ModelCard
    model: "PooledModel"
    reference: "TorchBackend"
    probes: Probes

    @classmethod
    def load(cls, request: BackendRequest) -> "_Weights":
        # torch and transformers, which a start from a converted model does without.
        from penchant.models.encoding import pretrained  # noqa: PLC0415
        from penchant.models.encoding.backends.torch import TorchBackend  # noqa: PLC0415

        card, model = pretrained.load(request.files, request.pooling)
        reference = TorchBackend(
            model, device=request.actual_device, precision="float32", workers=request.workers
        )
        most = min(_PROBE_TOKENS, card.positions)
        tokens = TextTokenizer(card.tokenizer, max_tokens=most, joint=False, pad=card.pad)(PROBES)
        return cls(request, card, model, reference, Probes(tokens, embed(reference, tokens, card.pad)))

    def passing(self, candidate: Candidate) -> Backend | None:
        if candidate == _EXACT:
            return self.reference
        return _passing(candidate, self.probes, self.card.pad, lambda: self._build(candidate))

    def _build(self, candidate: Candidate) -> Backend:
        if candidate.backend == "torch":
            return type(self.reference)(
                self.model,
                device=self.request.actual_device,
                precision=candidate.precision,
                workers=self.request.workers,
                compiled=candidate.compiled,
            )
        root, name = Path(self.request.root), conversions.key(self.request.files, self.request.pooling)
        conversion = conversions.read(root, name)
        if conversion is None:
            conversion = conversions.write(root, name, self.model, self.card, self.probes)
        return _on_openvino(conversion, candidate, self.request)


def _on_openvino(
    conversion: conversions.Conversion, candidate: Candidate, request: BackendRequest
) -> Backend:
    return OpenVinoBackend(conversion.model, precision=candidate.precision, workers=request.workers)


def _passing(candidate: Candidate, probes: Probes, pad: int, build: Callable[[], Backend]) -> Backend | None:
    """A backend that agrees with torch in float32; None, and a line in the log, where it does not or breaks."""
    try:
        backend = build()
        wrong = fault(backend, probes, pad)
    except Exception as error:  # unusual models fail in unusual ways, and torch serves them all
        wrong = f"{type(error).__name__}: {error}"
    if wrong is None:
        return backend
    _log.warning("the encoder backend %s is not used: %s", candidate, wrong)
    return None


def _measure(backends: Mapping[Candidate, Backend], tokens: Tokens, pad: int) -> dict[Candidate, float]:
    """Seconds for the probes, the backends taking turns; one alone is not measured.

    The best round of each counts, not the median: what other processes take while a server starts only adds.
    """
    if len(backends) == 1:
        return dict.fromkeys(backends, 0.0)
    rounds: list[dict[Candidate, float]] = [
        {c: timeit.timeit(lambda: embed(b, tokens, pad), number=1) for c, b in backends.items()}  # noqa: B023
        for _ in range(_ROUNDS)
    ]
    return {c: min(seconds[c] for seconds in rounds) for c in backends}


# ---------------------------------------------------------------- the first start, in a process of its own


def _prepare_elsewhere(request: BackendRequest) -> None:
    """Converts, tries and measures in another process; what it finds is in the cache. Its failure is found out again."""
    command = [sys.executable, "-m", "penchant.models.encoding.backends.choice", json.dumps(asdict(request))]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)  # noqa: S603


def _with_a_folder_to_write(request: BackendRequest) -> BackendRequest:
    """The request with a folder that can be written: its own, or one for this process alone."""
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
    import torch  # noqa: F401 - so that the work is done here

    open_backend(BackendRequest(**json.loads(sys.argv[1])))
