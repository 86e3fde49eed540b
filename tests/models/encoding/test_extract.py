"""Feature tables: each text and prompt is encoded once, and any prompt can be paired with any text."""

from collections.abc import Sequence

import numpy as np
import pytest

from penchant.models.checkpoint import Checkpoint, CheckpointError
from penchant.models.encoding.encoder import Encoding
from penchant.models.encoding.extract import (
    FeatureTable,
    extract_features,
    extract_text_features,
    list_encoded,
)
from penchant.models.encoding.features import FeatureExtractor, Features
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.encoding.match import BRIEF, COSINE, COVERAGE, MATCH_NAMES, RELEVANCE, compute_match
from penchant.models.judgements.judgement import Judgement

WIDTH = len(MATCH_NAMES)
TEA, MOON = "How long does tea steep?", "What colour is the moon?"
ITEMS = [
    (TEA, "Steep the tea for three minutes."),
    (MOON, "The moon is grey, whatever its colour seems to be."),
    (TEA, "The moon is grey, whatever its colour seems to be."),
    ("", "Steep the tea for three minutes."),
    ("  \n", "A text without a prompt."),
    (MOON, TEA),  # a prompt that is also a text
]


class Counting(HashingEncoder):
    """An encoder that records the texts that it reads."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        self.texts += texts
        return super().encode(texts, prompts)


@pytest.fixture
def long_extractor() -> FeatureExtractor:
    """Extractor that reads texts in windows of four words."""
    return FeatureExtractor(HashingEncoder(max_tokens=4, max_windows=3))


def test_texts_and_prompts_are_encoded_once():
    encoder = Counting()
    table = extract_text_features(ITEMS, FeatureExtractor(encoder))
    assert list(table) == ITEMS
    assert sorted(encoder.texts) == sorted({text for _, text in ITEMS} | {MOON})
    assert len(table) == 6
    assert table.reads_prompts


def test_a_vector_is_the_text_followed_by_its_match(long_extractor):
    table = extract_text_features(ITEMS, long_extractor)
    assert table.dim == long_extractor.dim
    for context, text in ITEMS:
        features = long_extractor.extract([text, context])
        vector = table[context, text]
        assert vector.shape == (long_extractor.width,)
        np.testing.assert_array_equal(vector[:-WIDTH], features.vectors[0])
        expected = compute_match([context], [text], features.vectors[1:, :64], features.windows[:1])[0]
        np.testing.assert_array_equal(vector[-WIDTH:], expected)
        assert np.isnan(vector[-WIDTH:]).all() == (not context.strip())


def test_the_better_answer_has_the_better_match(extractor):
    table = extract_text_features(ITEMS, extractor)
    own, other = table[ITEMS[0]][-WIDTH:], table[ITEMS[2]][-WIDTH:]
    assert own[COSINE] > other[COSINE]
    assert own[COVERAGE] == np.float16(2 / 3)  # "tea" and "steep" of "long", "tea" and "steep"
    assert other[COVERAGE] == 0
    assert own[BRIEF] == other[BRIEF] == 0
    assert np.isnan(own[RELEVANCE])


def test_any_prompt_is_paired_with_any_text(long_extractor):
    table = extract_text_features(ITEMS, long_extractor)
    pairs = [(MOON, ITEMS[0][1]), (TEA, ITEMS[4][1]), ITEMS[0], ("", TEA)]
    crossed = table.cross(pairs)
    assert crossed.shape == (4, long_extractor.width)
    expected = extract_text_features(pairs, long_extractor)
    np.testing.assert_array_equal(crossed, np.stack([expected[pair] for pair in pairs]))
    for unknown in [("Why?", ITEMS[0][1]), (TEA, "never judged")]:
        with pytest.raises(KeyError):
            table.cross([unknown])


def test_a_prompt_has_the_embedding_of_a_text(extractor):
    table = extract_text_features(ITEMS, extractor)
    np.testing.assert_array_equal(table.get_prompt(TEA), extractor.extract([TEA]).vectors[0, :64])
    for unknown in ("Why?", "  \n"):
        with pytest.raises(KeyError):
            table.get_prompt(unknown)


def test_blank_prompts_are_not_encoded(extractor):
    blank = [("", "a"), (" \t\n", "b")]
    assert list_encoded(blank, joint=False, reads_prompts=True) == [("", "a"), ("", "b")]
    table = extract_text_features(blank, extractor)
    assert all(np.isnan(table[item][-WIDTH:]).all() for item in blank)
    np.testing.assert_array_equal(table["", "a"][:-WIDTH], extractor.extract(["a"]).vectors[0])


@pytest.mark.parametrize("joint", [False, True])
def test_without_match_a_vector_is_that_of_the_text(joint):
    encoder = Counting(joint=joint)
    extractor = FeatureExtractor(encoder, reads_prompts=joint)  # a joint encoder never compares
    table = extract_text_features(ITEMS, extractor)
    assert not table.reads_prompts
    assert extractor.width == extractor.dim == table.dim
    assert len(encoder.texts) == (len(ITEMS) if joint else len({text for _, text in ITEMS}))
    for context, text in ITEMS:
        np.testing.assert_array_equal(table[context, text], extractor.extract([text], [context]).vectors[0])
    np.testing.assert_array_equal(table.cross(ITEMS[:2]), np.stack([table[item] for item in ITEMS[:2]]))


def test_a_table_is_a_mapping_in_order_of_judgements(extractor):
    rows = [
        Judgement("u", TEA, "pair", (ITEMS[2][1], ITEMS[0][1])),
        Judgement("v", MOON, "vote", (ITEMS[1][1],), 1.0),
        Judgement("v", TEA, "pair", (ITEMS[0][1], ITEMS[2][1])),
    ]
    table = extract_features(rows, extractor)
    assert list(table) == [ITEMS[2], ITEMS[0], ITEMS[1]]
    assert ITEMS[0] in table
    assert (MOON, ITEMS[0][1]) not in table
    assert table.keys() == {*ITEMS[:3]}
    assert np.stack(list(table.values())).shape == (3, extractor.width)
    assert extract_features([], extractor) == {}


def test_a_subset_keeps_the_prompts_and_texts_of_the_whole(extractor):
    table = extract_text_features(ITEMS, extractor)
    some = table.subset([ITEMS[1], ITEMS[0], ITEMS[1]])
    assert list(some) == [ITEMS[1], ITEMS[0]]
    assert len(table) == 6
    assert some.dim == table.dim
    for item in some:
        np.testing.assert_array_equal(some[item], table[item])
    with pytest.raises(KeyError):
        some[ITEMS[2]]
    np.testing.assert_array_equal(some.cross([ITEMS[2]])[0], table[ITEMS[2]])
    with pytest.raises(KeyError):
        table.subset([("Why?", "never judged")])


@pytest.mark.parametrize("joint", [False, True])
def test_a_stored_table_is_restored_without_an_encoder(joint, tmp_path):
    extractor = FeatureExtractor(HashingEncoder(max_tokens=4, max_windows=3, joint=joint))
    table = extract_text_features(ITEMS, extractor)
    np.savez(tmp_path / "table.npz", **table.to_arrays())
    with np.load(tmp_path / "table.npz") as arrays:
        restored = FeatureTable.from_arrays(ITEMS, arrays)
        with pytest.raises(ValueError, match=r"features for \d texts and prompts"):
            FeatureTable.from_arrays([*ITEMS, (TEA, "one more")], arrays)
    assert list(restored) == ITEMS
    assert restored.reads_prompts is not joint
    for item in ITEMS:
        np.testing.assert_array_equal(restored[item], table[item])


def test_features_are_restored_with_their_windows(long_extractor):
    features = long_extractor.extract([text for _, text in ITEMS])
    assert {len(windows) for windows in features.windows} == {2, 3}
    restored = Features.from_arrays(features.to_arrays())
    np.testing.assert_array_equal(restored.vectors, features.vectors)
    np.testing.assert_array_equal(restored.tokens, features.tokens)
    np.testing.assert_array_equal(restored.truncated, features.truncated)
    assert len(restored.windows) == len(features.windows)
    for own, other in zip(restored.windows, features.windows, strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_resumed_run_restores_the_windows(long_extractor, tmp_path):
    whole = extract_text_features(ITEMS, long_extractor, checkpoint=Checkpoint(tmp_path / "work", "a"))
    encoder = Counting(max_tokens=4, max_windows=3)
    resumed = extract_text_features(
        ITEMS, FeatureExtractor(encoder), checkpoint=Checkpoint(tmp_path / "work", "a")
    )
    assert encoder.texts == []
    pairs = [*ITEMS, (MOON, ITEMS[0][1])]
    np.testing.assert_array_equal(resumed.cross(pairs), whole.cross(pairs))


def test_a_checkpoint_without_windows_is_refused(extractor, tmp_path):
    checkpoint = Checkpoint(tmp_path / "work", "a")
    checkpoint.save("encode 0", {"vectors": extractor.extract(["a", TEA]).vectors})
    with pytest.raises(CheckpointError, match="features of other texts"):
        extract_text_features([(TEA, "a")], extractor, checkpoint=checkpoint)
