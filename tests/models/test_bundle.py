"""Loading a bundle returns exactly what was saved, or raises a `BundleError`."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from penchant.models.bundle import FORMATS, Bundle, BundleError, EncoderCard, round_trip
from penchant.models.encoding.extract import extract_text_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.match import BRIEF, MATCH_NAMES
from penchant.models.fitting.relevance import KNOTS, make_basis
from penchant.models.ranking.selection import probability_best, relevance
from penchant.models.taste.items import item_key
from penchant.models.taste.observations import Pair, Rating, RatingScale, Vote
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior, RadialBasis
from penchant.models.testing import tiny_bundle

WIDTH = 2 * len(KNOTS)
"""Number of functions of the match: for each kind of prompt, the segments of the cosine and the coverage."""

INDUCING = 4
TEXTS = ["A short answer.", "A much longer answer, with reasons: because it helps.", "No!", "Why not?"]


@pytest.fixture
def bundle(rng, extractor) -> Bundle:
    """Bundle with a memory, archetypes, scales, flip rates, a radial basis, a dropped feature and a temperature."""
    tiny = tiny_bundle(extractor)
    q = tiny.reward.q
    prior = tiny.reward.text_prior
    scale = prior.standardiser.scale.copy()
    scale[5] = np.inf
    basis = RadialBasis(rng.normal(size=(INDUCING, extractor.dim)), np.full(extractor.dim, 0.1), 1.5)
    keys = [item_key("context", text) for text in TEXTS[:2]]

    def with_basis(rows: np.ndarray, axis: int, spread: float) -> np.ndarray:
        """Return the rows with random numbers for the radial features inserted before the constant."""
        shape = list(rows.shape)
        shape[axis] = INDUCING
        return np.insert(rows, [-1] * INDUCING, rng.uniform(0.1, 1, shape) * spread, axis=axis)

    reward = replace(
        tiny.reward,
        text_prior=LinearTextPrior(
            replace(prior.standardiser, scale=scale, basis=basis),
            with_basis(prior.weights, 0, 1.0),
            with_basis(prior.prior_variance, 0, 1.0),
            with_basis(rng.normal(0, 0.01, prior.learned.shape), 1, 0.01).astype(np.float32),
            prior.residual_variance,
        ),
        loadings=with_basis(tiny.reward.loadings, 0, 0.0),
        population=replace(
            tiny.reward.population,
            weights=np.array([0.3, 0.7]),
            means=rng.normal(size=(2, q)),
            precisions=np.stack([np.eye(q), 2 * np.eye(q)]),
        ),
        temperature=1.7,
        scales={
            "default": RatingScale(0.0, 0.4, 0.5),
            "stars, of five": RatingScale(0.1, 0.2, 0.3),
            "Größe": RatingScale(-0.1, 1.2, 0.9),
        },
        memory=ItemMemory(
            {keys[1]: 0, keys[0]: 1}, rng.normal(size=(2, 3)), rng.uniform(0.1, 0.2, size=(2, 3))
        ),
        flips={"default": 0.02, "Größe": 0.3, "two\nlines": 0.0},
    )
    manifest = replace(
        tiny.manifest, data=({"name": "set", "licence": "CC BY 4.0"},), metrics={"cold": {"accuracy": 0.5}}
    )
    return Bundle(reward, manifest)


@pytest.fixture
def saved(bundle, tmp_path) -> Path:
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def predictions(reward: RewardModel, extractor: FeatureExtractor) -> list[np.ndarray]:
    keys = [item_key("context", text) for text in TEXTS]
    items = reward.describe(extractor.extract(TEXTS).vectors, keys)
    posterior = UserPosterior.at_prior(reward.population)
    posterior = posterior.learn(Pair(items[1], items[0], flip=reward.flip("Größe"))).learn(Vote(items[2], -1))
    posterior = posterior.learn(Rating(items[3], 0.4, reward.rating_scale("stars, of five")))
    utility = posterior.utility(items)
    return [
        relevance(reward, posterior, items),
        probability_best(reward, posterior, items),
        utility.mean,
        utility.std,
        posterior.archetype_weights,
    ]


# ---------------------------------------------------------------- round trip


def test_a_loaded_bundle_predicts_like_the_saved_one(bundle, saved, extractor):
    loaded = Bundle.load(saved)
    # Bit for bit like the model rounded for storage, and close to the one in memory.
    for actual, exact, near in zip(
        predictions(loaded.reward, extractor),
        predictions(round_trip(bundle.reward), extractor),
        predictions(bundle.reward, extractor),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, exact)
        np.testing.assert_allclose(actual, near, rtol=1e-3, atol=1e-4)


def test_arrays_of_any_memory_layout_are_restored(bundle, extractor, tmp_path):
    """Some arrays of a fit are transposed views, and safetensors writes memory in its order."""
    prior, population, memory = bundle.reward.text_prior, bundle.reward.population, bundle.reward.memory
    crooked = replace(
        bundle.reward,
        text_prior=replace(
            prior,
            weights=np.asfortranarray(prior.weights),
            prior_variance=np.asfortranarray(prior.prior_variance),
            learned=np.moveaxis(np.ascontiguousarray(np.moveaxis(prior.learned, 1, 0)), 0, 1),
        ),
        population=replace(population, means=np.asfortranarray(population.means)),
        loadings=np.asfortranarray(bundle.reward.loadings),
        memory=replace(memory, means=np.asfortranarray(memory.means)),
    )
    again = Bundle(crooked, bundle.manifest)
    again.save(tmp_path / "crooked")
    assert again.version == bundle.version
    for actual, expected in zip(
        predictions(Bundle.load(tmp_path / "crooked").reward, extractor),
        predictions(round_trip(bundle.reward), extractor),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


def test_version_and_manifest_survive(bundle, saved):
    loaded = Bundle.load(saved)
    assert loaded.version == bundle.version
    assert loaded.manifest == bundle.manifest
    assert loaded.reward.scales == bundle.reward.scales
    assert loaded.reward.flips == bundle.reward.flips
    assert loaded.reward.temperature == 1.7
    assert (loaded.reward.q, loaded.reward.rank) == (bundle.reward.q, bundle.reward.rank)
    assert set(loaded.reward.memory.rows) == set(bundle.reward.memory.rows)
    assert loaded.manifest.encoder.pooling == "mean"


def test_saving_again_writes_the_same_bytes(saved, tmp_path):
    Bundle.load(saved).save(tmp_path / "copy")
    for name in ("manifest.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (saved / name).read_bytes()


def test_only_the_two_files_are_left(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "model.safetensors"]


def test_the_version_depends_on_the_content_only(bundle, extractor):
    assert bundle.version.startswith("b-")
    assert len(bundle.version) == 18
    again = Bundle(bundle.reward, replace(bundle.manifest, name="another name", metrics={}))
    assert again.version == bundle.version  # the name does not change the results
    warmer = Bundle(replace(bundle.reward, temperature=1.8), bundle.manifest)
    other = FeatureExtractor(HashingEncoder(max_tokens=32))
    moved = Bundle(bundle.reward, replace(bundle.manifest, encoder=EncoderCard.from_extractor(other)))
    assert len({bundle.version, warmer.version, moved.version}) == 3


def test_the_card_names_the_encoder(extractor):
    card = EncoderCard.from_extractor(extractor)
    encoder = extractor.encoder
    assert (card.name, card.identity, card.max_tokens) == ("hashing", encoder.identity, 256)
    assert card.features == extractor.identity
    assert not card.joint
    assert card.max_windows == 1


def test_a_bundle_remembers_its_windows(tmp_path):
    bundle = tiny_bundle(FeatureExtractor(HashingEncoder(max_windows=8)))
    bundle.save(tmp_path / "windows")
    loaded = Bundle.load(tmp_path / "windows")
    assert loaded.manifest.encoder.max_windows == 8
    assert loaded.version == bundle.version != tiny_bundle(FeatureExtractor(HashingEncoder())).version


def test_a_manifest_without_windows_means_one(saved, bundle):
    """Bundles of earlier versions have no `max_windows`. They load unchanged, with the same version."""
    rewrite(saved, lambda manifest: manifest["encoder"].pop("max_windows"))
    loaded = Bundle.load(saved)
    assert loaded.manifest.encoder == bundle.manifest.encoder
    assert loaded.version == bundle.version


def test_optional_parts_of_a_bundle_can_be_absent(extractor, tmp_path):
    tiny = tiny_bundle(extractor, rank=0)
    tiny.save(tmp_path / "tiny")
    loaded = Bundle.load(tmp_path / "tiny")
    assert loaded.version == tiny.version
    assert loaded.reward.memory.rows == {}
    assert loaded.reward.flips == {}
    assert loaded.reward.text_prior.standardiser.basis is None
    assert loaded.reward.rank == 0


def test_a_bundle_replaces_another_in_place(bundle, saved, extractor):
    tiny = tiny_bundle(extractor)
    tiny.save(saved)
    assert Bundle.load(saved).version == tiny.version != bundle.version


# ---------------------------------------------------------------- match


@pytest.fixture
def reading(rng, bundle) -> Bundle:
    """Bundle that reads prompts."""
    prior = bundle.reward.text_prior
    own = rng.uniform(0, 1, (40, len(MATCH_NAMES))).astype(np.float16)
    own[:, BRIEF] = np.arange(40) % 2
    match = make_basis(own)
    dim, w = len(prior.standardiser.centre), len(match)

    def with_match(rows: np.ndarray, axis: int, spread: float) -> np.ndarray:
        """Return the rows with random numbers for the match inserted after the features of the text."""
        shape = list(rows.shape)
        shape[axis] = w
        return np.insert(rows, [dim] * w, rng.uniform(0.1, 1, shape) * spread, axis=axis)

    reward = replace(
        bundle.reward,
        text_prior=LinearTextPrior(
            replace(prior.standardiser, match=match),
            with_match(prior.weights, 0, 1.0),
            with_match(prior.prior_variance, 0, 1.0),
            with_match(prior.learned, 1, 0.01).astype(np.float32),
            prior.residual_variance,
        ),
        loadings=with_match(bundle.reward.loadings, 0, 1.0),
    )
    return Bundle(reward, bundle.manifest)


@pytest.fixture
def saved_reading(reading, tmp_path) -> Path:
    reading.save(tmp_path / "reading")
    return tmp_path / "reading"


def test_a_bundle_that_reads_prompts_keeps_its_match(reading, saved_reading, extractor):
    manifest = json.loads((saved_reading / "manifest.json").read_text())
    assert manifest["format"] == FORMATS[1] == 3
    loaded = Bundle.load(saved_reading)
    assert loaded.version == reading.version
    items = [("Why not?", text) for text in TEXTS] + [("", TEXTS[0])]
    vectors = np.stack(list(extract_text_features(items, extractor).values()))
    here, there = reading.reward.text_prior.standardiser, loaded.reward.text_prior.standardiser
    assert here.match is not None
    np.testing.assert_array_equal(there(vectors)[:, there.matched], here(vectors)[:, here.matched])
    exact = round_trip(reading.reward).describe(vectors)
    for part in ("base", "base_variance", "directions", "direction_variance"):
        np.testing.assert_array_equal(getattr(loaded.reward.describe(vectors), part), getattr(exact, part))
    assert np.ptp(exact.base[[0, 4]]) > 0  # the same text with and without a prompt


def test_a_bundle_of_format_2_is_what_it_was(extractor, bundle, saved, tmp_path):
    """Its bytes, and so its version, are those that were written before there was a match."""
    tiny = tiny_bundle(extractor)
    assert tiny.version == "b-e0dcbf888be8bdb3"
    tiny.save(tmp_path / "tiny")
    for folder in (saved, tmp_path / "tiny"):
        rewrite(folder, lambda manifest: manifest["encoder"].pop("match"))
        assert json.loads((folder / "manifest.json").read_text())["format"] == 2
        assert not any(name.startswith("match.") for name in load_file(folder / "model.safetensors"))
        loaded = Bundle.load(folder)
        assert loaded.reward.text_prior.standardiser.match is None
        assert loaded.manifest.encoder.match == ""
    assert Bundle.load(tmp_path / "tiny").version == "b-e0dcbf888be8bdb3"
    assert Bundle.load(saved).version == bundle.version


# ---------------------------------------------------------------- refusals


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def forge(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the arrays and correct all hashes, as a faulty writer would."""
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    weights = save(arrays)
    (folder / "model.safetensors").write_bytes(weights)

    def update(manifest: dict) -> None:
        digest = hashlib.sha256(weights)
        manifest["weights_sha256"] = digest.hexdigest()
        digest.update(manifest["encoder"]["features"].encode())
        manifest["version"] = f"b-{digest.hexdigest()[:16]}"

    rewrite(folder, update)


def test_a_missing_bundle_or_file_is_refused(saved, tmp_path):
    with pytest.raises(BundleError, match="cannot read bundle"):
        Bundle.load(tmp_path / "missing")
    for name in ("manifest.json", "model.safetensors"):
        folder = tmp_path / name
        shutil.copytree(saved, folder)
        (folder / name).unlink()
        with pytest.raises(BundleError, match=name):
            Bundle.load(folder)


def test_a_flipped_bit_of_the_weights_is_refused(saved):
    weights = bytearray((saved / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (saved / "model.safetensors").write_bytes(weights)
    with pytest.raises(BundleError, match="weights have sha256"):
        Bundle.load(saved)


def test_a_truncated_file_is_never_read(saved):
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="weights have sha256"):
        Bundle.load(saved)
    (saved / "model.safetensors").write_bytes(whole)
    manifest = (saved / "manifest.json").read_bytes()
    (saved / "manifest.json").write_bytes(manifest[: len(manifest) // 2])
    with pytest.raises(BundleError, match="cannot read bundle"):
        Bundle.load(saved)


def test_a_killed_writer_leaves_the_old_bundle_or_a_refused_one(bundle, saved, extractor, tmp_path):
    """Files are written under another name and renamed, the manifest last, so a mixture is never accepted."""
    tiny_bundle(extractor).save(tmp_path / "new")
    # If it dies while writing the weights, the partial file has another name.
    (saved / "model.safetensors.partial").write_bytes(b"half")
    assert Bundle.load(saved).version == bundle.version
    # It may also die between the weights and the manifest.
    shutil.copy(tmp_path / "new" / "model.safetensors", saved)
    with pytest.raises(BundleError, match="weights have sha256"):
        Bundle.load(saved)


@pytest.mark.parametrize("number", [FORMATS[-1] + 1, 0, "1", None])
def test_another_format_is_refused(saved, number):
    rewrite(saved, lambda m: m.update(format=number))
    with pytest.raises(BundleError, match="has format"):
        Bundle.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(version="b-0000000000000000"),
        lambda m: m["encoder"].update(features="another"),
        lambda m: m.pop("name"),
        lambda m: m.pop("format"),
        lambda m: m.update(encoder={}),
        lambda m: m["encoder"].update(surprise=1),
        lambda m: m.update(data=5),
    ],
)
def test_an_inconsistent_manifest_is_refused(saved, change):
    rewrite(saved, change)
    with pytest.raises(BundleError):
        Bundle.load(saved)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "{}"])
def test_a_file_that_is_no_manifest_is_refused(saved, content):
    (saved / "manifest.json").write_text(content)
    with pytest.raises(BundleError):
        Bundle.load(saved)


def test_weights_that_are_no_safetensors_are_refused(saved):
    (saved / "model.safetensors").write_bytes(b"not safetensors at all")
    digest = hashlib.sha256(b"not safetensors at all").hexdigest()
    rewrite(saved, lambda m: m.update(weights_sha256=digest))
    with pytest.raises(BundleError, match="damaged"):
        Bundle.load(saved)


def test_a_missing_array_is_refused(saved, tmp_path):
    for name in load_file(saved / "model.safetensors"):
        folder = tmp_path / name
        shutil.copytree(saved, folder)
        forge(folder, lambda arrays, name=name: arrays.pop(name))
        with pytest.raises(BundleError, match=name):
            Bundle.load(folder)


def test_an_unwritable_folder_is_an_error(bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot write bundle"):
        bundle.save(tmp_path / "file")


def test_a_source_may_have_any_name(bundle, tmp_path):
    scales = {
        **bundle.reward.scales,
        "two\nlines": RatingScale(0.0, 1.0, 1.0),
        "lone \ud800 surrogate": RatingScale(0.0, 2.0, 1.0),
        "": RatingScale(0.0, 3.0, 1.0),
    }
    flips = {name: 0.01 * number for number, name in enumerate(scales)}
    Bundle(replace(bundle.reward, scales=scales, flips=flips), bundle.manifest).save(tmp_path / "b")
    assert Bundle.load(tmp_path / "b").reward.scales == scales
    assert Bundle.load(tmp_path / "b").reward.flips == flips


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("population.means", (2, 9)),
        ("population.precisions", (2, 2, 2)),
        ("temperature", (0,)),
        ("reference", (2,)),
        ("loadings", (3, 1)),
        ("text.weights", (4, 3)),
        ("text.residual_variance", (7,)),
        ("text.inducing", (3, 0)),
        ("text.inducing", (INDUCING, 7)),
        ("text.inducing", (0, 0)),
        ("text.basis_scale", (7,)),
        ("text.basis_length", (0,)),
        ("text.basis_length", (2,)),
        ("flips.values", (2,)),
        ("flips.values", (3, 2)),
        ("scales.values", (2, 3)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(saved, name, shape):
    """They are refused when loaded, not at the first request."""
    forge(saved, lambda arrays: arrays.update({name: np.ones(shape)}))
    with pytest.raises(BundleError):
        Bundle.load(saved)


@pytest.mark.parametrize(
    "name", ["population.precisions", "text.inducing", "text.basis_length", "flips.values", "memory.means"]
)
def test_numbers_that_are_not_finite_are_refused(saved, name):
    forge(saved, lambda arrays: arrays[name].fill(np.nan))
    with pytest.raises(BundleError, match="not finite"):
        Bundle.load(saved)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_an_invalid_flip_rate_is_refused(saved, rate):
    """It is refused when loaded, not at the first judgement."""
    forge(saved, lambda arrays: arrays["flips.values"].fill(rate))
    with pytest.raises(BundleError, match=r"flips\.values"):
        Bundle.load(saved)


def test_a_kernel_without_length_is_refused(saved):
    forge(saved, lambda arrays: arrays["text.basis_length"].fill(0.0))
    with pytest.raises(BundleError, match=r"text\.basis_length"):
        Bundle.load(saved)


def test_a_bundle_of_the_first_format_is_refused_by_name(saved):
    rewrite(saved, lambda m: m.update(format=1))
    with pytest.raises(BundleError, match=r"has format 1, this version reads 2"):
        Bundle.load(saved)


def test_a_missing_array_of_the_match_is_refused(saved_reading, tmp_path):
    names = [name for name in load_file(saved_reading / "model.safetensors") if name.startswith("match.")]
    assert len(names) == 6
    for name in names:
        folder = tmp_path / name
        shutil.copytree(saved_reading, folder)
        forge(folder, lambda arrays, name=name: arrays.pop(name))
        with pytest.raises(BundleError, match="damaged"):
            Bundle.load(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("match.layout", np.array([2]), "match.layout has shape"),
        ("match.layout", np.array([2, 1]), "does not exist"),
        ("match.layout", np.array([-1, 4]), "does not exist"),
        ("match.layout", np.array([4, 4]), "does not exist"),
        ("match.column", np.full(WIDTH, 4), "does not exist"),
        ("match.column", np.full(WIDTH, -1), "does not exist"),
        ("match.column", np.zeros(WIDTH - 1, np.int64), "functions of the match"),
        ("match.column", np.zeros(0, np.int64), "functions of the match"),
        ("match.low", np.zeros(WIDTH - 1), "match.low has shape"),
        ("match.low", np.full(WIDTH, 2.0), "must not be above"),
        ("match.high", np.full((WIDTH, 1), 1.0), "match.high has shape"),
        ("match.high", np.full(WIDTH, np.nan), "match.high"),
        ("match.anchor", np.full(WIDTH, np.inf), "not finite"),
        ("match.kind", np.zeros(WIDTH + 1, np.int64), "match.kind has shape"),
    ],
)
def test_a_damaged_match_is_refused(saved_reading, name, value, message):
    """It is refused when loaded, not at the first request."""
    forge(saved_reading, lambda arrays: arrays.update({name: value}))
    with pytest.raises(BundleError, match=message):
        Bundle.load(saved_reading)
