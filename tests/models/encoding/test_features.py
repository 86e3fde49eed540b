"""Content keys, feature vectors, and the weight-free encoder that the ranking tests use."""

import numpy as np
import pytest

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, compute_attribute_matrix
from penchant.models.encoding.features import (
    FeatureExtractor,
    Features,
    get_embedding,
    pack_features,
    unpack_features,
)
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.loading import load_encoder

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
        for arguments in ({}, {"dim": 32}, {"max_tokens": 16}, {"joint": True}, {"max_windows": 2})
    ]
    assert len({e.identity for e in extractors}) == 5
    assert len({e.key("text") for e in extractors}) == 5
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


# ---------------------------------------------------------------- windows


def test_features_carry_the_windows_of_each_text():
    extractor = FeatureExtractor(HashingEncoder(max_tokens=4, max_windows=3))
    texts = ["one two", "a b c d e f", "", " ".join(map(str, range(13)))]
    features = extractor.extract(texts)
    assert [windows.shape for windows in features.windows] == [(1, 64), (2, 64), (1, 64), (3, 64)]
    assert all(windows.dtype == np.float16 for windows in features.windows)
    assert features.tokens.tolist() == [2, 6, 0, 12]
    assert features.truncated.tolist() == [False, False, False, True]
    for i in (0, 2):
        np.testing.assert_array_equal(features.windows[i][0], features.vectors[i, :64])
        np.testing.assert_array_equal(get_embedding(features.vectors[i]), features.windows[i])
    halves = HashingEncoder().encode(["a b c", "d e f"]).embeddings
    np.testing.assert_array_equal(features.windows[1], halves.astype(np.float16))
    mean = halves.sum(0) / np.linalg.norm(halves.sum(0))
    np.testing.assert_array_equal(features.vectors[1, :64], mean.astype(np.float16))
    attributes = compute_attribute_matrix(texts).astype(np.float16)
    np.testing.assert_array_equal(features.vectors[:, 64:], attributes)  # they describe the whole text


def test_features_of_several_calls_join():
    extractor = FeatureExtractor(HashingEncoder(max_tokens=2, max_windows=2))
    texts = ["a b c", "d", "e f g h i"]
    whole = extractor.extract(texts)
    joined = Features.join([extractor.extract(texts[:1]), extractor.extract(texts[1:])])
    np.testing.assert_array_equal(joined.vectors, whole.vectors)
    np.testing.assert_array_equal(joined.tokens, whole.tokens)
    np.testing.assert_array_equal(joined.truncated, whole.truncated)
    for own, other in zip(joined.windows, whole.windows, strict=True):
        np.testing.assert_array_equal(own, other)


def test_sizes_count_the_tokens_of_all_windows(bert):
    encoder = load_encoder(
        str(bert), backend="torch", precision="float32", device="cpu", max_tokens=12, max_windows=3
    )
    extractor = FeatureExtractor(encoder)
    assert extractor.max_tokens == 36
    assert extractor.estimate("a" * 10_000) == 36
    assert extractor.estimate("a" * 40) == 11
    texts = ["a " * 5, "a " * 25, "a " * 99]
    read = extractor.read(texts)
    assert [text.size for text in read] == [7, 12 + 12 + 11, 36]
    features = extractor.encode([read[2], read[0], read[1]])
    assert features.tokens.tolist() == [36, 7, 35]
    assert [len(windows) for windows in features.windows] == [3, 1, 3]
    np.testing.assert_allclose(
        features.vectors[[1, 2, 0]].astype(float), extractor.extract(texts).vectors.astype(float), atol=1e-3
    )


@pytest.mark.parametrize("dim", [5, 403])
@pytest.mark.parametrize("n_windows", [1, 2, 8, 64])
def test_packed_features_return_vector_and_windows(dim, n_windows):
    rng = np.random.default_rng(dim)
    vector = rng.normal(size=dim).astype(np.float16)
    windows = rng.normal(size=(n_windows, dim - 3)).astype(np.float16)
    content = pack_features(vector, windows)
    assert content[: 2 * dim] == vector.astype("<f2").tobytes()  # the vector always comes first
    unpacked, several = unpack_features(content)
    np.testing.assert_array_equal(unpacked, vector)
    if n_windows == 1:
        assert len(content) == 2 * dim  # as in stores of earlier versions
        assert several is None
    else:
        np.testing.assert_array_equal(several, windows)


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


def test_hashing_reads_windows_with_the_prompt():
    encoder = HashingEncoder(max_tokens=2, max_windows=2, joint=True)
    features = encoder.encode(["one two three", "one"], ["why", "why"])
    assert features.counts.tolist() == [2, 1]
    assert features.tokens.tolist() == [3, 1]
    expected = HashingEncoder().encode(["one two why", "three why", "one why"])
    np.testing.assert_array_equal(features.windows, expected.embeddings)


def test_hashing_cuts_texts_behind_a_word():
    assert HashingEncoder().cut(["one, two. three", "one", ""], 2) == ["one, two", "one", ""]


def test_hashing_is_the_same_in_every_process():
    """The constant comes from hashlib's BLAKE2b. Python's seeded string hash must not affect it."""
    vector = HashingEncoder(dim=8).encode(["hello world"]).embeddings[0]
    np.testing.assert_allclose(vector, [0, 0, 0, 0, 0, 0, 0.5**0.5, 0.5**0.5], rtol=1e-6)
