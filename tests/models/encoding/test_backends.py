"""OpenVINO agrees with torch, incomplete conversions are repeated, and inaccurate backends never serve."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from penchant.models.encoding import pretrained
from penchant.models.encoding.backends import conversion
from penchant.models.encoding.backends.base import Probes, embed, find_fault
from penchant.models.encoding.backends.choice import open_backend
from penchant.models.encoding.backends.openvino import OpenVinoBackend
from penchant.models.encoding.backends.request import BackendRequest
from penchant.models.encoding.backends.torch import TorchBackend
from penchant.models.encoding.encoder import Encoder, EncoderError
from penchant.models.encoding.loading import load_encoder
from penchant.models.encoding.tokens import TextTokenizer, Tokens

TEXTS = ["a b c", "d", "e f g h i j k l m n o p " * 3, "", "b a c", "c " * 20, "zzz", "a " * 15]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def load(source: Path, cache: Path, **options: object) -> Encoder:
    return load_encoder(str(source), device="cpu", cache=cache, threads=2, **options)


def make_request(source: Path, cache: Path, **options: object) -> BackendRequest:
    defaults = {"pooling": "mean", "backend": "auto", "precision": "auto", "device": "cpu", "threads": 1}
    return BackendRequest(**{**defaults, "name": str(source), "root": str(cache), **options})


def folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


# ---------------------------------------------------------------- agreement


@pytest.mark.parametrize("model", ["bert", "llama"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("joint", [False, True])
def test_openvino_agrees_with_torch(model, pooling, joint, cache, request):
    source = request.getfixturevalue(model)
    openvino = load(source, cache, backend="openvino", precision="float32", pooling=pooling, joint=joint)
    reference = load(source, cache, backend="torch", precision="float32", pooling=pooling, joint=joint)
    assert openvino.backend == "openvino float32, 2 threads"
    assert reference.backend == "torch float32, 2 threads"
    assert openvino.identity == reference.identity
    prompts = [*TEXTS[1:], "n o p"] if joint else None
    actual, expected = (
        openvino.encode(TEXTS * 4, prompts and prompts * 4),
        reference.encode(TEXTS * 4, prompts and prompts * 4),
    )
    np.testing.assert_allclose(actual.embeddings, expected.embeddings, atol=2e-6)
    np.testing.assert_array_equal(actual.tokens, expected.tokens)
    np.testing.assert_array_equal(actual.truncated, expected.truncated)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize("model", ["bert", "llama"])
def test_a_vector_does_not_depend_on_the_batch(model, backend, cache, request):
    encoder = load(request.getfixturevalue(model), cache, backend=backend, precision="float32")
    expected = np.concatenate([encoder.encode([text]).embeddings for text in TEXTS])
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1.0, atol=1e-6)
    for texts, places in [
        (TEXTS, range(len(TEXTS))),
        (TEXTS[::-1], range(len(TEXTS))[::-1]),
        (TEXTS * 40, range(len(TEXTS))),
    ]:
        actual = encoder.encode(texts).embeddings[list(places)]
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_tokens_of_several_calls_can_be_encoded_together(bert, cache, backend):
    encoder = load(bert, cache, backend=backend, precision="float32")
    joined = Tokens.join([encoder.tokenize(TEXTS[:3]), encoder.tokenize([]), encoder.tokenize(TEXTS[3:])])
    actual, expected = encoder.encode_tokens(joined), encoder.encode(TEXTS)
    np.testing.assert_allclose(actual.embeddings, expected.embeddings, atol=1e-6)
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert actual.truncated.tolist() == expected.truncated.tolist() == [t == TEXTS[2] for t in TEXTS]
    assert encoder.encode_tokens(Tokens.join([])).embeddings.shape == (0, 16)


def test_many_threads_may_encode_at_once(bert, cache):
    from concurrent.futures import ThreadPoolExecutor

    encoder = load(bert, cache, backend="openvino", precision="float32")
    expected = [encoder.encode([text] * 5).embeddings for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda text: encoder.encode([text] * 5).embeddings, TEXTS * 4))
    for ours, theirs in zip(actual, expected * 4, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


# ---------------------------------------------------------------- inaccurate backends


class Changed:
    """A faulty backend that returns `change(vectors, batch)` instead of the reference's vectors."""

    name, workers, most_tokens = "changed", 1, 2048

    def __init__(self, reference, change, precision="float32"):
        self.reference, self.change, self.precision = reference, change, precision

    def embed(self, batches):
        return [self.change(v, b) for v, b in zip(self.reference.embed(batches), batches, strict=True)]


def rotate(angle):
    """Return a change that turns every vector by an angle in the plane of its first two coordinates."""

    def change(vectors, _):
        c, s = np.cos(angle), np.sin(angle)
        return np.concatenate(
            [vectors[:, :2] @ np.array([[c, s], [-s, c]], np.float32), vectors[:, 2:]], axis=1
        )

    return change


@pytest.fixture(scope="module")
def reference(bert, cache):
    card, model = pretrained.load_pretrained(make_request(bert, cache).files, "mean")
    backend = TorchBackend(model, device="cpu", precision="float32", workers=1)
    tokens = TextTokenizer(card.tokenizer, max_tokens=32, joint=False, pad=0)(TEXTS)
    return backend, Probes(tokens, embed(backend, tokens, 0)), card, model


@pytest.mark.parametrize(
    ("change", "precision", "expected"),
    [
        (lambda v, _: v, "float32", None),
        (rotate(1e-3), "float32", None),  # cosine ≥ cos(0.001) = 1 − 5e-7
        (rotate(0.1), "float32", "cosine"),
        (rotate(1e-2), "bfloat16", None),  # 1 − 5e-5
        (rotate(0.3), "bfloat16", "cosine"),
        (lambda v, _: v * np.float32("nan"), "float32", "not finite"),
        (lambda v, _: v[:, :-1], "float32", "wrong shape"),
        (lambda v, b: rotate(1e-3 * (len(b.rows) > 1))(v, b), "float32", "changes by"),
        (lambda v, b: rotate(1e-4 * (len(b.rows) > 1))(v, b), "bfloat16", None),
        (lambda v, b: rotate(1e-2 * (len(b.rows) > 1))(v, b), "bfloat16", "changes by"),
    ],
)
def test_faults_are_detected(reference, change, precision, expected):
    backend, probes, card, _ = reference
    actual = find_fault(Changed(backend, change, precision), probes, card.pad)
    assert (actual is None) if expected is None else (expected in actual)


@pytest.mark.parametrize("native", [(), ("openvino", "torch")], ids=["float32 alone", "bfloat16 offered"])
def test_an_inaccurate_backend_does_not_serve(native, bert, reference, tmp_path, caplog):
    """The conversion stored under this model's name belongs to another model with other vectors."""
    _, probes, card, model = reference
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    request = make_request(bert, tmp_path, native_bfloat16=native)
    with torch.no_grad():
        for parameter in model.model.embeddings.parameters():
            parameter.copy_(parameter.roll(1, dims=-1))
    conversion.save_conversion(tmp_path, conversion.compute_key(request.files, "mean"), model, card, probes)
    model.load_state_dict(state)
    with caplog.at_level(logging.WARNING):
        _, backend = open_backend(request)
    assert backend.name == "torch"
    for precision in ("float32", "bfloat16") if native else ("float32",):
        actual = re.search(
            rf"openvino {precision} is not used: the cosine to torch in float32 is (\S+), it must",
            caplog.text,
        )
        assert actual
        assert float(actual[1]) < 0.9  # far below the tolerance of bfloat16
    with pytest.raises(EncoderError, match="backend 'openvino'"):
        open_backend(make_request(bert, tmp_path, backend="openvino", native_bfloat16=native))


@pytest.mark.parametrize(
    ("options", "native", "expected"),
    [
        ({}, (), ["openvino float32", "torch float32"]),
        ({}, ("openvino",), ["openvino float32", "openvino bfloat16", "torch float32"]),
        (
            {},
            ("openvino", "torch"),
            ["openvino float32", "openvino bfloat16", "torch float32", "torch bfloat16"],
        ),
        ({"precision": "float32"}, ("openvino", "torch"), ["openvino float32", "torch float32"]),
        ({"precision": "bfloat16"}, ("openvino",), ["openvino bfloat16", "torch bfloat16"]),
        ({"precision": "bfloat16"}, (), ["torch bfloat16"]),  # torch can emulate it
        ({"backend": "openvino", "precision": "bfloat16"}, (), []),
        ({"backend": "torch"}, (), ["torch float32"]),
        ({"device": "cuda"}, (), ["torch float32", "torch bfloat16", "torch bfloat16 compiled"]),
    ],
)
def test_candidates_follow_from_the_request_and_the_processor(options, native, expected, bert, cache):
    candidates = make_request(bert, cache, native_bfloat16=native, **options).list_candidates()
    assert [str(candidate) for candidate in candidates] == expected


def test_an_unavailable_precision_is_an_error(bert, cache):
    request = make_request(bert, cache, backend="openvino", precision="bfloat16", native_bfloat16=())
    with pytest.raises(EncoderError, match="precision 'bfloat16'"):
        open_backend(request)


def test_openvino_runs_on_processors_only(bert, cache):
    with pytest.raises(EncoderError, match="device"):
        load_encoder(str(bert), backend="openvino", device="cuda", cache=cache)


# ---------------------------------------------------------------- conversions on disk


def test_a_model_is_converted_once(bert, tmp_path):
    first = load(bert, tmp_path, backend="openvino").encode(TEXTS).embeddings
    (folder,) = folders(tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(stamps) == ["card.json", "model.bin", "model.xml", "probes.npz"]
    np.testing.assert_array_equal(load(bert, tmp_path, backend="openvino").encode(TEXTS).embeddings, first)
    load(bert, tmp_path, backend="openvino", max_tokens=16, joint=True)  # the forward pass is the same
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    load(bert, tmp_path, backend="openvino", pooling="last")
    assert len(folders(tmp_path)) == 2


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "probes.npz", "card.json"])
def test_a_damaged_conversion_is_repeated(bert, cache, tmp_path, name, caplog):
    expected = load(bert, cache, backend="openvino").encode(TEXTS).embeddings
    shutil.copytree(cache, tmp_path / "copy")
    damaged = 0
    for folder in folders(tmp_path / "copy"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        damaged += 1
    with caplog.at_level(logging.WARNING):
        actual = load(bert, tmp_path / "copy", backend="openvino")
    assert "is not used" in caplog.text
    assert actual.backend.startswith("openvino")
    np.testing.assert_array_equal(actual.encode(TEXTS).embeddings, expected)
    assert len(folders(tmp_path / "copy")) == damaged  # no temporary files remain


def test_the_first_of_two_writers_wins(bert, reference, tmp_path):
    _, probes, card, model = reference
    first = conversion.save_conversion(tmp_path, "key", model, card, probes)
    stamp = first.model.stat().st_mtime_ns
    served = OpenVinoBackend(first.model, precision="float32", workers=1)
    second = conversion.save_conversion(tmp_path, "key", model, card, probes)
    assert second.model == first.model
    assert second.model.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    np.testing.assert_allclose(embed(served, probes.tokens, card.pad), probes.vectors, atol=2e-6)


def test_the_choice_is_stored_and_read(bert, tmp_path):
    request = make_request(bert, tmp_path)
    assert request.find_recorded() is None
    _, backend = open_backend(request)
    chosen = request.find_recorded()
    assert chosen is not None
    assert (chosen.backend, chosen.precision) == (backend.name, backend.precision)
    (record,) = tmp_path.glob("*.choice.json")
    seconds = json.loads(record.read_text())["seconds"]
    assert {"openvino float32", "torch float32"} <= set(seconds)
    assert min(seconds.values()) > 0
    record.write_text(json.dumps({"chosen": {"backend": "torch", "precision": "float32"}}))
    assert open_backend(request)[1].name == "torch"
    record.write_text("{")
    assert request.find_recorded() is None
    # Another request has another choice.
    assert make_request(bert, tmp_path, threads=2).find_recorded() is None


def test_a_read_only_folder_can_be_read(bert, tmp_path):
    load(bert, tmp_path, backend="openvino")
    stamp = tmp_path.stat().st_mtime_ns
    assert load(bert, tmp_path, backend="openvino").backend.startswith("openvino")
    assert tmp_path.stat().st_mtime_ns == stamp  # no write was attempted


def test_a_failed_conversion_leaves_no_files(reference, tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals((ids * mask).float().T @ ids.float())

    _, probes, card, _ = reference
    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    with pytest.raises(Exception, match="converted"):
        conversion.save_conversion(tmp_path, "key", Odd(), card, probes)
    assert (root.level, root.filters, root.handlers) == before
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_works_without_a_usable_cache(bert, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        encoder = load(bert, tmp_path / "file", backend="openvino")
    assert encoder.encode(TEXTS).embeddings.shape == (len(TEXTS), 16)
    assert "are not kept" in caplog.text
