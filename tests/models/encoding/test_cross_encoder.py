"""`CrossEncoder` reads pairs as transformers does, whatever else is in the batch, and refuses models without a head."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from penchant.models.encoding.cross_encoder import (
    MAX_PAIR_WINDOWS,
    identify_cross_encoder,
    load_cross_encoder,
)
from penchant.models.encoding.encoder import EncoderError
from penchant.models.encoding.tokens import Tokens

PROMPTS = ["a b c", "p o n m", "a", "c c c c c c c", "b", "d e"]
TEXTS = ["d e f", "a", "p p p o", "", "a b c d e f g h i j k l m n o p a b", "g h"]


@pytest.fixture(scope="module")
def cross(classifier):
    return load_cross_encoder(str(classifier), device="cpu", threads=2)


def score_with_transformers(folder, prompts, texts):
    """Scores by transformers alone: one pair at a time, without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = []
    with torch.inference_mode():
        for prompt, text in zip(prompts, texts, strict=True):
            pair = tokenizer([prompt], [text], return_tensors="pt", return_token_type_ids=True)
            logits.append(model(**pair).logits[0].numpy())
    return np.array(logits)


def test_scores_are_those_of_transformers(cross, classifier):
    expected = score_with_transformers(classifier, PROMPTS, TEXTS)[:, 0]
    assert expected.std() > 0.5
    np.testing.assert_allclose(cross.score(PROMPTS, TEXTS), expected, atol=1e-5)


def test_the_segments_of_a_pair_are_distinguished(cross):
    """The model scores the same words in another way if they belong to the prompt."""
    tokens = cross.tokenize(["a b"], ["c d"])
    assert tokens.leading.tolist() == [4]  # [CLS] a b [SEP]
    swapped = Tokens(tokens.ids, tokens.lengths, tokens.counts, tokens.truncated, tokens.leading + 1)
    assert abs(cross.score_tokens(tokens)[0] - cross.score_tokens(swapped)[0]) > 1e-3


def test_a_model_without_segments_is_not_given_any(make_classifier):
    folder = make_classifier(segments=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = model(tokenizer("a b", "c d", return_tensors="pt").input_ids).logits[0, 0].item()
    score = load_cross_encoder(str(folder), device="cpu", threads=1).score(["a b"], ["c d"])
    assert score[0] == pytest.approx(expected, abs=1e-5)


def test_of_two_labels_the_score_is_the_difference(make_classifier):
    folder = make_classifier(labels=2)
    logits = score_with_transformers(folder, PROMPTS, TEXTS)
    scores = load_cross_encoder(str(folder), device="cpu", threads=1).score(PROMPTS, TEXTS)
    np.testing.assert_allclose(scores, logits[:, 1] - logits[:, 0], atol=1e-5)


def test_scores_do_not_depend_on_the_batch(cross):
    together = cross.score(PROMPTS, TEXTS)
    alone = np.concatenate([cross.score([p], [t]) for p, t in zip(PROMPTS, TEXTS, strict=True)])
    np.testing.assert_allclose(alone, together, rtol=1e-5)
    np.testing.assert_array_equal(cross.score(PROMPTS, TEXTS), together)
    assert cross.score([], []).shape == (0,)


def test_tokens_of_several_calls_are_scored_together(cross):
    parts = cross.tokenize(PROMPTS, TEXTS).split()
    assert [len(part) for part in parts] == [1] * len(TEXTS)
    np.testing.assert_allclose(
        cross.score_tokens(Tokens.join(parts[::-1]))[::-1], cross.score(PROMPTS, TEXTS), rtol=1e-5
    )


def test_a_long_text_has_the_score_of_its_best_window(cross, classifier):
    """48 positions hold 3 special tokens, a prompt of 5 and a window of 40 tokens."""
    prompt, letters = "a b c d e", [*"abcdefghijklmnop"]
    text = [letters[i * i % 13 + i % 3] for i in range(80)]
    windows = [" ".join(text[:40]), " ".join(text[40:])]
    expected = score_with_transformers(classifier, [prompt] * 2, windows)[:, 0]
    assert abs(expected[0] - expected[1]) > 1e-3
    tokens = cross.tokenize([prompt], [" ".join(text)])
    assert (tokens.counts.tolist(), tokens.lengths.tolist()) == ([2], [48, 48])
    score = cross.score([prompt, "a"], [" ".join(text), "b"])
    assert score[0] == pytest.approx(expected.max(), abs=1e-5)


def test_very_long_texts_and_prompts_are_cut(cross):
    tokens = cross.tokenize(["a " * 500], ["b " * 500])
    assert tokens.counts.tolist() == [MAX_PAIR_WINDOWS]
    assert tokens.lengths.tolist() == [48] * MAX_PAIR_WINDOWS
    assert tokens.truncated.tolist() == [True]
    assert tokens.leading.tolist() == [2 + 11] * MAX_PAIR_WINDOWS  # a quarter of 45
    assert np.isfinite(cross.score(["a " * 500], ["b " * 500])).all()


def test_the_identity_is_known_without_loading_and_depends_on_the_files(cross, classifier, tmp_path):
    assert cross.identity == identify_cross_encoder(str(classifier))
    copied = shutil.copytree(classifier, tmp_path / "copied")
    assert identify_cross_encoder(str(copied)) == cross.identity
    weights = load_file(copied / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert identify_cross_encoder(str(copied)) != cross.identity


# ---------------------------------------------------------------- models that are refused


def change(folder, to, **weights):
    """Copy a model with some of its weights replaced, or left out if they are None."""
    copied = shutil.copytree(folder, to)
    stored = load_file(copied / "model.safetensors")
    for name, value in weights.items():
        if value is None:
            del stored[name]
        else:
            stored[name] = np.full_like(stored[name], value)
    save_file(stored, copied / "model.safetensors", metadata={"format": "pt"})
    return copied


def test_an_encoder_has_no_head(bert):
    with pytest.raises(
        EncoderError, match=r"lacks these weights: classifier\.bias, classifier\.weight; it must be"
    ):
        load_cross_encoder(str(bert), device="cpu")


def test_a_lost_head_is_never_replaced_by_a_random_one(classifier, tmp_path):
    headless = change(classifier, tmp_path / "headless", **{"classifier.weight": None})
    with pytest.raises(EncoderError, match=r"lacks these weights: classifier\.weight;"):
        load_cross_encoder(str(headless), device="cpu")


def test_a_model_of_three_labels_is_refused(make_classifier):
    with pytest.raises(EncoderError, match="has 3 labels, it must have 1 or 2"):
        load_cross_encoder(str(make_classifier(labels=3)), device="cpu")


def test_scores_that_are_not_finite_are_refused(classifier, tmp_path):
    broken = change(classifier, tmp_path / "broken", **{"classifier.bias": np.nan})
    with pytest.raises(EncoderError, match="produced a score that is not finite"):
        load_cross_encoder(str(broken), device="cpu", threads=1)


def test_pickled_weights_are_never_read(classifier, tmp_path):
    pickled = shutil.copytree(classifier, tmp_path / "pickled")
    torch.save(
        AutoModelForSequenceClassification.from_pretrained(pickled).state_dict(),
        pickled / "pytorch_model.bin",
    )
    (pickled / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="cannot load cross-encoder"):
        load_cross_encoder(str(pickled), device="cpu")


def test_code_that_comes_with_a_model_is_never_run(classifier, tmp_path):
    custom = shutil.copytree(classifier, tmp_path / "custom")
    config = json.loads((custom / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForSequenceClassification": "own.Model"}}
    (custom / "config.json").write_text(json.dumps(config))
    (custom / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(EncoderError, match="cannot load cross-encoder"):
        load_cross_encoder(str(custom), device="cpu")


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "no such name"])
def test_a_missing_model_is_named(name):
    with pytest.raises(EncoderError, match=name):
        load_cross_encoder(name)
    with pytest.raises(EncoderError, match=name):
        identify_cross_encoder(name)


def test_a_gguf_file_has_no_head(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(EncoderError, match="is a GGUF file, which has no classification head"):
        load_cross_encoder(str(file), device="cpu")
