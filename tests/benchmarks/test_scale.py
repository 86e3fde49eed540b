"""The benchmark of scale writes the planted judgements and reports what it measured."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit

from benchmarks.scale import report
from benchmarks.scale.measure import Spec, measure
from benchmarks.scale.planted import TASTE_STD, UTILITY_STD, World, write
from penchant.models.judgements.files import load


@pytest.fixture(scope="module")
def world() -> World:
    return World.of(40, 60, rank=3, dim=48, seed=5)


def test_a_world_is_determined_by_its_seed(world: World) -> None:
    again = World.of(40, 60, rank=3, dim=48, seed=5)
    for name in ("vectors", "base", "directions", "users"):
        np.testing.assert_array_equal(getattr(again, name), getattr(world, name))
    assert world.base.std() == pytest.approx(UTILITY_STD, rel=0.25)
    personal = world.users @ world.directions.T
    assert personal.std() == pytest.approx(TASTE_STD, rel=0.25)


def test_comparisons_follow_the_utilities(world: World) -> None:
    user, pairs = world.compared(60_000, texts=slice(10, 60), seed=1)
    assert (np.bincount(user) == 1500).all()
    assert (pairs.min(), pairs.max()) == (10, 59)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    better = expit(np.abs(world.difference(user, pairs[:, 0], pairs[:, 1])))
    agreed = world.difference(user, pairs[:, 0], pairs[:, 1]) > 0
    assert agreed.mean() == pytest.approx(better.mean(), abs=0.01)


def test_a_small_size_is_measured_from_file_to_report(world: World, tmp_path) -> None:
    path, threads = tmp_path / "judgements.jsonl", torch.get_num_threads()
    spec = Spec(str(path), 1600, 40, 50, 10, 3, 48, 5, threads)
    write(world, path, 1600, texts=slice(0, 50), seed=5)
    rows = load([path])
    user, pairs = world.compared(1600, texts=slice(0, 50), seed=5)
    assert [(j.user, j.texts) for j in rows] == [
        (f"user {u}", (f"text {a}", f"text {b}")) for u, (a, b) in zip(user, pairs, strict=True)
    ]
    results = json.loads(json.dumps(measure(spec)))
    assert results["rounds"] > 4
    assert 0 < results["seconds_a_round"] < results["seconds"]["fit"]
    memory = results["peak_bytes"]
    assert 0 < memory["before"] <= memory["indexed"] <= memory["fitted"]
    judged = results["recovery"]["judged"]
    assert judged["truth"]["log_loss"] < judged["personal"]["log_loss"] < judged["consensus"]["log_loss"]

    larger = {**results, "judgements": 16_000, "seconds_a_round": 10 * results["seconds_a_round"]}
    huge = {**larger, "judgements": 32_000, "peak_bytes": {**memory, "fitted": 5 * 2**30}}
    assert report.exponent(results, larger) == pytest.approx(1)
    missed = report.write([results, larger, huge], tmp_path / "scale")
    assert missed == ["32,000 judgements took 5.00 GiB"]
    written = json.loads((tmp_path / "scale.json").read_text("utf-8"))
    assert written["growth"] == pytest.approx([1, 0])
    text = (tmp_path / "scale.md").read_text("utf-8")
    assert "| 16,000 | 40 | 50 |" in text
    assert f"| 1,600 | judged | {judged['consensus']['accuracy']:.3f} /" in text
