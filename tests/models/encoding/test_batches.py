"""Batches hold every text once, padded to multiples of 16 within a token budget. Workers use one core each."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penchant.models.encoding.backends import torch as torch_backend
from penchant.models.encoding.backends.request import count_available_cores
from penchant.models.encoding.backends.torch import Workers
from penchant.models.encoding.batches import MULTIPLE, make_batches
from penchant.models.encoding.tokens import Tokens


@given(
    lengths=st.lists(st.integers(1, 300), max_size=60),
    workers=st.integers(1, 8),
    most_tokens=st.sampled_from([16, 128, 1000, 4096]),
)
def test_every_text_is_unchanged_in_exactly_one_batch(lengths, workers, most_tokens):
    rng = np.random.default_rng(0)
    tokens = Tokens.from_sequences([rng.integers(1, 1000, n).tolist() for n in lengths])
    batches = make_batches(tokens, workers=workers, most_tokens=most_tokens, pad=0)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(len(lengths)))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    widths = [batch.ids.shape[1] for batch in batches]
    assert widths == sorted(widths, reverse=True)
    for batch in batches:
        width = batch.ids.shape[1]
        assert width % MULTIPLE == 0
        assert batch.ids.size <= most_tokens or len(batch.rows) == 1
        for row, ids, mask in zip(batch.rows, batch.ids, batch.mask, strict=True):
            n = lengths[row]
            assert ids.tolist() == [*tokens.ids[starts[row] : starts[row + 1]], *[0] * (width - n)]
            assert mask.tolist() == [1] * n + [0] * (width - n)


def test_sorting_leaves_little_padding():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 250, 64)
    tokens = Tokens.from_sequences([[1] * n for n in lengths])
    padded = sum(batch.ids.size for batch in make_batches(tokens, workers=2, most_tokens=2048, pad=0))
    assert padded < 1.25 * lengths.sum() < 0.8 * 64 * lengths.max()


@pytest.mark.parametrize(
    ("texts", "length", "workers", "expected"),
    [
        (16, 128, 1, [16]),  # a single worker takes everything as one share
        (16, 128, 2, [4, 4, 4, 4]),
        (2, 112, 2, [1, 1]),
        (8, 16, 2, [8]),  # too little to share
        (64, 256, 2, [8] * 8),
    ],
)
def test_work_is_split_among_workers(texts, length, workers, expected):
    tokens = Tokens.from_sequences([[1] * length] * texts)
    assert [len(b.rows) for b in make_batches(tokens, workers=workers, most_tokens=2048, pad=0)] == expected


@pytest.mark.parametrize(
    ("content", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_container_quota_limits_the_cores(tmp_path, content, cores):
    unlimited = count_available_cores(tmp_path / "missing")
    assert unlimited >= 1
    quota = tmp_path / "cpu.max"
    quota.write_text(content)
    assert count_available_cores(quota) == (cores or unlimited)


def test_workers_use_one_core_each_and_other_threads_keep_theirs():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        workers = Workers(2, torch_backend._take_one_core)
        torch.set_num_threads(3)
        found = workers.map(lambda _: (threading.get_ident(), torch.get_num_threads()), range(20))
        assert {threads for _, threads in found} == {1}
        assert len({name for name, _ in found}) <= 2
        assert torch.get_num_threads() == 3
        others = []
        thread = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert others == [3]
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_worker_is_raised():
    def fail(n):
        raise ValueError(f"item {n}")

    with pytest.raises(ValueError, match="item 0"):
        Workers(2, lambda: None).map(fail, range(3))
