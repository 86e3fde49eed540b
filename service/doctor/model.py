"""Checks of whether the model works here: its bundle, its encoders, FAISS, and the number of threads."""

import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from penchant.models.bundle import Bundle, BundleError
from penchant.service.bundles.loading import check_match, load_bundle, load_extractor
from penchant.service.bundles.signal import find_signal, load_relevance_model
from penchant.service.bundles.stored_bundles import read_stored_bundle
from penchant.service.claims import StartError
from penchant.service.doctor.settings import Finding
from penchant.service.settings import Settings

_QUESTION: Final = "What is the capital of France?"
_ANSWERS: Final = (
    "The capital of France is Paris.",
    "Knead the dough for ten minutes and let it rest overnight.",
)
_CGROUP: Final = Path("/sys/fs/cgroup/cpu.max")


def check_model(
    settings: Settings, active: str | None = None, archive: bytes | None = None
) -> Iterator[Finding]:
    """Load bundle and encoder as a server does. Cost: seconds.

    Args:
        settings: Settings, which may name a bundle.
        active: Version of the store's active bundle, used if the settings name none.
        archive: Its archive. None if the store does not hold it.
    """
    started = time.perf_counter()
    stored = active if settings.bundle is None else None
    try:
        bundle = load_bundle(settings) if stored is None else read_stored_bundle(archive, stored)
    except (StartError, BundleError) as error:
        advice = "choose another PENCHANT_BUNDLE, or unset it to use the shipped one"
        if stored is not None:
            advice = "rank with another one by `penchant rollback` or PENCHANT_BUNDLE"
        yield Finding("bundle", "failed", str(error), advice)
        return
    seconds = time.perf_counter() - started
    yield Finding(
        "bundle", "ok", f"{bundle.manifest.name} {bundle.version}, hash verified, read in {seconds:.2f} s"
    )
    yield _check_encoder(settings, bundle)
    if settings.relevance_model is not None:
        yield _check_relevance(settings, bundle)


def _check_encoder(settings: Settings, bundle: Bundle) -> Finding:
    started = time.perf_counter()
    try:
        extractor = load_extractor(settings, bundle)
        check_match(bundle, extractor)
        loaded = time.perf_counter()
        extractor.extract(["How long does one text take?"], [""])
    except StartError as error:
        advice = (
            "set PENCHANT_ENCODER to the encoder that the bundle was fitted with, or choose another bundle"
        )
        return Finding("encoder", "failed", str(error), advice)
    except Exception as error:  # a library may raise anything, and the remaining checks must run
        advice = "try PENCHANT_ENCODER_DEVICE=cpu, and check that there is enough memory"
        return Finding("encoder", "failed", f"it cannot encode a text: {type(error).__name__}", advice)
    encode = (time.perf_counter() - loaded) * 1e3
    card = bundle.manifest.encoder
    return Finding(
        "encoder", "ok", f"{card.name}, loaded in {loaded - started:.1f} s, one text in {encode:.0f} ms"
    )


def _check_relevance(settings: Settings, bundle: Bundle) -> Finding:
    """Load the relevance model, and score a right and a wrong answer, which tells whether its scale is as declared."""
    started = time.perf_counter()
    try:
        signal = find_signal(settings)
        if signal is not None:
            signal.add_to(bundle)
        model = load_relevance_model(settings)
        if model is None:
            return Finding("relevance", "ok", "no relevance model")
        loaded = time.perf_counter()
        right, wrong = model.score([_QUESTION] * 2, _ANSWERS).tolist()
    except StartError as error:
        advice = "correct PENCHANT_RELEVANCE_MODEL, or unset it to rank without this signal"
        return Finding("relevance", "failed", str(error), advice)
    except Exception as error:  # a library may raise anything, and the remaining checks must run
        advice = "try PENCHANT_ENCODER_DEVICE=cpu, and check that there is enough memory"
        return Finding("relevance", "failed", f"it cannot score a text: {type(error).__name__}", advice)
    score = (time.perf_counter() - loaded) * 1e3 / len(_ANSWERS)
    detail = (
        f"{settings.relevance_model}, loaded in {loaded - started:.1f} s, one text in {score:.0f} ms; a right answer "
        f"has {right:.2f}, a wrong one {wrong:.2f}"
    )
    if right <= wrong:
        advice = "choose a cross-encoder that is trained to score answers: this one prefers the wrong answer"
        return Finding("relevance", "warning", detail, advice)
    return Finding("relevance", "ok", detail)


def check_neighbours() -> Finding:
    """Check that FAISS can be imported, and is installed from only one of its packages."""
    installed = [name for name in ("faiss-cpu", "faiss-gpu") if _is_installed(name)]
    if len(installed) > 1:
        advice = "pip uninstall faiss-cpu faiss-gpu, then install penchant[cpu] or penchant[gpu]"
        return Finding("neighbours", "warning", "faiss-cpu and faiss-gpu are both installed", advice)
    try:
        import faiss  # noqa: PLC0415 - an extra
    except ImportError as error:
        advice = "pip install 'penchant[cpu]' (or gpu, if available)"
        return Finding("neighbours", "warning", f"FAISS cannot be imported: {error.name or error}", advice)
    return Finding("neighbours", "ok", f"FAISS {faiss.__version__}")


def check_threads() -> Finding:
    """Check that there are no more threads than cores. Torch is asked only if the encoder has loaded it."""
    cores, torch = usable_cores(), sys.modules.get("torch")
    configured = os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None:
        threads = torch.get_num_threads()
    else:
        threads = int(configured) if configured.isdigit() else max(1, int(cores))
    detail = f"{threads} threads on {cores:g} cores"
    if threads > max(1.0, cores):
        advice = f"set OMP_NUM_THREADS={max(1, int(cores))}: with more threads than cores, they slow each other down"
        return Finding("threads", "warning", detail, advice)
    return Finding("threads", "ok", detail)


def usable_cores() -> float:
    """Return the number of cores that this process may use, within its container's share."""
    allowed = (
        float(len(os.sched_getaffinity(0)))
        if hasattr(os, "sched_getaffinity")
        else float(os.cpu_count() or 1)
    )
    try:
        quota, period = _CGROUP.read_text("ascii").split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else min(allowed, float(quota) / float(period))


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
