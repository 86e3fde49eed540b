"""What servers and commands of one store tell each other."""

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
    """Looks when told to; its thread would wait for an hour."""
    feed = Feed(database, 3600.0)
    feed.heard = []
    feed.subscribe("keys", lambda change: feed.heard.append((change.number, change.kind, change.tenant)))
    feed.start()
    yield feed
    feed.stop()


def tell(database, clock, *kinds, tenant="acme"):
    for kind in kinds:
        with database.writing() as connection:
            rows.append(connection, tenant, kind, {"of": kind}, clock())


def test_a_change_is_heard_once_and_by_those_who_asked(database, feed, clock):
    tell(database, clock, "keys", "bundle", "keys")
    feed.poll()
    feed.poll()
    assert feed.heard == [(1, "keys", "acme"), (3, "keys", "acme")]


def test_detail_and_time_come_along(database, clock):
    tell(database, clock, "forget")
    with database.reading() as connection:
        (change,) = rows.list_changes(connection, 0)
    assert (change.detail, change.created_at) == ({"of": "forget"}, clock.now)


def test_what_was_there_at_the_start_is_taken_as_heard(database, clock):
    tell(database, clock, "keys", "keys")
    late, heard = Feed(database, 3600.0), []
    late.subscribe("keys", heard.append)
    late.start()
    late.poll()
    assert heard == []
    tell(database, clock, "keys")
    late.poll()
    late.stop()
    assert [change.number for change in heard] == [3]


def test_more_than_a_page(database, feed, clock):
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
    assert [entry["event"] for entry in logs] == ["feed_failed"]  # said once
    tell(database, clock, "keys")
    feed.poll()
    assert feed.heard == [(1, "keys", "acme")]


def test_a_subscriber_that_fails_is_told_to_drop_everything(database, feed, clock, logs):
    heard, broken = [], [True]

    def moody(change):
        if broken:
            raise OperationalError("SELECT", {}, Exception("not now"))
        heard.append(change.kind)

    feed.subscribe("keys", moody)
    tell(database, clock, "keys")
    feed.poll()
    assert (heard, feed.heard) == ([], [(1, "keys", "acme")])
    broken.clear()
    feed.poll()
    tell(database, clock, "keys")
    feed.poll()
    assert heard == ["all", "keys"]
    assert {entry["event"] for entry in logs} == {"subscriber_failed"}


def test_old_changes_go_and_whoever_missed_them_drops_everything(database, feed, clock):
    tell(database, clock, *["keys"] * 3)
    clock.now += KEPT_SECONDS + 1
    tell(database, clock, "bundle")
    with database.writing() as connection:
        assert rows.prune(connection, clock.now - KEPT_SECONDS) == 3
    feed.poll()
    assert feed.heard == [(4, "all", "")]
    tell(database, clock, "keys")
    feed.poll()
    assert feed.heard[1:] == [(5, "keys", "acme")]


def test_numbers_never_begin_again(database, clock):
    tell(database, clock, "keys", "keys")
    with database.writing() as connection:
        assert rows.prune(connection, clock.now + 1) == 1
    tell(database, clock, "keys")
    with database.reading() as connection:
        assert [change.number for change in rows.list_changes(connection, 0)] == [2, 3]


def test_numbers_become_visible_in_their_order(database, clock):
    """A change that was told first and is committed late holds later ones up: no reader can pass it by."""
    other = threading.Thread(target=tell, args=(database, clock, "bundle"))
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


def test_the_feed_itself_removes_what_is_old(database, feed, clock):
    tell(database, clock, *["keys"] * 3)
    feed.poll()
    clock.now += KEPT_SECONDS + 1
    feed.poll()
    with database.reading() as connection:
        assert [change.number for change in rows.list_changes(connection, 0)] == [3]


def test_chores_are_done_at_every_look_and_once_at_the_end(database, clock, logs):
    done, first = [], []
    feed = Feed(database, 0.001)

    def fails():
        raise ValueError("not today")

    feed.each_time(fails)
    feed.each_time(lambda: (done.append(1), first or (first.append(1), feed._end.set())))
    feed.start()
    feed._thread.join(timeout=10)
    assert done == [1]
    feed.stop()
    assert done == [1, 1]
    assert {entry["event"] for entry in logs} == {"chore_failed"}
