"""Training and evaluation from judgements, with an encoder without weights."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from penchant.models.bundle import Bundle, BundleError
from penchant.models.checkpoint import Checkpoint, CheckpointError
from penchant.models.encoding.encoder import Encoding
from penchant.models.encoding.extract import EXTRACT_BATCH, EXTRACT_PART, extract_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.match import MATCH_NAMES
from penchant.models.evaluation.few_shot import adapt, predict
from penchant.models.evaluation.report import curve
from penchant.models.evaluation.split import split
from penchant.models.fitting.em import FitOptions
from penchant.models.fitting.tuning import Choice
from penchant.models.judgements.judgement import Judgement
from penchant.models.training import NothingToEvaluateError, evaluate, fit_bundle

WORDS = "amber salt river stone cloud quiet ember north harbour violet paper engine".split()  # noqa: SIM905
QUICK = FitOptions(rounds=12)


class Counting(HashingEncoder):
    """An encoder that records its batches."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        self.calls: list[list[tuple[str, str | None]]] = []

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        self.calls.append(list(zip(texts, prompts or [None] * len(texts), strict=True)))
        return super().encode(texts, prompts)


@pytest.fixture(scope="module")
def judgements() -> list[Judgement]:
    """60 users compare 60 texts of random words. All like `amber`. Half like `salt`, the others dislike it."""
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(60)]

    def utility(user: int, text: str) -> float:
        return 2 * text.count("amber") + (3 if user % 2 else -3) * text.count("salt") + rng.logistic()

    rows = []
    for user in range(60):
        for _ in range(60):
            a, b = rng.choice(texts, 2, replace=False)
            if utility(user, a) < utility(user, b):
                a, b = b, a
            rows.append(Judgement(f"user {user}", "a context", "pair", (str(a), str(b))))
    return rows


# ---------------------------------------------------------------- features


def test_each_text_and_each_prompt_is_encoded_once(judgements):
    encoder = Counting()
    extractor = FeatureExtractor(encoder)
    other = [Judgement("v", "another context", j.kind, j.texts) for j in judgements[:100]]
    steps: list[tuple[str, int, int]] = []
    vectors = extract_features([*judgements, *other], extractor, lambda *step: steps.append(step))
    encoded = [text for call in encoder.calls for text, _ in call]
    prompts = {"a context", "another context"}
    assert len(encoded) == len(set(encoded))
    assert set(encoded) == {t for j in judgements for t in j.texts} | prompts
    assert vectors.keys() == {(j.context, t) for j in [*judgements, *other] for t in j.texts}
    for (context, text), vector in vectors.items():
        features = extractor.extract([text, context])
        np.testing.assert_array_equal(vector[: extractor.dim], features.vectors[0])
        expected = extractor.add_match(
            features.vectors[:1], [context], [text], features.vectors[1:], features.windows[:1]
        )
        np.testing.assert_array_equal(vector, expected[0])
    assert steps == [("encode", len(encoded), len(encoded))]


def test_without_prompts_only_the_texts_are_encoded(judgements):
    encoder = Counting()
    rows = [Judgement(j.user, " \n", j.kind, j.texts) for j in judgements[:50]]
    vectors = extract_features(rows, FeatureExtractor(encoder))
    assert {text for call in encoder.calls for text, _ in call} == {t for j in rows for t in j.texts}
    assert all(np.isnan(vector[-len(MATCH_NAMES) :]).all() for vector in vectors.values())


def test_a_joint_encoder_reads_each_text_in_each_context():
    encoder = Counting(joint=True)
    rows = [Judgement("u", context, "pair", ("a", "b")) for context in ("x", "y", "x")]
    vectors = extract_features(rows, FeatureExtractor(encoder))
    (call,) = encoder.calls
    assert sorted(call) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert (vectors["x", "a"] != vectors["y", "a"]).any()


def test_texts_are_encoded_in_batches():
    encoder = Counting()
    rows = [Judgement("u", "", "ranking", tuple(f"text {i}" for i in range(EXTRACT_BATCH + 10)))]
    steps: list[tuple[str, int, int]] = []
    extract_features(rows, FeatureExtractor(encoder), lambda *step: steps.append(step))
    total = EXTRACT_BATCH + 10
    assert [len(call) for call in encoder.calls] == [EXTRACT_BATCH, 10]
    assert steps == [("encode", EXTRACT_BATCH, total), ("encode", total, total)]


def test_no_judgements_have_no_features(extractor):
    assert extract_features([], extractor) == {}


def interrupted_at(stage: str, least: int) -> Callable[[str, int, int], None]:
    """Return a progress callback that raises KeyboardInterrupt once a stage has come this far."""

    def report(name: str, done: int, _total: int) -> None:
        if name == stage and done >= least:
            raise KeyboardInterrupt

    return report


def test_interrupted_encoding_continues_where_it_stopped(tmp_path):
    rows = [Judgement("u", "", "ranking", tuple(f"text {i}" for i in range(2 * EXTRACT_PART + 10)))]
    whole = extract_features(rows, FeatureExtractor(HashingEncoder()))
    with pytest.raises(KeyboardInterrupt):
        extract_features(
            rows,
            FeatureExtractor(HashingEncoder()),
            interrupted_at("encode", EXTRACT_PART + EXTRACT_BATCH),
            Checkpoint(tmp_path / "work", "a"),
        )
    encoder, steps = Counting(), []
    resumed = extract_features(
        rows,
        FeatureExtractor(encoder),
        lambda *step: steps.append(step),
        Checkpoint(tmp_path / "work", "a"),
    )
    assert steps[0] == ("encode", EXTRACT_PART, 2 * EXTRACT_PART + 10)
    # Unfinished batches are encoded again with the same texts.
    assert [len(call) for call in encoder.calls] == [*[EXTRACT_BATCH] * (EXTRACT_PART // EXTRACT_BATCH), 10]
    assert encoder.calls[0][0][0] == f"text {EXTRACT_PART}"
    assert resumed.keys() == whole.keys()
    for item, vector in whole.items():
        np.testing.assert_array_equal(resumed[item], vector)


def test_features_of_other_texts_are_refused(extractor, tmp_path):
    rows = [Judgement("u", "", "pair", ("a", "b"))]
    extract_features(rows, extractor, checkpoint=Checkpoint(tmp_path / "work", "a"))
    more = [*rows, Judgement("u", "", "vote", ("c",), 1.0)]
    with pytest.raises(CheckpointError, match="features of other texts"):
        extract_features(more, extractor, checkpoint=Checkpoint(tmp_path / "work", "a"))


# ---------------------------------------------------------------- bundles


@pytest.fixture(scope="module")
def bundle(judgements) -> Bundle:
    own = [Judgement("author", "a context", "vote", ("an author's own text",), 1.0, own=True)]
    return fit_bundle(
        [*judgements, *own],
        FeatureExtractor(HashingEncoder()),
        name="words",
        options=QUICK,
        ranks=(0,),
        data=[{"name": "made up", "licence": "none"}],
    )


def test_a_fitted_bundle_describes_itself(bundle, extractor, tmp_path):
    manifest = bundle.manifest
    assert manifest.name == "words"
    assert manifest.encoder.features == extractor.identity
    assert manifest.data == ({"name": "made up", "licence": "none"},)
    fit = manifest.metrics["fit"]
    assert fit["choice"].keys() == Choice.__dataclass_fields__.keys()
    assert fit["held_out_users"] < 20
    assert fit["trials"] == []
    bundle.save(tmp_path / "words")
    assert Bundle.load(tmp_path / "words").manifest == manifest  # all of it is JSON


def test_shared_taste_generalises_to_unseen_texts(bundle, extractor):
    liked, other = bundle.reward.describe(
        extractor.extract(["river amber stone amber cloud", "river paper stone engine cloud"]).vectors
    ).base
    assert liked > other + 1


def test_an_author_s_own_votes_are_not_fitted(bundle):
    assert len(bundle.reward.memory.rows) == 60  # without the text of the author
    assert bundle.reward.rating_scale().slope == 0.5


def test_a_bundle_on_disk_agrees_with_the_fitted_model(bundle, extractor, tmp_path):
    bundle.save(tmp_path / "words")
    vectors = extractor.extract(["river amber stone", "a text unlike any other"]).vectors
    there = Bundle.load(tmp_path / "words").reward.describe(vectors)
    here = bundle.reward.describe(vectors)
    for part in ("base", "base_variance", "directions", "direction_variance"):
        # Variances are small differences of float16 products.
        rtol = 0.05 if part.endswith("variance") else 2e-3
        np.testing.assert_allclose(getattr(there, part), getattr(here, part), rtol=rtol, atol=1e-4)


def test_the_manifest_lists_the_parts_of_a_bundle(bundle):
    found = bundle.manifest.metrics["inspection"]
    assert found["texts"] == 61
    assert found["archetypes"][0]["weight"] == 1
    parts = [found["consensus"]["share"], *(t["share"] for t in found["tastes"])]
    assert sum(parts) + found["smaller_share"] + found["unexplained"] + found["chance"] == pytest.approx(1)
    assert found["consensus"]["share"] > 0.1


# ---------------------------------------------------------------- interruption


@pytest.fixture(scope="module")
def fit_words(judgements) -> Callable[..., Bundle]:
    """Runs a fit with all stages on 120 users, of whom some are held out."""
    again = [Judgement(f"{j.user} {i % 2}", j.context, j.kind, j.texts) for i, j in enumerate(judgements)]

    def fit(**options: object) -> Bundle:
        return fit_bundle(
            again, FeatureExtractor(HashingEncoder(16)), name="words", options=QUICK, ranks=(0, 1), **options
        )

    return fit


@pytest.fixture(scope="module")
def whole(fit_words, tmp_path_factory) -> tuple[bytes, list[tuple[str, int]]]:
    """Weights and steps of an uninterrupted fit."""
    steps: list[tuple[str, int]] = []
    bundle = fit_words(progress=lambda stage, done, total: steps.append((stage, done)))
    return weights(bundle, tmp_path_factory.mktemp("whole")), steps


def weights(bundle: Bundle, folder: Path) -> bytes:
    bundle.save(folder)
    return (folder / "model.safetensors").read_bytes()


def test_equal_seeds_make_equal_bundles(fit_words, whole, tmp_path):
    assert weights(fit_words(), tmp_path) == whole[0]


def test_a_repeatedly_interrupted_fit_gives_the_same_bundle(fit_words, whole, tmp_path):
    """The fit is interrupted in every stage, and each run continues from the previous checkpoint."""
    stages = list(dict.fromkeys(stage for stage, _ in whole[1]))
    assert stages[0] == "encode"
    assert stages[-1] == "fit"
    assert len(stages) >= 4
    for stage in stages:
        last = max(done for name, done in whole[1] if name == stage)
        with pytest.raises(KeyboardInterrupt):
            fit_words(
                progress=interrupted_at(stage, max(last - 1, 1)),
                checkpoint=Checkpoint(tmp_path / "work", "a"),
            )
    steps: list[tuple[str, int]] = []
    checkpoint = Checkpoint(tmp_path / "work", "a")
    bundle = fit_words(progress=lambda stage, done, total: steps.append((stage, done)), checkpoint=checkpoint)
    assert weights(bundle, tmp_path / "resumed") == whole[0]
    assert len(steps) < len(whole[1]) / 2  # it did continue


KILLED = """
import os, signal, sys
from pathlib import Path
from penchant.models.checkpoint import Checkpoint
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.fitting.em import FitOptions
from penchant.models.judgements.judgement import Judgement
from penchant.models.training import fit_bundle

def report(stage, done, total):
    if stage == "fit" and done == 8 and sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)

rows = [Judgement(f"u{i % 9}", "", "pair", (f"tea {i % 7} rain", f"moon {i % 5}")) for i in range(99)]
options = FitOptions(rank=0, rounds=12)
for name in sys.argv[2:]:
    work = Checkpoint(Path(name + ".work"), "a")
    extractor = FeatureExtractor(HashingEncoder(8))
    fit_bundle(rows, extractor, name="x", options=options, progress=report, checkpoint=work).save(Path(name))
"""


def test_a_killed_fit_continues_to_the_same_bundle(tmp_path):
    """The process is killed, so no code can clean up."""

    def run(*arguments: str) -> int:
        command = [sys.executable, "-c", KILLED, *arguments]
        return subprocess.run(command, check=False, cwd=tmp_path).returncode

    assert run("kill", "killed") == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    assert Checkpoint(tmp_path / "killed.work", "a").stages == 2
    assert run("go on", "killed", "whole") == 0
    killed, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole"))
    assert killed == whole


# ---------------------------------------------------------------- evaluation


def test_a_report_equals_the_curve_of_its_parts(judgements, bundle, extractor):
    report = evaluate(judgements, extractor, name="words", mode="cold", repetitions=2, bundle=bundle)
    assert (report.set, report.split, report.repetitions) == ("words", "cold", 2)
    assert report.bundle == bundle.version
    assert [point.k for point in report.curve] == [0, 3, 10, 30, 100]
    vectors, found = extract_features(judgements, extractor), []
    for repetition in range(2):
        parts = split(judgements, "cold", repetition)
        found.append(predict(bundle.reward, adapt(bundle.reward, vectors, parts.support, parts.test)))
    assert report.curve == curve(found)
    assert report.users == sum(len(split(judgements, "cold", r).test) for r in range(2))
    plain = report.to_json()
    assert {"set", "split", "users", "curve"} <= plain.keys()
    assert {"k", "accuracy", "log_loss", "accuracy_interval", "calibration_error"} <= plain["curve"][0].keys()


def test_without_a_bundle_each_repetition_fits_its_training_part(judgements, extractor):
    stages: list[str] = []
    report = evaluate(
        judgements,
        extractor,
        name="words",
        mode="warm",
        repetitions=1,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert report.bundle == "fitted on the train part of each repetition"
    assert report.curve[0].accuracy > 0.55
    assert "encode" in stages
    assert any(stage.startswith("repetition 1/1: ") for stage in stages)


def test_a_bundle_of_another_encoder_is_refused(judgements, bundle):
    other = FeatureExtractor(HashingEncoder(max_tokens=32))
    with pytest.raises(BundleError, match="fitted with encoder 'hashing'"):
        evaluate(judgements, other, name="words", mode="cold", bundle=bundle)


def test_too_few_judgements_to_evaluate_are_named(judgements, extractor):
    with pytest.raises(
        NothingToEvaluateError, match="10 support judgements and 4 test pairs in split 'cold'"
    ):
        evaluate(judgements[:12], extractor, name="words", mode="cold", repetitions=1)
