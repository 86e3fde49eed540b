"""From judgements to a bundle and to a report, with an encoder without weights."""

from collections.abc import Sequence

import numpy as np
import pytest

from penchant.models.bundle import Bundle, BundleError
from penchant.models.encoder import Encoding, HashingEncoder
from penchant.models.evaluation import adapt, curve, predict
from penchant.models.features import FeatureExtractor
from penchant.models.fit import FitOptions
from penchant.models.judgements import Judgement
from penchant.models.split import split
from penchant.models.training import EXTRACT_BATCH, NothingToEvaluateError, evaluate, extract, fit_bundle
from penchant.models.tuning import Choice

WORDS = "amber salt river stone cloud quiet ember north harbour violet paper engine".split()  # noqa: SIM905
QUICK = FitOptions(rounds=12)


class Counting(HashingEncoder):
    """Remembers what it was asked for."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        self.calls: list[list[tuple[str, str | None]]] = []

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        self.calls.append(list(zip(texts, prompts or [None] * len(texts), strict=True)))
        return super().encode(texts, prompts)


@pytest.fixture(scope="module")
def judgements() -> list[Judgement]:
    """60 users compare 60 texts of random words; everybody likes `amber`, half of them `salt` and the others not."""
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


def test_each_text_is_encoded_once(judgements):
    encoder = Counting()
    extractor = FeatureExtractor(encoder)
    other = [Judgement("v", "another context", j.kind, j.texts) for j in judgements[:100]]
    told: list[tuple[str, int, int]] = []
    vectors = extract([*judgements, *other], extractor, lambda *step: told.append(step))
    asked = [text for call in encoder.calls for text, _ in call]
    assert len(asked) == len(set(asked)) == len({t for j in judgements for t in j.texts})
    assert vectors.keys() == {(j.context, t) for j in [*judgements, *other] for t in j.texts}
    for (_, text), vector in vectors.items():
        np.testing.assert_array_equal(vector, extractor.extract([text]).vectors[0])
    assert told == [("encode", len(asked), len(asked))]


def test_a_joint_encoder_reads_each_text_in_each_context():
    encoder = Counting(joint=True)
    rows = [Judgement("u", context, "pair", ("a", "b")) for context in ("x", "y", "x")]
    vectors = extract(rows, FeatureExtractor(encoder))
    (call,) = encoder.calls
    assert sorted(call) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert (vectors["x", "a"] != vectors["y", "a"]).any()


def test_encoding_goes_batch_by_batch():
    encoder = Counting()
    rows = [Judgement("u", "", "ranking", tuple(f"text {i}" for i in range(EXTRACT_BATCH + 10)))]
    told: list[tuple[str, int, int]] = []
    extract(rows, FeatureExtractor(encoder), lambda *step: told.append(step))
    total = EXTRACT_BATCH + 10
    assert [len(call) for call in encoder.calls] == [EXTRACT_BATCH, 10]
    assert told == [("encode", EXTRACT_BATCH, total), ("encode", total, total)]


def test_no_judgements_have_no_features(extractor):
    assert extract([], extractor) == {}


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


def test_shared_taste_carries_over_to_unseen_texts(bundle, extractor):
    liked, other = bundle.reward.describe(
        extractor.extract(["river amber stone amber cloud", "river paper stone engine cloud"]).vectors
    ).base
    assert liked > other + 1


def test_an_author_s_own_votes_are_not_fitted(bundle):
    assert len(bundle.reward.memory.rows) == 60  # the author's text is not among them
    assert bundle.reward.rating_scale().slope == 0.5


# ---------------------------------------------------------------- evaluation


def test_a_report_is_the_curve_of_its_parts(judgements, bundle, extractor):
    report = evaluate(judgements, extractor, name="words", mode="cold", repetitions=2, bundle=bundle)
    assert (report.set, report.split, report.repetitions) == ("words", "cold", 2)
    assert report.bundle == bundle.version
    assert [point.k for point in report.curve] == [0, 3, 10, 30, 100]
    vectors, found = extract(judgements, extractor), []
    for repetition in range(2):
        parts = split(judgements, "cold", repetition)
        found.append(predict(bundle.reward, adapt(bundle.reward, vectors, parts.support, parts.test)))
    assert report.curve == curve(found)
    assert report.users == sum(len(split(judgements, "cold", r).test) for r in range(2))
    plain = report.to_json()
    assert {"set", "split", "users", "curve"} <= plain.keys()
    assert {"k", "accuracy", "log_loss", "accuracy_interval", "calibration_error"} <= plain["curve"][0].keys()


def test_without_a_bundle_each_repetition_fits_its_own_train_part(judgements, extractor):
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
