"""Growing batches, measured on a processor: their costs agree with torch's counts, and the figures are consistent."""

import json

import pytest
import torch
import typer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.serving import encoder_report, saturation
from benchmarks.serving.encoder import peaks_of
from benchmarks.serving.encoder_backends import OnTorch, on_torch
from benchmarks.serving.saturation import Effort, Peak, measured, measured_peak, saturating

BRIEF = Effort(rounds=1, turn_seconds=0.0)


@pytest.fixture(scope="module")
def backends() -> dict[str, OnTorch]:
    return on_torch("cpu")[0]


def test_the_smallest_batch_within_5_percent_saturates():
    assert saturating({1: 10.0, 2: 94.0, 4: 96.0, 8: 100.0, 16: 99.0}) == 4
    assert saturating({1: 7.0}) == 1


def test_a_peak_is_measured_on_a_matrix_product():
    peak = measured_peak("float32", "cpu", (32, 64), BRIEF)
    assert peak.tflops > 0
    assert any(f"{n} × {n}, measured" in peak.source for n in (32, 64))


def test_peaks_may_be_given():
    assert peaks_of("") == {}
    assert {name: peak.tflops for name, peak in peaks_of("float32=67,bfloat16=989.5").items()} == {
        "float32": 67.0,
        "bfloat16": 989.5,
    }


@pytest.mark.parametrize("text", ["67", "float32=fast", "float16=989", "float32=0", "float32=nan"])
def test_invalid_peaks_are_refused(text):
    with pytest.raises(typer.BadParameter, match=text.split(",")[0]):
        peaks_of(text)


@pytest.mark.slow
@pytest.mark.parametrize(("documents", "length"), [(1, 128), (3, 32)])
def test_the_number_of_operations_agrees_with_torch(backends, documents, length):
    backend = backends["torch float32"]
    ids = torch.full((documents, length), 2051)
    # The counter does not support fused attention on processors.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backend.backend.forward(ids, torch.ones_like(ids))
    expected = documents * saturation.flops(backend.config, length)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_growing_batches_are_measured_and_reported(backends, tmp_path):
    sizes = (1, 2, 4)
    report = measured(backends, "cpu", sizes=sizes, length=16, squares=(256, 512), effort=BRIEF)
    assert report["peaks"].keys() == {backend.encoder.precision for backend in backends.values()}
    assert report["backends"].keys() == backends.keys()
    for name, backend in report["backends"].items():
        assert [row["documents"] for row in backend["batches"]] == list(sizes)
        assert set(backend["saturates"].values()) <= set(sizes)
        for row in backend["batches"]:
            assert row["served"] > 0
            operations = saturation.flops(backends[name].config, 16)
            assert row["tflops"] == pytest.approx(operations * row["forward"] / 1e12)
            assert 0 < row["share_of_peak"] < 5  # 1, except for the other load of the machine
    figures = {"documents_a_second": 2.0, "ratio": 1.0, "ratio_least": 1.0, "ratio_most": 1.0}
    work = {"work": "w", "documents": 1, "threads": 1, "busy": False, "tokenizing_seconds": 0.1}
    work["backends"] = {"anchor": figures, **dict.fromkeys(backends, figures)}
    out = tmp_path / "encoder"
    encoder_report.write([work], {}, [], out, "anchor", accelerator="Some Device", saturation=report)
    assert json.loads(out.with_suffix(".json").read_text("utf-8"))["saturation"] == report
    text = out.with_suffix(".md").read_text("utf-8")
    assert "on Some Device, beside" in text
    assert "## Some Device" in text
    for name, backend in report["backends"].items():
        assert f"### {name}\n\nSaturates at **{backend['saturates']['served']}** documents" in text
    assert f"{report['peaks']['float32']['tflops']:.4g} TFLOP/s, the product of two matrices of" in text


@pytest.mark.slow
def test_a_given_peak_is_not_measured(backends):
    peaks = {"float32": Peak(1e3, "given"), "bfloat16": Peak(1e3, "given")}
    report = measured(backends, "cpu", sizes=(1,), length=16, squares=(), peaks=peaks, effort=BRIEF)
    (row,) = report["backends"]["torch float32"]["batches"]
    assert report["peaks"]["float32"] == {"tflops": 1e3, "source": "given"}
    assert row["share_of_peak"] == pytest.approx(row["tflops"] / 1e3)


def test_a_batch_without_a_figure_is_reported_as_too_large():
    row = {"documents": 4096, "served": 12.34, "forward": None, "tflops": None, "share_of_peak": None}
    backend = {"precision": "bfloat16", "documents_at_once": 256, "batches": [row]}
    backend["saturates"] = {"served": 4096, "forward": 64}
    peaks = {"bfloat16": {"tflops": 700.0, "source": "measured"}}
    text = encoder_report.saturated({"length": 128, "peaks": peaks, "backends": {"torch bfloat16": backend}})
    assert "| 4096 | 12.3 | out of memory | out of memory | out of memory |" in text
    assert "attention's products stay in float32" in text
