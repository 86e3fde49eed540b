"""Content keys, feature vectors, and the weight-free encoder that the ranking tests use."""

import numpy as np
import pytest

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, compute_attribute_matrix
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder

TEXTS = ["A short answer.", "A much longer answer, with reasons: because it helps.", "", "\ud800 🎉"]


@pytest.mark.parametrize("joint", [False, True])
def test_a_key_depends_on_the_prompt_only_in_joint_mode(joint):
    extractor = FeatureExtractor(HashingEncoder(joint=joint))
    key = extractor.key("text", "prompt")
    assert len(key) == 16
    assert key == extractor.key("text", "prompt")
    assert key != extractor.key("text ", "prompt")
    assert (key != extractor.key("text", "other prompt")) is joint
    assert (key != extractor.key("text")) is joint
    assert len({extractor.key(t) for t in [*TEXTS, *map(str, range(1000))]}) == 1004


def test_prompt_and_text_cannot_be_confused():
    extractor = FeatureExtractor(HashingEncoder(joint=True))
    assert extractor.key("b", "a") != extractor.key("", "ab") != extractor.key("ab", "")
    assert extractor.key("a", "b") != extractor.key("b", "a")


def test_identity_and_keys_change_with_the_encoder():
    extractors = [
        FeatureExtractor(HashingEncoder(**arguments))
        for arguments in ({}, {"dim": 32}, {"max_tokens": 16}, {"joint": True})
    ]
    assert len({e.identity for e in extractors}) == 4
    assert len({e.key("text") for e in extractors}) == 4
    assert FeatureExtractor(HashingEncoder()).identity == extractors[0].identity
    assert FeatureExtractor(HashingEncoder()).key("text") == extractors[0].key("text")


def test_a_vector_is_embedding_and_attributes_in_float16(extractor):
    features = extractor.extract(TEXTS)
    assert features.vectors.dtype == np.float16
    assert features.vectors.shape == (4, extractor.dim) == (4, 64 + len(ATTRIBUTE_NAMES))
    np.testing.assert_array_equal(
        features.vectors[:, :64], extractor.encoder.encode(TEXTS).embeddings.astype(np.float16)
    )
    np.testing.assert_array_equal(
        features.vectors[:, 64:], compute_attribute_matrix(TEXTS).astype(np.float16)
    )
    assert features.tokens.tolist() == [3, 9, 0, 0]
    assert not features.truncated.any()
    assert extractor.extract([]).vectors.shape == (0, extractor.dim)


def test_a_vector_does_not_depend_on_its_batch(extractor):
    together = extractor.extract(TEXTS).vectors
    separate = np.concatenate([extractor.extract([t]).vectors for t in TEXTS])
    np.testing.assert_array_equal(together, separate)


@pytest.mark.parametrize("joint", [False, True])
def test_prompts_count_only_in_joint_mode(joint):
    extractor = FeatureExtractor(HashingEncoder(joint=joint))
    plain = extractor.extract(TEXTS).vectors
    np.testing.assert_array_equal(extractor.extract(TEXTS, [""] * 4).vectors, plain)
    prompted = extractor.extract(TEXTS, ["why is that so"] * 4).vectors
    assert (prompted != plain).any() == joint
    np.testing.assert_array_equal(prompted[:, 64:], plain[:, 64:])  # attributes depend on the text only


# ---------------------------------------------------------------- HashingEncoder


def test_hashing_gives_unit_vectors_that_follow_shared_words():
    encoder = HashingEncoder(dim=256)
    features = encoder.encode(
        ["the cat sat on a mat", "The cat sat on a chair", "prices rose sharply", "", "!?"]
    )
    np.testing.assert_allclose(np.linalg.norm(features.embeddings, axis=1), [1, 1, 1, 0, 0], rtol=1e-6)
    near, far = (
        features.embeddings[0] @ features.embeddings[1],
        features.embeddings[0] @ features.embeddings[2],
    )
    assert near > 0.6 > 0.3 > abs(far)
    assert features.embeddings.dtype == np.float32


def test_hashing_counts_and_cuts_words():
    encoder = HashingEncoder(max_tokens=3)
    features = encoder.encode(["one two three", "one two three four"])
    assert features.tokens.tolist() == [3, 3]
    assert features.truncated.tolist() == [False, True]
    np.testing.assert_array_equal(features.embeddings[0], features.embeddings[1])


def test_hashing_is_the_same_in_every_process():
    """The constant comes from hashlib's BLAKE2b. Python's seeded string hash must not affect it."""
    vector = HashingEncoder(dim=8).encode(["hello world"]).embeddings[0]
    np.testing.assert_allclose(vector, [0, 0, 0, 0, 0, 0, 0.5**0.5, 0.5**0.5], rtol=1e-6)
