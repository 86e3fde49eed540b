"""Whole runs on a small data set: figures, files, resumption, and probes that can fail."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.personalization import robustness
from benchmarks.personalization.plan import Options
from benchmarks.personalization.run import Place, measure
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder

SET = "jester5k"
PNG = b"\x89PNG\r\n\x1a\n"


def test_probes_pass_where_people_differ_and_fail_on_reversed_labels(run) -> None:
    assert run("curves,probes") == []
    failures = run("probes", reverse_labels=True)
    assert any("30 above 0 labels" in failure for failure in failures)
    assert any("reversed labels below 0" in failure for failure in failures)
    assert any("knows no user" in failure for failure in failures)


def test_the_results_name_their_inputs(run, place) -> None:
    run("curves,probes")
    results = json.loads(place.out.with_suffix(".json").read_text("utf-8"))
    assert len(results["about"]["sets"][SET]) == 64
    assert results["about"]["versions"].keys() >= {"python", "torch", "numpy"}
    assert results["about"]["commit"]
    (curve,) = results["curves"]
    assert (curve["set"], curve["split"], curve["repetitions"]) == (SET, "warm", 1)
    points = {p["k"]: p for p in curve["systems"]["penchant"]["curve"]}
    assert list(points) == [0, 3, 10, 30, 100]
    for figure in (points[30]["accuracy"], points[30]["log_loss"], points[30]["user_log_loss"]):
        assert figure[1] <= figure[0] <= figure[2]
    assert points[30]["accuracy"][0] > points[0]["accuracy"][0] + 0.15
    # Labels distinguish these users, and the paired difference exceeds its interval.
    assert curve["with_labels"][0]["user_log_loss"][2] < 0
    assert curve["against"]["bt"][3]["accuracy"][1] > 0


def test_the_table_and_the_figures_show_the_results(run, place) -> None:
    run("curves,probes")
    table = place.out.with_suffix(".md").read_text("utf-8")
    results = json.loads(place.out.with_suffix(".json").read_text("utf-8"))
    first = results["curves"][0]["systems"]["penchant"]["curve"][0]
    expected_row = f"| penchant | {first['accuracy'][0]:.3f} / {first['log_loss'][0]:.3f} |"
    assert expected_row in table
    for title in ("Gain from labels", "Comparison with the peers", "The floor", "Goals", "Sanity probes"):
        assert f"## {title}" in table
    assert (place.pictures / f"{SET}.png").read_bytes().startswith(PNG)
    assert ElementTree.parse(place.pictures / f"{SET}.svg").getroot().tag.endswith("svg")


def test_an_interrupted_run_can_be_continued(run, place, capsys) -> None:
    run("curves", systems="bt", repetitions=2)
    capsys.readouterr()
    (lost,) = (place.cache / "cells").glob(f"curves/{SET}/warm.1.bt.json")
    lost.unlink()
    run("curves", systems="bt", repetitions=2)
    output = capsys.readouterr().out
    assert "2 cells, 1 to compute" in output
    assert f"curves/{SET}/warm.1.bt" in output
    run("curves", systems="bt", repetitions=2)
    assert "2 cells, 0 to compute" in capsys.readouterr().out
    run("curves", systems="bt", repetitions=2, force=True)
    assert "2 cells, 2 to compute" in capsys.readouterr().out


def test_repetitions_are_averaged(run, place) -> None:
    curves = []
    for repetitions in (1, 2):
        run("curves", systems="bt", repetitions=repetitions)
        results = json.loads(place.out.with_suffix(".json").read_text("utf-8"))["curves"][0]
        curves.append(results["systems"]["bt"]["curve"][0]["accuracy"])
    assert curves[0][0] != curves[1][0]
    assert results["repetitions"] == 2


@pytest.mark.slow
def test_several_processes_give_the_results_of_one(run, place) -> None:
    run("curves", systems="bt", repetitions=2, force=True)
    sequential = json.loads(place.out.with_suffix(".json").read_text("utf-8"))["curves"][0]["systems"]["bt"][
        "curve"
    ]
    run("curves", systems="bt", repetitions=2, force=True, jobs=2)
    together = json.loads(place.out.with_suffix(".json").read_text("utf-8"))["curves"][0]["systems"]["bt"][
        "curve"
    ]
    assert sequential == together


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no nobody among penchant"):
        Options.of("cold", 1, "nobody", "curves")
    with pytest.raises(ValueError, match="no tepid among cold, warm"):
        Options.of("tepid", 1, "bt", "curves")


def test_a_missing_data_set_is_named(data) -> None:
    from benchmarks.personalization.data import sources

    with pytest.raises(FileNotFoundError, match=f"no set moon; it holds {SET}"):
        sources(data, ["moon"], "identity", data)


def test_fitting_is_timed_against_lore(data) -> None:
    from benchmarks.personalization import speed
    from benchmarks.personalization.data import items, sources
    from benchmarks.personalization.task import Task
    from penchant.models.evaluation.split import split

    (source,) = sources(data, [SET], "identity", data)
    judgements = source.judgements()[:1500]
    rng = np.random.default_rng(0)
    vectors = {item: rng.normal(size=48).astype(np.float16) for item in items(judgements)}
    results = speed.measure(Task(SET, "warm", 0, split(judgements, "warm", 0), vectors), rounds=1)
    assert all(len(times) == 1 and times[0] > 0 for times in results["seconds"].values())
    one_fit, loop = results["seconds"]["penchant, one fit of rank 4"][0], results["seconds"]["LoRe, loop"][0]
    assert results["ratios"]["LoRe, loop / penchant, one fit of rank 4"] == pytest.approx(
        loop / one_fit, abs=0.01
    )
    assert len(results["ratios"]) == 6


@pytest.mark.slow
def test_corrupted_labels_are_measured(tmp_path, write_set) -> None:
    write_set(tmp_path / "sets" / "polis_opendata_en")
    failures = measure(
        tmp_path / "sets",
        None,
        Options.of("warm", 1, "penchant", "robustness"),
        encoder="hashing",
        extractor=lambda: FeatureExtractor(HashingEncoder()),
        place=Place(tmp_path / "out", tmp_path / "pictures", tmp_path / "cache"),
    )
    assert failures == []
    results = json.loads((tmp_path / "out.json").read_text("utf-8"))["robustness"]
    assert {(row["variant"], row["k"]) for row in results} == {
        (variant, k) for variant in robustness.VARIANTS[1:] for k in (0, 10)
    }
    assert "one account adds 1,000 judgements" in (tmp_path / "out.md").read_text("utf-8")
