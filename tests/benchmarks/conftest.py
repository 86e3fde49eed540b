"""Fixtures for the benchmarks: a small data set with known tastes and the weight-free encoder, to run in seconds."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.personalization.plan import Options
from benchmarks.personalization.run import Place, measure
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder

TOPICS = ["cats", "dogs", "trains", "soup", "opera", "tennis"]
SET = "jester5k"  # one of the sets that are probed

Run = Callable[..., list[str]]


def _write_set(folder: Path, *, users: int = 220, texts: int = 40, each: int = 36, seed: int = 0) -> None:
    """Write ratings: half of the users like the first three topics, the others the rest. All like the word `lovely`."""
    rng = np.random.default_rng(seed)
    named, x = [], np.zeros((texts, 7))
    for i in range(texts):
        topics, lovely = rng.choice(6, 2, replace=False), rng.integers(2)
        named.append(f"{TOPICS[topics[0]]} and {TOPICS[topics[1]]} {i}: {'lovely' if lovely else 'awful'}")
        x[i, topics], x[i, 6] = 1, 2 * lovely - 1
    folder.mkdir(parents=True)
    with gzip.open(folder / "data.jsonl.gz", "wt", encoding="utf-8") as file:
        for user in range(users):
            side = 2 * rng.choice([-1, 1])
            taste = np.array([side] * 3 + [-side] * 3 + [0.7])
            for i in rng.choice(texts, each, replace=False):
                rating = float(np.clip(np.round(x[i] @ taste + rng.normal()), -5, 5))
                row = {"user": f"u{user}", "context": "Like it?", "item": named[i], "rating": rating}
                file.write(json.dumps(row) + "\n")


@pytest.fixture(scope="session")
def write_set() -> Callable[..., None]:
    """Writes a data set into a new folder."""
    return _write_set


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    _write_set(folder / SET)
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Output folder that all tests of whole runs share, so that each computes only its new cells."""
    folder = tmp_path_factory.mktemp("run")
    return Place(folder / "results" / "personalization", folder / "pictures", folder / "cache")


@pytest.fixture(scope="session")
def run(data: Path, place: Place) -> Run:
    """Runs the benchmark, as in `run("curves", systems="bt")`."""

    def measured(
        parts: str,
        *,
        systems: str = "penchant,bt",
        repetitions: int = 1,
        reverse_labels: bool = False,
        **more,
    ) -> list[str]:
        return measure(
            data,
            None,
            Options.of("warm", repetitions, systems, parts, reverse_labels=reverse_labels),
            encoder="hashing",
            extractor=lambda: FeatureExtractor(HashingEncoder()),
            place=place,
            **more,
        )

    return measured
