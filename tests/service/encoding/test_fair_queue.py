"""The fair queue: order, fairness, shared texts and abandoned requests, without threads or a clock."""

import numpy as np
import pytest

from penchant.models.encoding.features import ReadText
from penchant.service.encoding.fair_queue import READ_TEXTS, FairQueue, Job

NOTHING = np.zeros(0, np.float32)


@pytest.fixture
def queue():
    return FairQueue(len)


def ask(queue, *texts):
    job = Job(len(texts))
    queue.add(job, [(text, "") for text in texts])
    return job


def read(queue, ahead=10**6):
    """Read all texts, with one token for each character. Return them in the order of reading."""
    order = []
    while entries := queue.take_unread(ahead):
        order += [entry.pair[0] for entry in entries]
        sizes = [len(entry.pair[0]) for entry in entries]
        queue.add_read(
            (entry, ReadText(*entry.pair, NOTHING, None, size))
            for entry, size in zip(entries, sizes, strict=True)
        )
    return order


def batches(queue, budget, most=1000):
    """Encode all waiting texts. Return them by batch."""
    texts = []
    while batch := queue.take_batch(budget, most):
        for entry in batch:
            queue.complete(entry)
        texts.append([entry.pair[0] for entry in batch])
    return texts


def test_ordinary_requests_are_served_whole_in_order_of_arrival(queue):
    for name in "abc":
        ask(queue, *[f"{name}{n}" for n in range(4)])
    read(queue)
    assert batches(queue, 8) == [[f"{name}{n}" for n in range(4)] for name in "abc"]
    assert len(queue) == queue.n_texts == 0


def test_a_large_request_leaves_room_for_later_requests(queue):
    ask(queue, *[f"l{n:02}" for n in range(60)])
    read(queue)
    first = queue.take_batch(24, 1000)
    assert len(first) == 8  # there is no other request
    small = ask(queue, "s00", "s01", "s02")
    read(queue)
    second = [entry.pair[0] for entry in queue.take_batch(24, 1000)]
    assert {"s00", "s01", "s02"} < set(second)
    assert len(second) == 8  # the large request fills the rest of the batch
    assert small.credit > 0


def test_large_requests_get_equal_shares(queue):
    jobs = [ask(queue, *[f"{name}{n:02}" for n in range(50)]) for name in "abc"]
    read(queue)
    for _ in range(15):
        for entry in queue.take_batch(24, 1000):
            queue.complete(entry)
    left = [job.tokens for job in jobs]
    assert max(left) - min(left) <= 24


def test_a_text_larger_than_a_batch_is_a_batch(queue):
    ask(queue, "x" * 50, "y")
    read(queue)
    assert batches(queue, 10) == [["x" * 50], ["y"]]


def test_a_batch_is_limited_in_texts(queue):
    ask(queue, *"abcdef")
    read(queue)
    assert batches(queue, 100, most=4) == [["a", "b", "c", "d"], ["e", "f"]]


def test_a_shared_text_is_read_and_encoded_once(queue):
    first, second = ask(queue, "a", "b", "a"), ask(queue, "b", "c")
    assert read(queue) == ["a", "b", "c"]
    shared = next(entry for entry in queue.take_batch(100, 100) if entry.pair[0] == "b")
    assert queue.complete(shared) == {first: [1], second: [0]}
    assert (first.n_pending, second.n_pending) == (1, 1)


def test_a_request_waits_for_a_text_that_is_being_encoded(queue):
    ask(queue, "a")
    read(queue)
    (entry,) = queue.take_batch(10, 10)
    late = ask(queue, "a")
    assert queue.take_batch(10, 10) == []
    assert late in queue.complete(entry)
    assert len(queue) == 0


def test_abandoned_texts_are_neither_read_nor_encoded(queue):
    leaving, staying = ask(queue, "a", "b"), ask(queue, "b", "c")
    queue.abandon(leaving)
    assert read(queue) == ["b", "c"]
    later = ask(queue, "d")
    read(queue)
    queue.abandon(later)
    assert batches(queue, 100) == [["b", "c"]]
    assert (staying.n_pending, queue.n_texts) == (0, 0)
    assert read(queue) == []


def test_reading_takes_turns_and_stops_ahead_of_the_encoder(queue):
    ask(queue, *[f"l{n:03}" for n in range(3 * READ_TEXTS)])
    ask(queue, "small")
    order = read(queue, ahead=10)
    assert order.index("small") == READ_TEXTS
    assert len(order) == READ_TEXTS + 1  # the rest waits until these are encoded
    batches(queue, 1000)
    assert len(read(queue, ahead=10)) == READ_TEXTS


def test_shared_texts_of_a_failed_batch_are_queued_again(queue):
    failed, other = ask(queue, "a", "b"), ask(queue, "b")
    read(queue)
    batch = queue.take_batch(100, 100)
    queue.abandon(failed)
    for entry in batch:
        (queue.requeue if entry.waiting else queue.complete)(entry)
    assert batches(queue, 100) == [["b"]]
    assert other.n_pending == 0


def test_the_backlog_counts_only_tokens_that_are_encoded_before(queue):
    ask(queue, "x" * 1000)
    ask(queue, "y" * 20)
    # A small request waits for one turn of the large one, and a large request for all of both.
    assert queue.estimate_backlog(10, turn=100) == 100 + 20
    assert queue.estimate_backlog(5000, turn=100) == 1020
