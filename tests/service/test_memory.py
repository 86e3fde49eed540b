"""The in-memory caches are bounded and never older than the store."""

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from penchant.models.encoding.features import FeatureExtractor, TextFeatures
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.posterior import UserPosterior
from penchant.models.testing import tiny_bundle
from penchant.service.encoding.featurizer import OVERHEAD_BYTES, FeatureCache
from penchant.service.users.states import MAX_UNKNOWN_USERS, Evidence, StateCache, UserState

DIM = 10
ENTRY = DIM * 2 + OVERHEAD_BYTES


def feature(value=0.0):
    return TextFeatures(np.full(DIM, value, np.float16), 1, False)


def test_the_feature_cache_drops_unused_entries():
    cache = FeatureCache(2 * ENTRY)
    for key in (b"a", b"b"):
        cache.put("t", key, feature())
    assert cache.get("t", b"a") is not None
    cache.put("t", b"c", feature())
    assert [cache.get("t", key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert cache.size == 2 * ENTRY
    cache.put("t", b"a", feature(1.0))
    assert cache.size == 2 * ENTRY
    assert cache.get("t", b"a").vector[0] == 1.0
    cache.remove("t", [b"a", b"unknown"])
    assert (cache.get("t", b"a"), len(cache), cache.size) == (None, 1, ENTRY)


def test_the_windows_of_a_long_text_take_memory():
    cache = FeatureCache(10 * ENTRY)
    cache.put("t", b"a", TextFeatures(np.zeros(DIM, np.float16), 9, False, np.zeros((3, 4), np.float16)))
    assert cache.size == ENTRY + 3 * 4 * 2
    assert cache.get("t", b"a").windows.shape == (3, 4)
    small = FeatureCache(2 * ENTRY)
    small.put("t", b"a", feature())
    small.put("t", b"b", TextFeatures(np.zeros(DIM, np.float16), 9, False, np.zeros((3, 4), np.float16)))
    assert [small.get("t", key) is not None for key in (b"a", b"b")] == [False, True]


def test_the_feature_cache_is_separate_for_each_tenant():
    cache = FeatureCache(10 * ENTRY)
    cache.put("t", b"a", feature())
    assert cache.get("u", b"a") is None
    cache.remove("u", [b"a"])
    assert cache.get("t", b"a") is not None


def test_a_cache_without_room_keeps_nothing():
    cache = FeatureCache(0)
    cache.put("t", b"a", feature())
    assert (len(cache), cache.size) == (0, 0)


def test_ranking_works_without_a_cache(serve):
    client = serve(feature_cache_bytes=0, item_cache_bytes=0, ranking_cache_bytes=0, max_cached_users=1)
    request = {"query": "q", "documents": ["a", "b", "a"]}
    for user in ("u", "v", "u"):
        rank_id = client.post("/v1/rerank", json=request | {"user": user}).json()["id"]
        client.post("/v1/rerank", json=request)
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


def test_an_unknown_user_is_cached_as_unknown():
    cache = StateCache(2)
    load = cache.begin_load(KEY)
    assert cache.finish_load(KEY, load, None) is None
    assert cache.find(KEY) == (True, None)


def test_unknown_users_take_no_place_of_others():
    cache = StateCache(1)
    cache.publish(KEY, state(1))
    for number in range(MAX_UNKNOWN_USERS + 1):
        other = ("t", f"stranger {number}")
        cache.finish_load(other, cache.begin_load(other), None)
    assert cache.find(KEY)[1].version == 1
    assert cache.find(("t", "stranger 0")) == (False, None)
    assert cache.find(("t", f"stranger {MAX_UNKNOWN_USERS}")) == (True, None)


def test_an_unknown_user_with_a_first_judgement_is_known():
    cache = StateCache(1)
    cache.finish_load(KEY, cache.begin_load(KEY), None)
    load = cache.begin_load(KEY)  # reads that there is no such user …
    cache.publish(KEY, first := state(1))  # … while the first judgement is committed
    assert cache.finish_load(KEY, load, None) is first
    assert cache.find(KEY) == (True, first)
    cache.publish(KEY, None)
    assert cache.find(KEY)[1] is None


@pytest.mark.parametrize("newest", [state(2), None])
def test_a_read_cannot_undo_a_write(newest):
    cache = StateCache(2)
    load = cache.begin_load(KEY)  # reads version 1 …
    cache.publish(KEY, newest)  # … while version 2, or a deletion, is committed …
    for user in "abc":
        cache.publish(("t", user), state(1))  # … and dropped from memory
    assert cache.finish_load(KEY, load, state(1)) is newest
    assert cache.find(KEY) == (False, None)


def behind(version, through):
    evidence = Evidence(UserPosterior.at_prior(POPULATION), float(through))
    return UserState(version, version, evidence, 0.0, last_seq=version, through_seq=through)


def test_a_state_learned_during_a_write_is_not_lost():
    """A read that catches up may take longer than the time between two writes, but must still finish."""
    cache = StateCache(2)
    load = cache.begin_load(KEY)
    cache.publish(KEY, behind(8, through=3))  # written meanwhile, without having learned
    # The state that was read, which is recent enough for a request made before the write.
    read = behind(7, through=7)
    assert cache.finish_load(KEY, load, read) is read
    _, cached = cache.find(KEY)
    assert (cached.version, cached.last_seq, cached.through_seq, cached.evidence.learned_at) == (8, 8, 7, 7.0)


def test_a_deletion_is_not_undone_by_a_learned_state():
    cache = StateCache(2)
    load = cache.begin_load(KEY)
    cache.publish(KEY, None)
    cache.publish(KEY, behind(1, through=0))  # another user with the same id
    assert cache.finish_load(KEY, load, behind(7, through=7)).version == 1
    assert cache.find(KEY)[1].through_seq == 0


def test_memory_accepts_a_state_replayed_from_the_same_log():
    cache = StateCache(2)
    cache.publish(KEY, behind(8, through=3))
    cache.advance(KEY, behind(7, through=7))
    assert cache.find(KEY)[1].through_seq == 3
    cache.advance(KEY, behind(8, through=8))
    assert cache.find(KEY)[1].is_current
    cache.advance(("t", "not in memory"), behind(8, through=8))
    assert cache.find(("t", "not in memory")) == (False, None)


def test_a_failed_read_leaves_no_trace(client):
    """The next read succeeds."""
    runtime = client.app.state.runtime
    client.post("/v1/feedback", json={"type": "vote", "user": "u", "text": "t", "value": 1})
    runtime.models.current.cache.clear()
    engine = runtime.store._readers

    def broken(_connection, _cursor, statement, *_rest):
        raise OperationalError(statement, {}, OSError("disk I/O error"))

    event.listen(engine, "before_cursor_execute", broken)
    refused = client.get("/v1/users/u")
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert refused.headers["retry-after"] == "5"
    assert "disk" not in refused.text
    assert runtime.models.current.cache._loads == {}
    event.remove(engine, "before_cursor_execute", broken)
    assert client.get("/v1/users/u").json()["feedback_events"] == 1
