"""The encoder's owner thread: merging, isolation, bounds."""

import asyncio
import threading

import numpy as np
import pytest

from penchant.models.encoder import HashingEncoder
from penchant.models.features import FeatureExtractor
from penchant.service.batching import MicroBatcher
from penchant.service.errors import ApiError, Code, OverloadedError
from penchant.service.settings import Settings
from penchant.service.telemetry import Telemetry


def run(encoder, scenario, **changes):
    """Runs `scenario(batcher)` on an event loop, the owner thread being alive."""

    async def main():
        batcher = MicroBatcher(FeatureExtractor(encoder), Settings(**changes), Telemetry())
        batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher), timeout=30)
        finally:
            encoder.gate.set()
            await batcher.stop()
            assert not batcher.alive

    return asyncio.run(main())


def ask(batcher, *texts):
    return asyncio.ensure_future(batcher.extract(texts, [""] * len(texts)))


async def held_up(batcher, encoder):
    """Occupies the encoder; what is asked next waits together."""
    encoder.gate.clear()
    first = ask(batcher, "first")
    await asyncio.to_thread(encoder.entered.wait)
    return first


def test_what_waits_together_is_encoded_together(encoder):
    async def scenario(batcher):
        first = await held_up(batcher, encoder)
        waiting = [ask(batcher, "a", "b"), ask(batcher, "b", "c"), ask(batcher, "d")]
        await asyncio.sleep(0)
        encoder.gate.set()
        return [await first, *[await one for one in waiting]]

    answers = run(encoder, scenario)
    assert encoder.calls == [["first"], ["a", "b", "c", "d"]]  # and the text they share only once
    alone = FeatureExtractor(HashingEncoder())
    for answer, texts in zip(answers, (["first"], ["a", "b"], ["b", "c"], ["d"]), strict=True):
        np.testing.assert_array_equal(answer.features.vectors, alone.extract(texts).vectors)
        assert answer.queue_seconds >= 0
        assert answer.encode_seconds > 0


@pytest.mark.parametrize("limits", [{"max_batch_texts": 4}, {"max_batch_chars": 4}])
def test_a_batch_has_a_budget(encoder, limits):
    async def scenario(batcher):
        first = await held_up(batcher, encoder)
        waiting = [ask(batcher, "a", "b"), ask(batcher, "c", "d"), ask(batcher, "e", "f")]
        await asyncio.sleep(0)
        encoder.gate.set()
        await asyncio.gather(first, *waiting)

    run(encoder, scenario, **limits)
    assert encoder.calls == [["first"], ["a", "b", "c", "d"], ["e", "f"]]


def test_one_request_cannot_fail_another(encoder):
    async def scenario(batcher):
        first = await held_up(batcher, encoder)
        good, bad = ask(batcher, "good"), ask(batcher, "poison")
        await asyncio.sleep(0)
        encoder.gate.set()
        await first
        with pytest.raises(ApiError) as failure:
            await bad
        assert failure.value.code is Code.INTERNAL
        return await good

    assert len(run(encoder, scenario).features.vectors) == 1


def test_features_that_are_not_finite_are_refused(encoder, monkeypatch):
    extract = FeatureExtractor.extract

    def broken(self, texts, prompts=None):
        features = extract(self, texts, prompts)
        features.vectors[0, 0] = np.nan
        return features

    monkeypatch.setattr(FeatureExtractor, "extract", broken)

    async def scenario(batcher):
        with pytest.raises(ApiError):
            await ask(batcher, "a")

    run(encoder, scenario)


def test_a_full_queue_refuses(encoder):
    async def scenario(batcher):
        first = await held_up(batcher, encoder)
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
        first = await held_up(batcher, encoder)
        leaving, staying = ask(batcher, "left"), ask(batcher, "stayed")
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        encoder.gate.set()
        await asyncio.gather(first, staying)

    run(encoder, scenario)
    assert encoder.calls == [["first"], ["stayed"]]


def test_stopping_finishes_what_waits(encoder):
    async def scenario(batcher):
        first = await held_up(batcher, encoder)
        waiting = ask(batcher, "a")
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(batcher.stop())
        await asyncio.sleep(0)
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


def test_a_queue_that_would_take_too_long_refuses(encoder):
    async def scenario(batcher):
        first = await held_up(batcher, encoder)  # one text that may take 10 ms, as far as is known
        with pytest.raises(OverloadedError):
            await ask(batcher, "a")
        encoder.gate.set()
        await first
        await ask(batcher, "a")

    run(encoder, scenario, max_queue_seconds=0.001)


def test_the_thread_outlives_what_nobody_foresaw(encoder, monkeypatch):
    async def scenario(batcher):
        with monkeypatch.context() as patch:
            patch.setattr(batcher, "_encode", lambda _batch: {}["unforeseen"])
            with pytest.raises(ApiError) as failure:
                await ask(batcher, "a")
        assert failure.value.code is Code.INTERNAL
        return await ask(batcher, "a")

    assert len(run(encoder, scenario).features.vectors) == 1
