"""`BoundedCache`: which entries it keeps, the order of eviction, and its size."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.service.cache import BoundedCache


def make(limit: int, **options: object) -> BoundedCache[str, int]:
    """Return a cache of numbers in which the size of an entry is its value."""
    return BoundedCache(limit, size=int, **options)


def test_the_least_recently_used_entry_is_dropped_first():
    cache = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert list(cache.items()) == [("a", 1), ("c", 3)]


def test_peek_and_replace_do_not_count_as_use():
    cache = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.peek("a") == 1
    cache.replace("a", 5)
    cache.put("c", 3)
    assert list(cache.items()) == [("b", 2), ("c", 3)]
    with pytest.raises(KeyError):
        cache.replace("a", 1)


def test_a_large_entry_displaces_several_small_ones():
    cache = make(10)
    for key in "abc":
        cache.put(key, 3)
    cache.put("d", 7)
    assert (list(cache.items()), cache.size) == ([("c", 3), ("d", 7)], 10)


def test_an_entry_beyond_the_limit_is_not_kept_unless_requested():
    cache = make(10)
    cache.put("a", 1)
    cache.put("b", 11)
    assert (len(cache), cache.size) == (0, 0)
    newest = make(0, min_entries=1)
    newest.put("a", 1)
    newest.put("b", 11)
    assert (list(newest.items()), newest.size) == ([("b", 11)], 11)


def test_none_can_be_cached():
    cache: BoundedCache[str, int | None] = BoundedCache(2)
    cache.put("a", None)
    cache.put("b", 1)
    assert cache.get("a") is None
    cache.put("c", 2)
    assert ("a" in cache, "b" in cache) == (True, False)


def test_entries_that_are_dropped_for_lack_of_space_are_told():
    evicted = []
    cache = make(10, on_eviction=lambda key, value: evicted.append((key, value)))
    for key, size in (("a", 4), ("b", 5), ("a", 3), ("c", 9)):
        cache.put(key, size)
    cache.remove("c")
    assert evicted == [("b", 5), ("a", 3)]


def test_removed_entries_no_longer_count():
    cache = make(10)
    cache.put("a", 4)
    cache.put("b", 5)
    cache.remove("a")
    cache.remove("unknown")
    assert (cache.peek("a"), cache.size) == (None, 5)
    cache.clear()
    assert (len(cache), cache.size) == (0, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["get", "put", "remove"]), st.sampled_from("abcde"), st.integers(0, 6))
    )
)
def test_it_agrees_with_a_list_of_entries_in_order_of_use(steps):
    cache, expected = make(10), OrderedDict()
    for step, key, size in steps:
        if step == "get":
            assert cache.get(key) == expected.get(key)
            if key in expected:
                expected.move_to_end(key)
        elif step == "put":
            cache.put(key, size)
            expected.pop(key, None)
            expected[key] = size
            while sum(expected.values()) > 10:
                expected.popitem(last=False)
        else:
            cache.remove(key)
            expected.pop(key, None)
        assert (list(cache.items()), cache.size) == (list(expected.items()), sum(expected.values()))
