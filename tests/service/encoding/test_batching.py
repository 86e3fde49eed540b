"""Batches of the encoder: how requests are merged, isolated from each other, and limited."""

import asyncio
import threading
import time

import numpy as np
import pytest

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.service.encoding.batching import MicroBatcher, ThroughputEstimate
from penchant.service.errors import ApiError, Code, OverloadedError
from penchant.service.settings import Settings
from penchant.service.telemetry.metrics import Telemetry

from ..conftest import WatchedEncoder


def run(encoder, scenario, **changes):
    """Run `scenario(batcher)` on an event loop with a started batcher."""

    async def main():
        batcher = MicroBatcher(FeatureExtractor(encoder), Settings(**changes), Telemetry())
        batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher), timeout=30)
        finally:
            encoder.gate.set()
            await batcher.stop()
            assert batcher.find_fault() == "its thread has ended"

    return asyncio.run(main())


def ask(batcher, *texts):
    return asyncio.ensure_future(batcher.extract(texts, [""] * len(texts)))


async def block(batcher, encoder):
    """Block the encoder, so that the following requests wait together."""
    encoder.gate.clear()
    first = ask(batcher, "first")
    await asyncio.to_thread(encoder.entered.wait)
    return first


async def wait_until_read(batcher):
    """Wait until all texts have been read, so that they wait only for the encoder."""
    await asyncio.sleep(0)
    while not batcher.has_read_all:
        await asyncio.sleep(0)


def test_waiting_requests_are_encoded_in_one_batch(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        waiting = [ask(batcher, "a", "b"), ask(batcher, "b", "c"), ask(batcher, "d")]
        await wait_until_read(batcher)
        encoder.gate.set()
        return [await first, *[await request for request in waiting]]

    answers = run(encoder, scenario)
    assert encoder.calls == [["first"], ["a", "b", "c", "d"]]  # the shared text only once
    reference = FeatureExtractor(HashingEncoder())
    for answer, texts in zip(answers, (["first"], ["a", "b"], ["b", "c"], ["d"]), strict=True):
        np.testing.assert_array_equal(answer.features.vectors, reference.extract(texts).vectors)
        assert answer.queue_seconds >= 0
        assert answer.encode_seconds > 0


def test_a_batch_counts_the_tokens_of_all_windows():
    """Each long text has 12 words in three windows, and each request its own features."""
    encoder = WatchedEncoder(max_tokens=4, max_windows=3)
    long = [" ".join(f"{name}{i}" for i in range(12)) for name in "abc"]

    async def scenario(batcher):
        first = await block(batcher, encoder)
        waiting = [ask(batcher, long[0], "d"), ask(batcher, long[1]), ask(batcher, long[2])]
        await wait_until_read(batcher)
        encoder.gate.set()
        return [await first, *[await request for request in waiting]]

    answers = run(encoder, scenario, max_batch_tokens=25)
    assert encoder.calls == [["first"], ["d", long[0], long[1]], [long[2]]]
    reference = FeatureExtractor(HashingEncoder(max_tokens=4, max_windows=3))
    for answer, texts in zip(answers[1:], ([long[0], "d"], [long[1]], [long[2]]), strict=True):
        expected = reference.extract(texts)
        np.testing.assert_array_equal(answer.features.vectors, expected.vectors)
        assert answer.features.tokens.tolist() == expected.tokens.tolist()
        for own, other in zip(answer.features.windows, expected.windows, strict=True):
            np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("limits", [{"max_batch_texts": 4}, {"max_batch_tokens": 4}])
def test_a_batch_is_limited_in_texts_and_tokens(encoder, limits):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        waiting = [ask(batcher, "a", "b"), ask(batcher, "c", "d"), ask(batcher, "e", "f")]
        await wait_until_read(batcher)
        encoder.gate.set()
        await asyncio.gather(first, *waiting)

    run(encoder, scenario, **limits)
    assert encoder.calls == [["first"], ["a", "b", "c", "d"], ["e", "f"]]


def test_one_request_cannot_fail_another(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        good, bad = ask(batcher, "good"), ask(batcher, "poison")
        await wait_until_read(batcher)
        encoder.gate.set()
        await first
        with pytest.raises(ApiError) as failure:
            await bad
        assert failure.value.code is Code.INTERNAL
        return await good

    assert len(run(encoder, scenario).features.vectors) == 1


def test_features_that_are_not_finite_are_refused(encoder, monkeypatch):
    encode = FeatureExtractor.encode

    def broken(self, texts):
        features = encode(self, texts)
        features.vectors[0, 0] = np.nan
        return features

    monkeypatch.setattr(FeatureExtractor, "encode", broken)

    async def scenario(batcher):
        with pytest.raises(ApiError):
            await ask(batcher, "a")

    run(encoder, scenario)


def test_a_failing_batch_fails_only_the_request_at_fault(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        bad, good = ask(batcher, "shared", "poison"), ask(batcher, "shared", "good")
        other = ask(batcher, "other")
        await wait_until_read(batcher)
        encoder.gate.set()
        results = await asyncio.gather(first, bad, good, other, return_exceptions=True)
        assert await ask(batcher, "shared")  # nothing is left of the failure
        return results

    _, bad, good, other = run(encoder, scenario)
    assert isinstance(bad, ApiError)
    reference = FeatureExtractor(HashingEncoder())
    np.testing.assert_array_equal(good.features.vectors, reference.extract(["shared", "good"]).vectors)
    np.testing.assert_array_equal(other.features.vectors, reference.extract(["other"]).vectors)


def test_a_text_that_cannot_be_read_fails_only_its_own_request(encoder, monkeypatch):
    read = FeatureExtractor.read

    def failing(self, texts, prompts=None):
        if "unreadable" in texts:
            raise RuntimeError("secret reason of the failure")
        return read(self, texts, prompts)

    monkeypatch.setattr(FeatureExtractor, "read", failing)

    async def scenario(batcher):
        return await asyncio.gather(
            ask(batcher, "fine", "unreadable"), ask(batcher, "fine"), return_exceptions=True
        )

    bad, good = run(encoder, scenario)
    assert isinstance(bad, ApiError)
    assert len(good.features.vectors) == 1


def test_a_small_request_does_not_wait_for_a_large_one(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        large = ask(batcher, *[f"l{n}" for n in range(28)])
        await wait_until_read(batcher)
        small = ask(batcher, "s0", "s1", "s2", "s3")
        await wait_until_read(batcher)
        encoder.gate.set()
        await asyncio.gather(first, small, large)

    run(encoder, scenario, max_batch_tokens=8)
    batches = encoder.calls[1:]
    assert [sum(text.startswith("s") for text in batch) for batch in batches[:2]] == [0, 4]
    assert all(len(batch) == 8 for batch in batches)
    assert [text for batch in batches for text in batch if text.startswith("l")] == [
        f"l{n}" for n in range(28)
    ]


def test_a_batch_is_sorted_by_length(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        waiting = [ask(batcher, "x" * 40, "a"), ask(batcher, "y" * 20)]
        await wait_until_read(batcher)
        encoder.gate.set()
        await asyncio.gather(first, *waiting)

    run(encoder, scenario)
    assert encoder.calls[1] == ["a", "y" * 20, "x" * 40]


def test_a_text_that_is_being_encoded_is_not_encoded_again(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        again = ask(batcher, "first", "second")
        await wait_until_read(batcher)
        encoder.gate.set()
        return await asyncio.gather(first, again)

    first, again = run(encoder, scenario)
    assert encoder.calls == [["first"], ["second"]]
    np.testing.assert_array_equal(again.features.vectors[0], first.features.vectors[0])


def test_encode_seconds_cover_the_batches_of_the_request(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        waiting = ask(batcher, *[f"t{n}" for n in range(10)])
        await wait_until_read(batcher)
        encoder.gate.set()
        started = time.perf_counter()
        result = await waiting
        await first
        return result, time.perf_counter() - started

    result, elapsed = run(encoder, scenario, max_batch_tokens=2)
    assert result.queue_seconds > 0
    assert (
        0 < result.encode_seconds <= elapsed
    )  # all five of its batches, and no batch with only texts of others


def test_throughput_is_that_of_the_latest_large_batches():
    throughput = ThroughputEstimate()
    assert throughput.tokens_per_second == 10_000
    for _ in range(50):
        throughput.update(4000, 0.1)
    throughput.update(1, 0.01)  # a batch of one word has little weight
    assert throughput.tokens_per_second == pytest.approx(40_000, rel=0.05)


def test_a_full_queue_refuses_requests(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        waiting = ask(batcher, "a", "b")
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refusal:
            await ask(batcher, "c", "d")
        encoder.gate.set()
        await asyncio.gather(first, waiting)
        await ask(batcher, "c", "d")  # there is room again
        return refusal.value

    refusal = run(encoder, scenario, max_queued_texts=4)
    assert (refusal.code, refusal.status) == (Code.OVERLOADED, 429)
    assert int(refusal.headers["Retry-After"]) >= 1
    assert refusal.headers["RateLimit-Policy"] == '"encoder";q=4'
    assert refusal.headers["RateLimit"].startswith('"encoder";r=0;t=')


def test_a_request_larger_than_the_queue_is_served_when_nothing_waits(encoder):
    async def scenario(batcher):
        return await ask(batcher, "a", "b", "c")

    assert len(run(encoder, scenario, max_queued_texts=2).features.vectors) == 3


def test_a_cancelled_request_is_not_encoded(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        leaving, staying = ask(batcher, "left"), ask(batcher, "stayed")
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        encoder.gate.set()
        await asyncio.gather(first, staying)

    run(encoder, scenario)
    assert encoder.calls == [["first"], ["stayed"]]


def test_stopping_finishes_waiting_requests(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)
        waiting = ask(batcher, "a")
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(batcher.stop())
        await wait_until_read(batcher)
        encoder.gate.set()
        await asyncio.gather(first, waiting, stopping)
        return waiting.result()

    assert len(run(encoder, scenario).features.vectors) == 1


def test_overload_reaches_the_caller_as_429(serve, encoder):
    client = serve(max_queued_texts=2)
    encoder.gate.clear()
    body = {"query": "q", "documents": ["a", "b"]}
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(client.post("/v1/rerank", json=body)))
    waiting.start()
    encoder.entered.wait()
    refused = client.post("/v1/rerank", json={"query": "q", "documents": ["c"]})
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert {"retry-after", "ratelimit", "ratelimit-policy"} <= set(refused.headers)
    encoder.gate.set()
    waiting.join()
    assert answers[0].status_code == 200
    assert client.post("/v1/rerank", json=body).status_code == 200


def test_a_request_that_would_wait_too_long_is_refused(encoder):
    async def scenario(batcher):
        first = await block(batcher, encoder)  # two tokens at the initial estimate of 10,000 a second
        with pytest.raises(OverloadedError):
            await ask(batcher, "a")
        encoder.gate.set()
        await first
        await ask(batcher, "a")

    run(encoder, scenario, max_queue_seconds=1e-6)


def test_the_thread_survives_an_unexpected_error(encoder, monkeypatch):
    async def scenario(batcher):
        with monkeypatch.context() as patch:
            patch.setattr(batcher, "_encode", lambda _batch: {}["unforeseen"])
            with pytest.raises(ApiError) as failure:
                await ask(batcher, "a")
        assert failure.value.code is Code.INTERNAL
        return await ask(batcher, "a")

    assert len(run(encoder, scenario).features.vectors) == 1
