"""On CUDA, vectors equal those on a processor in any batch. The tests are skipped only without a device."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from penchant.models.encoding.backends.base import MAX_BATCH_EFFECT, MIN_COSINE
from penchant.models.encoding.encoder import Encoder
from penchant.models.encoding.loading import load_encoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

TEXTS = ["Yes!", "", "Die Katze schläft. 今天天气很好。 🎉", *("word " * n for n in range(3, 300, 11))]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exact(cache) -> Encoder:
    return load_encoder(backend="torch", precision="float32", device="cpu", cache=cache)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_cuda_agrees_with_a_processor(exact, cache, precision):
    encoder = load_encoder(precision=precision, device="cuda", cache=cache)
    assert encoder.identity == exact.identity
    found, expected = encoder.encode(TEXTS).embeddings, exact.encode(TEXTS).embeddings
    assert (found * expected).sum(1).min() >= MIN_COSINE[encoder.precision]
    separate = np.concatenate([encoder.encode([text]).embeddings for text in TEXTS])
    assert np.linalg.norm(found - separate, axis=1).max() <= MAX_BATCH_EFFECT[encoder.precision]


def test_auto_uses_the_device(cache):
    encoder = load_encoder(cache=cache)
    assert encoder.backend.startswith("torch")
    assert "cuda" in encoder.backend
    assert next(encoder._backend.forward.parameters()).is_cuda


def test_the_benchmark_reports_saturating_batch_sizes(tmp_path):
    from benchmarks.serving import encoder as benchmark  # run as python -m pytest, as scripts/test does

    out = tmp_path / "encoder"
    benchmark.main(device="cuda", rounds=3, seconds=0.0, sizes="1,8,64", peak_tflops="", out=out)
    found = json.loads(out.with_suffix(".json").read_text("utf-8"))
    saturation = found["saturation"]
    assert found["about"]["accelerator"].startswith(torch.cuda.get_device_name(0))
    assert {"torch float32", "torch bfloat16"} <= saturation["backends"].keys()
    for backend in saturation["backends"].values():
        assert set(backend["saturates"].values()) <= {1, 8, 64}
        assert all(0 < row["share_of_peak"] < 1.5 for row in backend["batches"])
        # A device gains from larger batches.
        assert backend["batches"][-1]["forward"] > backend["batches"][0]["forward"]
