"""A connection that acknowledges and never answers is given up, replaced, and loses or doubles nothing."""

import threading
import time
from contextlib import ExitStack

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from benchmarks.faults.proxy import FreezableProxy
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.app import create_app
from penchant.service.settings import Settings
from penchant.service.store import engines
from penchant.service.store.database import (
    Store,
    is_contention,
    is_lost_connection,
    is_unreachable,
)
from penchant.service.store.limited import Losses

VOTE = {"type": "vote", "user": "u", "text": "boat sea", "value": 1}
LIMIT = 1.0


@pytest.fixture
def proxy(postgres):
    url = postgres.new()
    proxy = FreezableProxy(url)
    yield proxy
    proxy.close()
    postgres.drop(url)


@pytest.fixture
def settings(proxy, tmp_path):
    return Settings(data_dir=tmp_path, store_url=proxy.url, store_timeout_seconds=LIMIT)


@pytest.fixture
def client(settings):
    extractor = FeatureExtractor(HashingEncoder())
    app = create_app(settings, extractor=extractor, bundle=tiny_bundle(extractor))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def database(settings):
    opened = Store.open(settings)
    yield opened
    opened.close()


def send(client, event_id, status=200):
    """Send a vote as a client does: again, with the same id, if the store could not be reached."""
    for _ in range(5):
        answer = client.post("/v1/feedback", json=VOTE | {"event_id": event_id})
        if answer.status_code == status or answer.status_code != 503:
            break
    assert answer.status_code == status, answer.text


def logged(client):
    page = client.get("/v1/users/u/feedback", params={"limit": 100}).json()
    return [entry["event_id"] for entry in page["data"]]


@pytest.mark.parametrize("lose", ["requests", "answers"])
def test_connections_that_hang_are_replaced(client, proxy, lose):
    for number in range(4):
        send(client, f"e{number}")
        proxy.freeze(lose)
    send(client, "e4")
    assert logged(client) == [f"e{number}" for number in range(5)]
    assert client.get("/v1/users/u").json()["feedback_events"] == 5
    assert client.get("/readyz").status_code == 200


def test_when_one_connection_hangs_nobody_waits_for_another(database, proxy, monkeypatch):
    one, hung = text("SELECT 1"), []
    add = Losses.add
    monkeypatch.setattr(Losses, "add", lambda losses, before: (hung.append(before), add(losses, before)))
    waits = [database.reading, database.reading, database.writing]

    def use_all():
        with ExitStack() as stack:
            return [stack.enter_context(begin()).scalar(one) for begin in waits]

    assert use_all() == [1, 1, 1]
    proxy.freeze("answers")
    with database.reading() as connection:  # the pool replaces the first one after its time is up
        assert connection.scalar(one) == 1
    assert hung == [0]
    now = time.monotonic()
    monkeypatch.setattr("penchant.service.store.limited.time.monotonic", lambda: now)  # nobody's time is up
    assert use_all() == [1, 1, 1]
    assert set(hung) == {0}


@pytest.mark.parametrize("lose", ["requests", "answers"])
def test_a_commit_that_hangs_counts_once(client, proxy, lose):
    """Whether the server never saw it, or has done it and cannot say so."""
    frozen = []

    def freeze_once(_connection):
        if not frozen:
            frozen.append(proxy.freeze(lose))

    event.listen(client.app.state.runtime.store._writer, "commit", freeze_once)
    send(client, "e0")
    assert frozen
    assert logged(client) == ["e0"]
    assert client.get("/v1/users/u").json()["feedback_events"] == 1


def test_a_server_that_hangs_for_new_connections_too_is_reported(client, proxy, monkeypatch):
    send(client, "e0")
    proxy.freeze(new=True)
    send(client, "e1", status=503)
    refused = client.get("/readyz")
    assert refused.json()["checks"]["store"]["status"] == "failed"
    assert client.get("/healthz").status_code == 200  # a restart would not help
    proxy.lose_new = "nothing"
    send(client, "e1")
    assert client.get("/readyz").status_code == 200
    assert logged(client) == ["e0", "e1"]


@pytest.fixture
def slow_writer(client):
    """Pauses the writer before its next transaction."""
    gate, entered = threading.Event(), threading.Event()

    def wait(_connection):
        entered.set()  # later transactions find the gate open
        gate.wait(timeout=30)

    engine = client.app.state.runtime.store._writer
    event.listen(engine, "begin", wait)
    sender = threading.Thread(target=send, args=(client, "slow"))
    sender.start()
    assert entered.wait(timeout=30)
    yield
    gate.set()
    sender.join()
    assert client.get("/readyz").status_code == 200
    assert client.get("/healthz").status_code == 200


def test_a_write_that_hangs_is_reported(client, slow_writer, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr("penchant.service.feedback.writer.time.monotonic", lambda: now)
    assert client.get("/readyz").status_code == 200
    now += 2 * LIMIT
    refused = client.get("/readyz")
    assert refused.status_code == 503
    assert "has been running" in refused.json()["checks"]["store"]["detail"]
    assert client.get("/healthz").status_code == 200
    now += 10 * LIMIT
    lost = client.get("/healthz")
    assert (lost.status_code, lost.json()["code"]) == (503, "not_ready")
    assert "has been running" in lost.json()["checks"]["store"]["detail"]


def test_probes_do_not_wait_for_a_store_that_hangs_and_read_once(client, monkeypatch):
    gate, reads = threading.Event(), []

    def hang(_connection):
        reads.append(1)
        gate.wait(timeout=30)

    monkeypatch.setattr("penchant.service.store.probe._ping", hang)
    monkeypatch.setattr("penchant.service.store.probe._SECONDS", 0.01)
    for _ in range(5):
        refused = client.get("/readyz")
        assert refused.status_code == 503
        assert refused.json()["checks"]["store"]["detail"] == "reading takes more than 0.01 s"
    assert reads == [1]
    gate.set()


def hang(database, proxy, how):
    """Freeze the proxy in the middle of a transaction, and go on with it."""
    with database.writing() as connection:
        connection.execute(text("SELECT 1"))
        proxy.freeze()
        if how == "statement":
            connection.execute(text("SELECT 1"))
        elif how == "rollback":
            connection.get_transaction().rollback()
        elif how == "many":
            statement = text("UPDATE installation SET name = :name WHERE name = :name")
            connection.execute(statement, [{"name": str(number)} for number in range(3)])


@pytest.mark.parametrize("how", ["statement", "commit", "rollback", "many"])
def test_every_call_is_limited_and_its_connection_is_lost(database, proxy, how):
    with pytest.raises(OperationalError, match="did not answer within") as refused:
        hang(database, proxy, how)
    assert is_lost_connection(refused.value)
    assert is_unreachable(refused.value)
    assert not is_contention(refused.value)
    with database.writing() as connection:  # a new connection
        assert connection.scalar(text("SELECT 1")) == 1


def sleep(database):
    with database.writing() as connection:
        connection.execute(text("SELECT pg_sleep(5)"))


def test_a_slow_statement_is_ended_by_the_server_and_keeps_its_connection(database):
    with pytest.raises(OperationalError, match="statement timeout") as refused:
        sleep(database)
    assert not is_lost_connection(refused.value)


def test_a_wait_for_a_lock_is_ended_by_the_server(database):
    lock = text("SELECT pg_advisory_xact_lock(7)")
    with database.writing() as holder:
        holder.execute(lock)
        with pytest.raises(OperationalError) as refused, database.writing() as waiting:
            waiting.execute(lock)
    assert is_contention(refused.value)
    assert not is_lost_connection(refused.value)


def test_patient_work_has_no_limit(settings):
    """Commands such as a backup wait as long as it takes, for locks as well."""
    patient = Store.open(settings, exclusive=False, patient=True)
    try:
        with patient.writing() as connection:
            shown = [connection.scalar(text(f"SHOW {limit}")) for limit in engines._LIMITS]
            assert shown == ["0", "0", "0"]
            assert connection.connection.driver_connection.seconds is None
    finally:
        patient.close()


def test_a_migration_has_no_limit(database):
    with database.writing() as connection:
        driver = connection.connection.driver_connection
        with engines.without_time_limits(connection):
            shown = [connection.scalar(text(f"SHOW {limit}")) for limit in engines._LIMITS]
            assert (shown, driver.seconds) == (["0", "0", "0"], None)
        assert driver.seconds == LIMIT
    with database.writing() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == f"{LIMIT * 800:.0f}ms"
