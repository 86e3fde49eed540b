"""`Dataset` holds judgements as index tensors."""

import numpy as np
import pytest
import torch

from penchant.models.fitting.dataset import Dataset, JudgementBatch
from penchant.models.fitting.relevance import fit_relevance
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import item_key


def judgement(
    kind: str,
    user: str,
    *texts: str,
    value: float = 0.0,
    source: str = "a",
    weight: float = 1.0,
    groups: tuple[int, ...] = (),
) -> Judgement:
    return Judgement(user, "", kind, texts, value, source=source, weight=weight, groups=groups)


def dataset(*rows: Judgement) -> Dataset:
    """Dataset in which item i, in order of appearance, has the vector [i, i]."""
    texts = dict.fromkeys(text for row in rows for text in row.texts)
    return Dataset.from_judgements(rows, {("", t): np.full(2, i, np.float16) for i, t in enumerate(texts)})


def pairs(data: Dataset) -> list[tuple[int, int, int, float]]:
    """Return (user, winner, loser, weight) of every pair."""
    batch = data.pairs
    return list(
        zip(
            batch.user.tolist(), batch.item.tolist(), batch.other.tolist(), batch.weight.tolist(), strict=True
        )
    )


def test_a_dataset_indexes_judgements():
    data = dataset(
        judgement("edit", "v", "after", "before", weight=0.3),
        judgement("pair", "u", "best", "middle"),
        judgement("pair", "u", "best", "best"),
        judgement("vote", "v", "best", value=-1.0, source="thumbs"),
        judgement("rating", "u", "best", value=0.25, source="stars", weight=0.5),
    )
    texts = ["after", "before", "best", "middle"]
    assert data.users == ("v", "u")
    assert data.sources == ("a", "thumbs", "stars")
    assert data.keys == tuple(item_key("", t) for t in texts)
    np.testing.assert_array_equal(data.vectors[:, 0], np.arange(4))
    assert pairs(data) == [
        (0, 0, 1, 0.3),
        (1, 2, 3, 1.0),
    ]  # a text compared with itself carries no information
    assert data.pairs.value.tolist() == [1.0, 1.0]
    votes, ratings = data.votes, data.ratings
    assert (votes.user.tolist(), votes.item.tolist(), votes.value.tolist()) == ([0], [2], [-1.0])
    assert (votes.source.tolist(), votes.weight.tolist(), votes.other.tolist()) == ([1], [1.0], [-1])
    assert (ratings.user.tolist(), ratings.item.tolist(), ratings.value.tolist()) == ([1], [2], [0.25])
    assert (ratings.source.tolist(), ratings.weight.tolist(), ratings.other.tolist()) == ([2], [0.5], [-1])
    assert len(data) == 4
    assert data.kinds == (ratings, votes, data.pairs)


def test_an_unchanged_edit_carries_no_information():
    data = dataset(
        judgement("edit", "u", "after", "before", weight=0.0),
        judgement("vote", "u", "after", value=1.0, weight=0.0),
        judgement("rating", "u", "after", value=1.0, weight=0.0),
    )
    assert len(data) == 0
    assert data.users == ("u",)


def test_a_choice_compares_its_winner_with_every_other_text():
    """A choice among n texts is n − 1 pairs of weight 2/n, so among two texts it is a pair."""
    five = dataset(judgement("choice", "u", *"abcde", groups=(1, 4)))
    assert pairs(five) == [(0, 0, loser, 0.4) for loser in (1, 2, 3, 4)]
    two = dataset(judgement("choice", "u", "a", "b", groups=(1, 1)))
    assert pairs(two) == pairs(dataset(judgement("pair", "u", "a", "b"))) == [(0, 0, 1, 1.0)]
    weighed = dataset(judgement("choice", "u", "a", "b", "c", groups=(1, 2), weight=0.6))
    assert [row[3] for row in pairs(weighed)] == pytest.approx([0.4, 0.4])


def test_the_weight_of_a_stage_is_its_information_at_equal_utilities():
    """At equal utilities, a softmax choice and its pairs have the same information, measured by the trace."""
    for n in (2, 3, 7):
        chances = np.full(n, 1 / n)
        curvature = np.diag(chances) - np.outer(chances, chances)
        data = dataset(judgement("choice", "u", *map(str, range(n)), groups=(1, n - 1)))
        of_pairs = np.zeros((n, n))
        for _, a, b, weight in pairs(data):
            difference = np.zeros(n)
            difference[[a, b]] = 1, -1
            of_pairs += weight * 0.25 * np.outer(difference, difference)
        assert np.trace(of_pairs) == pytest.approx(np.trace(curvature))


def test_a_ranking_is_a_sequence_of_choices():
    """A ranking of three is a choice of the best of three, then of the best of two."""
    third = 2 / 3
    data = dataset(judgement("ranking", "u", "a", "b", "c"))
    assert pairs(data) == [(0, 0, 1, third), (0, 0, 2, third), (0, 1, 2, 1.0)]


def test_ties_are_not_compared_with_each_other():
    data = dataset(judgement("ranking", "u", *"abcde", groups=(2, 1, 2)))
    half, third = 2 / 4, 2 / 3
    first = [(0, winner, loser, half) for winner in (0, 1) for loser in (2, 3, 4)]
    assert pairs(data) == [*first, (0, 2, 3, third), (0, 2, 4, third)]
    assert pairs(dataset(judgement("ranking", "u", "a", "b", groups=(2,)))) == []


def test_a_repeated_text_in_a_list_is_not_compared_with_itself():
    data = dataset(judgement("ranking", "u", "a", "a", "b"))
    assert pairs(data) == [(0, 0, 1, 2 / 3), (0, 0, 1, 1.0)]


def test_the_same_text_in_two_contexts_is_two_items():
    rows = [Judgement("u", context, "pair", ("a", "b")) for context in ("x", "y")]
    data = Dataset.from_judgements(rows, {(c, t): np.zeros(1, np.float16) for c in "xy" for t in "ab"})
    assert len(set(data.keys)) == 4
    assert pairs(data) == [(0, 0, 1, 1.0), (0, 2, 3, 1.0)]


def test_judgements_are_read_once():
    """Judgements may come from a stream, such as a file that does not fit into memory."""
    rows = (judgement("vote", f"u{i}", "a", value=1.0) for i in range(3))
    data = Dataset.from_judgements(rows, {("", "a"): np.zeros(1, np.float16)})
    assert data.votes.user.tolist() == [0, 1, 2]


def test_no_judgements_give_an_empty_dataset():
    data = Dataset.from_judgements([], {})
    assert (len(data), data.users, data.keys, data.vectors.shape) == (0, (), (), (0, 0))
    assert all(len(batch) == 0 for batch in data.kinds)


def test_arrays_are_sliced_by_rows():
    data = dataset(*(judgement("vote", f"u{i}", f"t{i}", value=1.0, weight=0.1 * (i + 1)) for i in range(4)))
    for rows, expected in ((slice(1, 3), [1, 2]), (torch.tensor([3, 0]), [3, 0])):
        some = data.votes[rows]
        assert isinstance(some, JudgementBatch)
        assert (some.user.tolist(), some.item.tolist(), len(some)) == (expected, expected, len(expected))
        assert some.weight.tolist() == pytest.approx([0.1 * (i + 1) for i in expected])


def test_a_dataset_moves_with_all_its_tensors():
    moved = dataset(judgement("vote", "u", "t", value=1.0)).to(torch.device("meta"))
    columns = [getattr(batch, name) for batch in moved.kinds for name in JudgementBatch.__dataclass_fields__]
    assert {column.device.type for column in columns} == {"meta"}


def test_a_text_that_was_never_encoded_is_a_key_error():
    with pytest.raises(KeyError):
        Dataset.from_judgements([judgement("vote", "u", "never encoded", value=1.0)], {})


def test_match_features_are_kept_only_with_their_weights(asked):
    relevance = fit_relevance(asked.judgements, asked.table)
    with_match = Dataset.from_judgements(asked.judgements, asked.table, relevance)
    without = Dataset.from_judgements(asked.judgements, asked.table)
    assert with_match.relevance is relevance
    assert with_match.vectors.shape[1] == asked.table.dim + relevance.basis.width
    assert without.relevance is None
    np.testing.assert_array_equal(without.vectors, with_match.vectors[:, : asked.table.dim])
    assert Dataset.from_judgements([], asked.table).vectors.shape == (0, 0)
