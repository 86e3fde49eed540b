"""What is kept in memory: bounded, and never older than the store."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from penchant.models.encoder import HashingEncoder
from penchant.models.features import FeatureExtractor
from penchant.models.posterior import UserPosterior
from penchant.models.testing import tiny_bundle
from penchant.service.feature_cache import OVERHEAD_BYTES, CachedFeature, FeatureCache
from penchant.service.forgetting import Evidence, Forgetting
from penchant.service.states import StateCache, UserState, UserStates
from penchant.service.store.database import Database

DIM = 10
ENTRY = DIM * 2 + OVERHEAD_BYTES


def feature(value=0.0):
    return CachedFeature(np.full(DIM, value, np.float16), 1, False)


def test_the_feature_cache_drops_what_was_not_used():
    cache = FeatureCache(2 * ENTRY)
    for key in (b"a", b"b"):
        cache.put("t", key, feature())
    assert cache.get("t", b"a") is not None
    cache.put("t", b"c", feature())
    assert [cache.get("t", key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert cache.bytes == 2 * ENTRY
    cache.put("t", b"a", feature(1.0))
    assert cache.bytes == 2 * ENTRY
    assert cache.get("t", b"a").vector[0] == 1.0
    cache.forget("t", [b"a", b"unknown"])
    assert (cache.get("t", b"a"), len(cache), cache.bytes) == (None, 1, ENTRY)


def test_the_feature_cache_is_apart_for_each_tenant():
    cache = FeatureCache(10 * ENTRY)
    cache.put("t", b"a", feature())
    assert cache.get("u", b"a") is None
    cache.forget("u", [b"a"])
    assert cache.get("t", b"a") is not None


def test_a_cache_without_room_keeps_nothing():
    cache = FeatureCache(0)
    cache.put("t", b"a", feature())
    assert (len(cache), cache.bytes) == (0, 0)


def test_ranking_works_without_a_cache(serve):
    client = serve(feature_cache_bytes=0, item_cache_bytes=0, ranking_cache_bytes=0, max_cached_users=1)
    asked = {"query": "q", "documents": ["a", "b", "a"]}
    for user in ("u", "v", "u"):
        rank_id = client.post("/v1/rerank", json=asked | {"user": user}).json()["id"]
        client.post("/v1/rerank", json=asked)
        vote = {"type": "vote", "rank_id": rank_id, "index": 0, "value": 1, "user": user}
        assert client.post("/v1/feedback", json=vote).json()["accepted"] == 1
    assert client.get("/v1/users/u").json()["feedback_events"] == 2


POPULATION = tiny_bundle(FeatureExtractor(HashingEncoder())).reward.population


def state(version):
    return UserState(version, version, Evidence(UserPosterior.at_prior(POPULATION)), 0.0)


KEY = ("t", "u")


def test_states_are_bounded():
    cache = StateCache(2)
    for user in "abc":
        cache.publish(("t", user), state(1))
    assert [cache.find(("t", user))[0] for user in "abc"] == [False, True, True]


def test_an_unknown_user_is_remembered_as_such():
    cache = StateCache(2)
    load = cache.begin(KEY)
    assert cache.finish(KEY, load, None) is None
    assert cache.find(KEY) == (True, None)


@pytest.mark.parametrize("newest", [state(2), None])
def test_a_read_cannot_undo_a_write(newest):
    cache = StateCache(2)
    load = cache.begin(KEY)  # reads version 1 …
    cache.publish(KEY, newest)  # … while version 2, or a deletion, is committed …
    for user in "abc":
        cache.publish(("t", user), state(1))  # … and dropped from memory
    assert cache.finish(KEY, load, state(1)) is newest
    assert cache.find(KEY) == (False, None)


def test_a_failed_read_leaves_no_trace(tmp_path):
    database = Database(tmp_path)
    database.close()

    async def main():
        with ThreadPoolExecutor(1) as readers:
            states = UserStates(
                cache=StateCache(2),
                database=database,
                readers=readers,
                population=POPULATION,
                forgetting=Forgetting(),
                clock=float,
            )
            entered, leave = Event(), Event()

            def fail(_tenant, _user):
                entered.set()
                leave.wait()
                raise OSError("gone")

            states._read = fail
            reading = asyncio.ensure_future(states.get("t", "u"))
            await asyncio.to_thread(entered.wait)
            leave.set()
            with pytest.raises(OSError, match="gone"):
                await reading
            return states._cache._loads

    assert asyncio.run(main()) == {}
