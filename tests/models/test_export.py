"""Exports can be read with numpy alone: the formulas of the manifest give the model's numbers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import expit

from penchant.models.bundle import Bundle, EncoderCard, Manifest
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.evaluation.few_shot import Catalogue, observe
from penchant.models.export import (
    export_model,
    export_texts,
    export_users,
    find_tastes,
    save_model,
    save_rows,
)
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.relevance import fit_relevance
from penchant.models.fitting.tuning import Choice
from penchant.models.judgements.judgement import Judgement
from penchant.models.ranking.selection import preference_probability, relevance
from penchant.models.taste.items import item_key
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.models.testing import tiny_bundle
from penchant.models.training import inspect_reward_model


@pytest.fixture(scope="module")
def planted(plant):
    return plant(n_users=60, per_user=20)


def wrapped(reward: RewardModel, **metrics: object) -> Bundle:
    return Bundle(
        reward,
        Manifest(
            "planted", EncoderCard.from_extractor(FeatureExtractor(HashingEncoder(6))), (), dict(metrics)
        ),
    )


@pytest.fixture(scope="module")
def bundle(planted) -> Bundle:
    """Bundle with two directions, three archetypes, a radial basis, and a declared taste for length."""
    data = Dataset.from_judgements(planted.judgements, planted.vectors)
    reward = Fit(data, FitOptions(rank=2, archetypes=3, rounds=12)).run().build_reward_model(temperature=1.2)
    reward = reward.with_tastes(np.eye(reward.text_prior.standardiser.width)[:, [6]], np.array([0.3]))
    return wrapped(reward, inspection=inspect_reward_model(reward, planted.judgements, planted.vectors))


class Reader:
    """A reader that uses only numpy, the exported files and the manifest's formulas."""

    def __init__(self, arrays: dict[str, np.ndarray], manifest: dict) -> None:
        self.a, self.m = arrays, manifest

    def kernel(self, a, b):
        distance = (a[:, None] - b[None]) * self.a["basis_scale"]
        return np.exp(-(distance**2).sum(2) / (2 * self.m["features"]["basis_length"] ** 2))

    def match(self, raw):
        """Return the functions of the match `[n, functions]`."""
        column, low, high = self.a["match_column"].astype(int), self.a["match_low"], self.a["match_high"]
        values = raw[:, column]
        kind = raw[:, [self.m["features"]["match"]["kind_column"]]]
        applies = ((self.a["match_kind"] == -1) | (self.a["match_kind"] == kind)) & ~np.isnan(values)
        return np.where(applies, np.clip(values, low, high) - np.clip(self.a["match_anchor"], low, high), 0.0)

    def texts(self, features):
        """Return base utilities `[n]` and loadings `[n, tastes]`."""
        dim = len(self.a["centre"])
        features, raw = features[:, :dim], features[:, dim:]
        if not raw.shape[1]:
            raw = np.full((len(features), max(1, len(self.m["features"]["match"]["columns"]))), np.nan)
        clip = self.m["features"]["clip"]
        wide = np.clip((features - self.a["centre"]) / self.a["scale"], -clip, clip)
        points = self.a["basis_texts"]
        gram = self.kernel(points, points) + self.m["features"]["basis_jitter"] * np.eye(len(points))
        basis = self.kernel(wide, points) @ np.linalg.inv(np.linalg.cholesky(gram)).T
        x = np.column_stack([wide, self.match(raw), basis, np.ones(len(wide))])
        found = x @ self.a["weights"]
        return found[:, 0], found[:, 1:]


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_reader_computes_the_model_s_utilities(bundle, planted, tmp_path, kind):
    files = save_model(export_model(bundle), tmp_path / "out", kind=kind)
    assert [file.name for file in files] == [f"model.{kind}", "manifest.json"]
    arrays = dict(np.load(files[0])) if kind == "npz" else load_file(files[0])
    manifest = json.loads(files[1].read_text("utf-8"))
    assert manifest["arrays"].keys() == arrays.keys()
    assert all(list(arrays[name].shape) == about["shape"] for name, about in manifest["arrays"].items())
    vectors = np.stack(list(planted.vectors.values()))
    base, positions = Reader(arrays, manifest).texts(vectors.astype(np.float64))
    items, prior = bundle.reward.describe(vectors), bundle.reward.population.prior
    means = arrays["population_means"]
    for c in range(3):
        expected = items.base + items.features @ prior.means[c]
        np.testing.assert_allclose(means[c, 0] + base + positions @ means[c, 1:], expected, atol=1e-6)
        known = np.column_stack([np.ones(len(base)), positions])
        spread = ((known @ arrays["population_covariances"][c]) * known).sum(1)
        expected = ((items.features @ prior.covariances[c]) * items.features).sum(1)
        np.testing.assert_allclose(spread, expected, rtol=1e-6)
    np.testing.assert_array_equal(arrays["population_weights"], prior.weights)


def test_exports_are_the_same_every_time(bundle, tmp_path):
    for kind in ("npz", "safetensors"):
        first, two = (save_model(export_model(bundle), tmp_path / name, kind=kind) for name in ("one", "two"))
        assert [file.read_bytes() for file in first] == [file.read_bytes() for file in two]


def test_users_and_texts_meet_in_a_dot_product(bundle, planted):
    texts = [("Which of these?", text) for text in planted.texts]
    rows = list(export_texts(bundle, texts, planted.vectors))
    assert [(row["context"], row["text"]) for row in rows] == texts
    base, positions = np.array([row["base"] for row in rows]), np.array([row["tastes"] for row in rows])
    items = bundle.reward.describe(
        np.stack([planted.vectors[item] for item in texts]), [item_key(*item) for item in texts]
    )
    steps: list[tuple[str, int, int]] = []
    users = list(export_users(bundle, planted.judgements, planted.vectors, lambda *step: steps.append(step)))
    assert [user["user"] for user in users] == planted.users
    assert steps[-1] == ("users", 60, 60)
    catalogue = Catalogue(bundle.reward, planted.vectors)
    for user in users[:5]:
        judgements = [j for j in planted.judgements if j.user == user["user"]]
        assert user["judgements"] == len(judgements) == 20
        observations = [observe(j, bundle.reward, catalogue) for j in judgements]
        posterior = UserPosterior.at_prior(bundle.reward.population).fold(observations)
        mean = np.array(user["mean"])
        np.testing.assert_allclose(
            mean[0] + base + positions @ mean[1:], posterior.utility(items).mean, atol=1e-7
        )
        assert user["archetypes"] == pytest.approx(posterior.archetype_weights)
        assert user["std"][0] == pytest.approx(posterior.beliefs.covariance[0, 0] ** 0.5)
    utility = np.stack([u["mean"][0] + base + positions @ np.array(u["mean"][1:]) for u in users])
    truth = planted.utility - planted.utility.mean(axis=1, keepdims=True)
    assert np.corrcoef(utility.ravel(), truth.ravel())[0, 1] > 0.8


def test_exported_texts_have_relevance_and_uncertainty(bundle, planted):
    texts = [("Which of these?", planted.texts[0]), ("Another question?", planted.texts[0])]
    vectors = dict.fromkeys(texts, planted.vectors["Which of these?", planted.texts[0]])
    known, new = export_texts(bundle, texts, vectors)
    assert (known["known"], new["known"]) == (True, False)
    assert known["std"] < new["std"]
    items = bundle.reward.describe(np.stack([vectors[item] for item in texts]), [item_key(*t) for t in texts])
    nobody = UserPosterior.at_prior(bundle.reward.population)
    np.testing.assert_allclose(
        [known["relevance"], new["relevance"]], relevance(bundle.reward, nobody, items)
    )
    residual = nobody.residual_by_archetype(items)
    assert new["std"] < (bundle.reward.population.weights @ residual)[1] ** 0.5  # the spread of z adds to it


def test_preferences_follow_the_formula(bundle, planted):
    """They agree for texts of the item memory, up to the small uncertainty of their residuals."""
    model = export_model(bundle)
    texts = [("Which of these?", text) for text in planted.texts[:10]]
    rows = list(export_texts(bundle, texts, planted.vectors))
    base, positions = np.array([row["base"] for row in rows]), np.array([row["tastes"] for row in rows])
    distance = np.column_stack([np.zeros(9), positions[:-1] - positions[1:]])
    chances = 0.0
    for c, weight in enumerate(model.arrays["population_weights"]):
        mean = base[:-1] - base[1:] + distance @ model.arrays["population_means"][c]
        variance = ((distance @ model.arrays["population_covariances"][c]) * distance).sum(1)
        variance += np.array([row["std"] ** 2 for row in rows[:-1]]) + np.array(
            [r["std"] ** 2 for r in rows[1:]]
        )
        chances += weight * expit(model.manifest["temperature"] * mean / np.sqrt(1 + np.pi * variance / 8))
    items = bundle.reward.describe(
        np.stack([planted.vectors[item] for item in texts]), [item_key(*item) for item in texts]
    )
    nobody = UserPosterior.at_prior(bundle.reward.population)
    expected = preference_probability(bundle.reward, nobody, items[range(9)], items[range(1, 10)])
    np.testing.assert_allclose(chances, expected, atol=0.03)


def test_tastes_agree_with_the_manifest(bundle):
    positions = [taste["position"] for taste in bundle.manifest.metrics["inspection"]["tastes"]]
    assert len(positions) >= 2
    np.testing.assert_array_equal(find_tastes(bundle).positions[: len(positions)], positions)


@pytest.fixture(scope="module")
def reading(asked) -> Bundle:
    """Bundle that reads prompts, with a learned direction and a taste for relevance."""
    data = Dataset.from_judgements(
        asked.judgements, asked.table, fit_relevance(asked.judgements, asked.table)
    )
    fit = Fit(data, FitOptions(rank=1, archetypes=2, rounds=10)).run()
    reward = Choice(tastes="relevance", taste_variance=0.5).apply(fit.build_reward_model(), fit)
    return wrapped(reward, inspection=inspect_reward_model(reward, asked.judgements, asked.table))


def test_a_reader_computes_utilities_with_the_match(reading, asked, tmp_path):
    files = save_model(export_model(reading), tmp_path / "out")
    arrays, manifest = dict(np.load(files[0])), json.loads(files[1].read_text("utf-8"))
    assert manifest["features"]["match"] == {
        "reads": "prompt and text, compared; unknown without a prompt",
        "columns": ["cosine", "coverage", "brief", "relevance"],
        "kind_column": 2,
        "version": "1",
    }
    assert manifest["arrays"].keys() == arrays.keys()
    assert all(list(arrays[name].shape) == about["shape"] for name, about in manifest["arrays"].items())
    assert "match" in manifest["formulas"]["x"]
    pairs = [
        *zip(asked.questions, asked.near, strict=True),
        *zip(asked.questions[1:], asked.near, strict=False),
    ]
    prior = reading.reward.population.prior
    found = {}
    for name, vectors in (
        ("with", asked.table.cross(pairs)),
        ("without", asked.table.cross(pairs)[:, : asked.table.dim]),
    ):
        base, positions = Reader(arrays, manifest).texts(vectors.astype(np.float64))
        items = reading.reward.describe(vectors)
        for c in range(2):
            mean = arrays["population_means"][c]
            expected = items.base + items.features @ prior.means[c]
            np.testing.assert_allclose(mean[0] + base + positions @ mean[1:], expected, atol=1e-6)
        found[name] = base
    assert np.ptp(found["with"] - found["without"]) > 0.5  # the match is in them


def test_exported_users_agree_with_a_model_that_reads_prompts(reading, asked):
    texts = list(asked.table)
    rows = list(export_texts(reading, texts, asked.table))
    base, positions = np.array([row["base"] for row in rows]), np.array([row["tastes"] for row in rows])
    items = reading.reward.describe(
        np.stack([asked.table[item] for item in texts]), [item_key(*item) for item in texts]
    )
    catalogue = Catalogue(reading.reward, asked.table)
    for user in list(export_users(reading, asked.judgements[:100], asked.table)):
        judgements = [j for j in asked.judgements[:100] if j.user == user["user"]]
        posterior = UserPosterior.at_prior(reading.reward.population).fold(
            [observe(j, reading.reward, catalogue) for j in judgements]
        )
        mean = np.array(user["mean"])
        np.testing.assert_allclose(
            mean[0] + base + positions @ mean[1:], posterior.utility(items).mean, atol=1e-7
        )


def test_a_bundle_that_reads_no_prompts_has_no_functions_of_the_match(bundle):
    model = export_model(bundle)
    assert {len(array) for name, array in model.arrays.items() if name.startswith("match_")} == {0}
    assert model.manifest["features"]["match"]["columns"] == []


def test_a_bundle_without_inspection_can_be_exported(extractor):
    bundle = tiny_bundle(extractor)
    model = export_model(bundle)
    np.testing.assert_allclose(model.arrays["population_covariances"][0][1:, 1:], np.eye(3), atol=1e-9)
    vectors = extractor.extract(["tea", "a longer text about tea"]).vectors
    base, positions = Reader(model.arrays, model.manifest).texts(vectors.astype(np.float64))
    np.testing.assert_allclose(base, bundle.reward.describe(vectors).base, atol=1e-9)
    assert positions.shape == (2, 3)


def test_authors_own_votes_are_left_out(extractor):
    rows = [
        Judgement("u", "", "vote", ("tea",), 1.0),
        Judgement("u", "", "vote", ("moon",), 1.0, own=True),
        Judgement("author", "", "vote", ("moon",), 1.0, own=True),
    ]
    vectors = {("", text): extractor.extract([text]).vectors[0] for text in ("tea", "moon")}
    assert [(r["user"], r["judgements"]) for r in export_users(tiny_bundle(extractor), rows, vectors)] == [
        ("u", 1)
    ]


def test_rows_are_json_lines(tmp_path):
    rows = [{"user": "änne\ud800", "mean": [1 / 3, 2.0], "n": 3, "known": True, "of": {"x": 1e-20 / 3}}]
    path = save_rows(rows, tmp_path / "users.jsonl")
    (line,) = path.read_text("utf-8").splitlines()
    assert json.loads(line) == {
        "user": "änne\ud800",
        "mean": [0.333333, 2.0],
        "n": 3,
        "known": True,
        "of": {"x": 3.33333e-21},
    }
    assert [file.name for file in tmp_path.iterdir()] == ["users.jsonl"]


def test_an_interrupted_export_leaves_no_partial_file(tmp_path):
    def rows():
        yield {"user": "a"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_rows(rows(), tmp_path / "users.jsonl")
    assert not list(tmp_path.iterdir())
