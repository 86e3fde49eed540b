"""The feed of changes between the servers and commands of one store."""

import threading

import pytest
from sqlalchemy.exc import OperationalError

from penchant.service.feed import KEPT_SECONDS, Feed
from penchant.service.store import feed as rows
from penchant.service.store.database import Store


@pytest.fixture
def database(settings, clock):
    database = Store.open(settings, clock=clock)
    yield database
    database.close()


@pytest.fixture
def feed(database, clock):
    """Feed that polls only on demand, because its thread waits for an hour."""
    feed = Feed(database, 3600.0)
    feed.heard = []
    feed.subscribe("keys", lambda change: feed.heard.append((change.number, change.kind, change.tenant)))
    feed.start()
    yield feed
    feed.stop()


def append_changes(database, clock, *kinds, tenant="acme"):
    for kind in kinds:
        with database.writing() as connection:
            rows.append(connection, tenant, kind, {"of": kind}, clock())


def test_a_change_reaches_its_subscribers_once(database, feed, clock):
    append_changes(database, clock, "keys", "bundle", "keys")
    feed.poll()
    feed.poll()
    assert feed.heard == [(1, "keys", "acme"), (3, "keys", "acme")]


def test_a_change_has_its_detail_and_time(database, clock):
    append_changes(database, clock, "forget")
    with database.reading() as connection:
        (change,) = rows.list_changes(connection, 0)
    assert (change.detail, change.created_at) == ({"of": "forget"}, clock.now)


def test_changes_before_the_start_are_skipped(database, clock):
    append_changes(database, clock, "keys", "keys")
    late, received = Feed(database, 3600.0), []
    late.subscribe("keys", received.append)
    late.start()
    late.poll()
    assert received == []
    append_changes(database, clock, "keys")
    late.poll()
    late.stop()
    assert [change.number for change in received] == [3]


def test_more_than_a_page_of_changes_is_delivered(database, feed, clock):
    with database.writing() as connection:
        for _ in range(2 * rows.PAGE + 1):
            rows.append(connection, "", "keys", {}, clock())
    feed.poll()
    assert [number for number, *_ in feed.heard] == list(range(1, 2 * rows.PAGE + 2))


def test_nothing_is_lost_while_the_store_fails(database, feed, clock, monkeypatch, logs):
    def broken(*_):
        raise OperationalError("SELECT", {}, Exception("the connection is gone"))

    with monkeypatch.context() as patch:
        patch.setattr(rows, "find_newest", broken)
        feed.poll()
        feed.poll()
    assert [entry["event"] for entry in logs] == ["feed_failed"]  # logged once
    append_changes(database, clock, "keys")
    feed.poll()
    assert feed.heard == [(1, "keys", "acme")]


def test_a_failing_subscriber_is_asked_to_drop_everything(database, feed, clock, logs):
    received, broken = [], [True]

    def receive(change):
        if broken:
            raise OperationalError("SELECT", {}, Exception("not now"))
        received.append(change.kind)

    feed.subscribe("keys", receive)
    append_changes(database, clock, "keys")
    feed.poll()
    assert (received, feed.heard) == ([], [(1, "keys", "acme")])
    broken.clear()
    feed.poll()
    append_changes(database, clock, "keys")
    feed.poll()
    assert received == ["all", "keys"]
    assert {entry["event"] for entry in logs} == {"subscriber_failed"}


def test_old_changes_are_removed_and_servers_that_missed_them_drop_everything(database, feed, clock):
    append_changes(database, clock, *["keys"] * 3)
    clock.now += KEPT_SECONDS + 1
    append_changes(database, clock, "bundle")
    with database.writing() as connection:
        assert rows.prune(connection, clock.now - KEPT_SECONDS) == 3
    feed.poll()
    assert feed.heard == [(4, "all", "")]
    append_changes(database, clock, "keys")
    feed.poll()
    assert feed.heard[1:] == [(5, "keys", "acme")]


def test_numbers_never_restart(database, clock):
    append_changes(database, clock, "keys", "keys")
    with database.writing() as connection:
        assert rows.prune(connection, clock.now + 1) == 1
    append_changes(database, clock, "keys")
    with database.reading() as connection:
        assert [change.number for change in rows.list_changes(connection, 0)] == [2, 3]


def test_numbers_become_visible_in_order(database, clock):
    """A change with an earlier number that commits late delays later ones, so no reader can miss it."""
    other = threading.Thread(target=append_changes, args=(database, clock, "bundle"))
    with database.writing() as connection:
        rows.append(connection, "acme", "keys", {}, clock())
        other.start()
        with database.reading() as reader:
            assert rows.list_changes(reader, 0) == []
    other.join(timeout=30)
    with database.reading() as connection:
        assert [(change.number, change.kind) for change in rows.list_changes(connection, 0)] == [
            (1, "keys"),
            (2, "bundle"),
        ]


def test_the_feed_removes_old_changes(database, feed, clock):
    append_changes(database, clock, *["keys"] * 3)
    feed.poll()
    clock.now += KEPT_SECONDS - 1
    feed.poll()
    clock.now += 3600
    feed.poll()
    with database.reading() as connection:
        assert [change.number for change in rows.list_changes(connection, 0)] == [3]


def test_the_feed_does_not_follow_a_clock_that_jumps(database, feed, clock):
    append_changes(database, clock, *["keys"] * 3)
    feed.poll()
    clock.now += 400 * KEPT_SECONDS
    feed.poll()
    clock.now -= 400 * KEPT_SECONDS
    feed.poll()
    with database.reading() as connection:
        assert [change.number for change in rows.list_changes(connection, 0)] == [1, 2, 3]


def test_chores_run_at_every_poll_and_once_at_the_end(database, clock, logs):
    runs, first = [], []
    feed = Feed(database, 0.001)

    def fails():
        raise ValueError("not today")

    feed.each_time(fails)
    feed.each_time(lambda: (runs.append(1), first or (first.append(1), feed._end.set())))
    feed.start()
    feed._thread.join(timeout=10)
    assert runs == [1]
    feed.stop()
    assert runs == [1, 1]
    assert {entry["event"] for entry in logs} == {"chore_failed"}
