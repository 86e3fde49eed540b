"""The shipped bundle is small, attributed, measured and useful without training."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle
from penchant.models.encoding.extract import extract_text_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.loading import load_encoder
from penchant.models.ranking.selection import order, relevance
from penchant.models.taste.items import Items, item_key
from penchant.models.taste.observations import Pair
from penchant.models.taste.posterior import UserPosterior

ROOT = Path(__file__).parents[2]

QUESTIONS = ("How do I sharpen a kitchen knife?", "Why is the sky blue?", "How do I renew my passport?")
LONG = (
    "Hold the blade at about fifteen degrees to a wet whetstone and draw it across in long, even strokes, heel to tip, "
    "ten times a side. Feel for the burr, turn the knife, and finish on the fine side of the stone until it is gone.",
    "Sunlight holds all colours, and air molecules scatter the short wavelengths far more than the long ones. What "
    "reaches your eyes from every direction of the sky is that scattered light, and most of it is blue.",
    "Fill in the form online, have two photographs taken that follow the rules for size and background, pay the fee, "
    "and send the old passport along. It takes about three weeks, so begin well before you travel.",
)
SHORT = ("Use a whetstone.", "Air scatters blue light most.", "Apply online with new photos.")
UNSEEN_QUESTION = "What makes bread rise?"
UNSEEN_LONG = (
    "Yeast feeds on the sugars in the flour and gives off carbon dioxide, which is caught as thousands of small bubbles "
    "in the stretchy gluten of the dough. Warmth makes the yeast work faster, and the heat of the oven sets the shape."
)
UNSEEN_SHORT = "Yeast makes gas."


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(DEFAULT_BUNDLE)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(load_encoder(max_windows=8))


def describe(bundle: Bundle, extractor: FeatureExtractor, question: str, texts: list[str]) -> Items:
    return bundle.reward.describe(
        extractor.extract(texts).vectors, [item_key(question, text) for text in texts]
    )


def test_matches_the_embedded_encoder(bundle, extractor):
    assert bundle.manifest.encoder.features == extractor.identity


def test_takes_at_most_a_mebibyte():
    assert sum(file.stat().st_size for file in DEFAULT_BUNDLE.iterdir()) <= 1024 * 1024


def test_names_licence_and_attribution_of_every_set(bundle):
    assert {entry["name"] for entry in bundle.manifest.data} == {
        "polis_opendata_en",
        "ukp_convarg1",
        "crowdrag25_pairwise",
        "expertqa_edits",
    }
    for entry in bundle.manifest.data:
        assert entry["licence"].startswith(("CC BY 4.0", "MIT"))
        assert entry["attribution"]
        assert len(entry["sha256"]) == 64


@pytest.mark.parametrize("likes_long", [True, False])
def test_three_preferences_suffice_to_learn_length(bundle, extractor, likes_long):
    user = UserPosterior.at_prior(bundle.reward.population)
    for question, long, short in zip(QUESTIONS, LONG, SHORT, strict=True):
        items = describe(bundle, extractor, question, [long, short])
        winner, loser = (items[0], items[1]) if likes_long else (items[1], items[0])
        user = user.learn(Pair(winner, loser))
    long, short = relevance(
        bundle.reward, user, describe(bundle, extractor, UNSEEN_QUESTION, [UNSEEN_LONG, UNSEEN_SHORT])
    )
    assert (long > short) == likes_long


def test_knows_shared_taste_without_labels(bundle, extractor):
    nobody = UserPosterior.at_prior(bundle.reward.population)
    polite = "Could you please tell me why this section was removed? Thanks a lot for your help!"
    rude = "Why the hell did you remove this section? Put it back now."
    scores = relevance(
        bundle.reward, nobody, describe(bundle, extractor, "How polite is this request?", [polite, rude])
    )
    assert scores[0] > scores[1]


def test_model_card_quotes_the_manifest(bundle):
    spec = importlib.util.spec_from_file_location(
        "fit_default_bundle", ROOT / "scripts" / "fit_default_bundle.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look up their module
    spec.loader.exec_module(script)
    card = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")
    assert script.format_table(bundle.manifest.metrics["evaluation"]) in card


def test_reference_is_the_median_answer(bundle):
    reference = bundle.reward.reference
    assert np.isfinite(reference.base).all()
    assert reference.directions.shape == (1, bundle.reward.q - 1)


def test_answers_to_the_question_come_first(bundle, extractor):
    question = "What is the capital of France?"
    texts = [
        "Feed a sourdough starter with equal weights of flour and water.",
        "The capital of France is Paris.",
        "France won the World Cup in 1998 and in 2018.",
    ]
    vectors = extract_text_features([(question, text) for text in texts], extractor)
    items = bundle.reward.describe(np.stack([vectors[question, text] for text in texts]))
    scores = relevance(bundle.reward, UserPosterior.at_prior(bundle.reward.population), items)
    assert order(scores).tolist() == [1, 2, 0]
    assert scores[1] > 0.4  # about as good as the median judged answer, which is much longer
    assert scores[2] < 0.1
    assert scores[0] < 0.01
