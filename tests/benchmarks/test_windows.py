"""The benchmark of windows on planted questions and answers, with the weight-free encoder."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.windows import ANSWERS, QUESTIONS, Embeddings, format_markdown, measure, ndcg, place_of
from penchant.models.encoding.encoder import Encoder
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.match import LATER_WINDOW

FILLER = " ".join(f"filler{i}" for i in range(8))


def load(max_windows: int) -> Encoder:
    return HashingEncoder(dim=512, max_tokens=8, max_windows=max_windows)


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data sets in which the end of a long text answers the prompt, where an encoder of one window never looks."""
    topics = ["tea", "rain", "moon"]
    documents = [f"{FILLER} {topic} {topic} {topic} {topic}" for topic in topics]
    questions = [
        {"query": topic, "documents": documents, "relevance": [4 * (i == n) for i in range(3)]}
        for n, topic in enumerate(topics)
    ]
    write(tmp_path / QUESTIONS, questions)
    for name in ANSWERS:
        rows = [
            {"user": "u", "context": topic, "chosen": document, "rejected": f"{topic} in short"}
            for topic, document in zip(topics, documents, strict=True)
        ]
        write(tmp_path / name / "data.jsonl.gz", rows)
    return tmp_path


def test_windows_find_what_a_cut_hides(data: Path) -> None:
    results = measure(load, data, rounds=1)
    questions = results["questions"]
    assert (questions["questions"], questions["documents"], questions["long"]) == (3, 3, 3)
    assert questions["ndcg"]["match"] == questions["ndcg"]["best"] == questions["ndcg"]["mean"] == 1.0
    assert questions["ndcg"]["cut"] == pytest.approx(
        (1 + 1 / math.log2(3) + 1 / 2) / 3
    )  # ties keep the order
    assert questions["gain"] == pytest.approx(1 - questions["ndcg"]["cut"])
    for name in ANSWERS:
        answers = results["answers"][name]
        assert (answers["answers"], answers["long"], answers["prompts"]) == (6, 3, 3)
        assert answers["pairs"] == {"cut": 0.5, "mean": 1.0, "best": 1.0, "match": 1.0}
        assert answers["first"] == {"cut": 0.0, "mean": 1.0, "best": 1.0, "match": 1.0}
    assert [row["tokens"] for row in results["cost"]] == [8, 16, 32, 64]
    assert results["cost"][0]["relative"] == 1.0
    about = {"processor": "a processor", "commit": "c0ffee", "versions": {"python": "3"}}
    text = format_markdown(results | {"about": about})
    assert "| 8 windows, best window | 1.0000 | 1.0000 | 1.000 | 1.0000 | 1.000 |" in text
    assert text.count("\n| ") == 4 + 4 + 2  # two tables with their heads


def test_short_texts_have_equal_embeddings_from_both() -> None:
    embeddings = Embeddings(load(1), load(8), ["tea", FILLER + " rain", "moon"])
    assert embeddings.is_long.tolist() == [False, True, False]
    np.testing.assert_array_equal(embeddings.cut[[0, 2]], embeddings.mean[[0, 2]])
    cosines = embeddings.compute_cosines(load(1).encode(["rain", "moon"]).embeddings)
    assert cosines["best"][1, 0] > cosines["cut"][1, 0] == 0
    assert cosines["match"][1, 0] == pytest.approx(cosines["best"][1, 0] - LATER_WINDOW)
    np.testing.assert_array_equal(cosines["match"][[0, 2]], cosines["cut"][[0, 2]])


def test_ndcg_agrees_with_a_sum_by_hand() -> None:
    """Gains 7, 3, 7, 0, 1, 3 sum to 13.8483 when discounted, and in the ideal order to 14.5954."""
    relevance = np.array([3.0, 2, 3, 0, 1, 2])
    assert ndcg(np.arange(6, 0, -1.0), relevance) == pytest.approx(13.8483 / 14.5954, abs=1e-5)
    assert ndcg(relevance, relevance) == 1.0
    assert ndcg(relevance, np.zeros(6)) == 0.0


def test_ties_count_half() -> None:
    cosines = np.array([0.5, 0.9, 0.5, 0.1])
    assert [place_of(cosines, own) for own in range(4)] == [1.5, 0, 1.5, 3]
