"""The encoder benchmark takes ratios within rounds, and its texts have the stated numbers of words."""

import pytest

from benchmarks.serving import encoder, encoder_report


def test_ratios_are_taken_within_rounds():
    summary = encoder._summary([1.0, 2.0, 1.0], [2.0, 8.0, 3.0], 10)  # a slow second round is slow for both
    assert summary == {"documents_a_second": 10.0, "ratio": 3.0, "ratio_least": 2.0, "ratio_most": 4.0}


def test_texts_have_as_many_words_as_they_should():
    for work in encoder.works():
        assert [len(text.split()) for text in work.texts()] == list(work.lengths)
    assert encoder.BUSY_WORK in {work.name for work in encoder.works()}


@pytest.mark.parametrize("busy", [False, True])
def test_the_report_has_every_figure(busy):
    figures = {"documents_a_second": 12.5, "ratio": 2.5, "ratio_least": 2.0, "ratio_most": 3.0}
    row = {
        "work": "16 × 128 tokens",
        "documents": 16,
        "threads": 2,
        "busy": busy,
        "tokenizing_seconds": 0.016,
        "backends": {"anchor": figures | {"documents_a_second": 5.0}, "openvino float32": figures},
    }
    about = {
        "accelerator": None,
        "cores": 2,
        "processor": "P",
        "load_average": 1.0,
        "commit": "c",
        "versions": {"torch": "2"},
    }
    start = {"backend": "openvino float32", "seconds": 1.25, "rss_bytes": 2**29, "torch": False}
    text = encoder_report.markdown(about, [row], {"x": "no such thing"}, [start], "anchor")
    assert "| 16 × 128 tokens | 5.0 | 12.5 ×2.50 (2.00–3.00) | 0.5% of the anchor's time |" in text
    assert ("another process takes a core" in text) is busy
    assert "x does not serve here: no such thing" in text
    assert "1.2 s; 512 MiB after work; torch was not imported" in text
