"""Told to stop while its store hangs, a server ends within its limit and loses nothing that it acknowledged."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress

import httpx
import pytest

from benchmarks.faults.proxy import FreezableProxy
from penchant.service.store.database import FILE_NAME

pytestmark = pytest.mark.slow

VOTE = {"type": "vote", "user": "u", "text": "t", "value": 1}
STOP_QUICKLY = {"PENCHANT_SHUTDOWN_TIMEOUT_SECONDS": "1", "PENCHANT_STORE_TIMEOUT_SECONDS": "600"}


def send(server, event_id):
    """Send an event that may never be answered."""
    with server.client() as client, suppress(httpx.TransportError):
        client.post("/v1/feedback", json=VOTE | {"event_id": event_id, "text": event_id})


def stop(server):
    """Stop the server, which must end by itself, and return the last entry of its log."""
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=60)
    last = json.loads(server.log.read_text().splitlines()[-1])
    assert last["event"] in {"stopped_incompletely", "stop_timed_out"}
    return last


def acknowledge(server):
    with server.client() as client:
        assert client.post("/v1/feedback", json=VOTE | {"event_id": "kept"}).status_code == 200


def logged(server):
    with server.client() as client:
        return [event["event_id"] for event in client.get("/v1/users/u/feedback").json()["data"]]


def test_another_process_holds_the_lock_of_sqlite(launch, ready, tmp_path):
    server = ready(launch(**STOP_QUICKLY))
    acknowledge(server)
    with closing(sqlite3.connect(tmp_path / "data" / FILE_NAME)) as other:
        other.execute("BEGIN IMMEDIATE")
        sender = threading.Thread(target=send, args=(server, "lost"))
        sender.start()
        with server.client() as client:
            while "penchant_encoder_texts_total 2.0" not in client.get("/metrics").text:
                sender.join(timeout=0.01)
        assert "writer" in repr(stop(server))
        sender.join()
        other.execute("ROLLBACK")
    assert "kept" in logged(ready(launch()))


def test_postgresql_hangs(postgres, launch, ready):
    url = postgres.new()
    proxy = FreezableProxy(url)
    server = ready(launch(PENCHANT_STORE_URL=proxy.url, **STOP_QUICKLY))
    acknowledge(server)
    proxy.freeze(new=True)
    with server.client() as client:
        assert client.get("/readyz").status_code == 503
    assert "feed" in repr(stop(server))
    proxy.close()
    assert logged(ready(launch(PENCHANT_STORE_URL=url))) == ["kept"]
    postgres.drop(url)


ENDLESS = """
import threading
import uvicorn
from penchant.service import draining

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print("ready", flush=True)
    await receive()
    threading.Event().wait()  # the stop never ends

draining._MARGIN_SECONDS = 0.1
config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=0)
draining.DrainingServer(config, draining.Draining(), 0.1).run()
"""


def test_a_stop_that_never_ends_is_ended_and_explained():
    command = [sys.executable, "-c", ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 1
        log = process.stdout.read()
    assert "stop_timed_out" in log
    assert "MainThread" in log


def test_it_heals(postgres, launch, ready):
    """Clients only try again. Both servers go on with the connections that work."""
    url = postgres.new()
    proxy = FreezableProxy(url)
    environment = {"PENCHANT_STORE_URL": proxy.url, "PENCHANT_STORE_TIMEOUT_SECONDS": "0.5"}
    servers = [ready(launch(**environment)) for _ in range(2)]
    acknowledged, stop = [[], []], threading.Event()

    def write(worker):
        with servers[worker].client() as client:
            while not stop.is_set():
                event_id = f"{worker}-{len(acknowledged[worker])}"
                if client.post("/v1/feedback", json=VOTE | {"event_id": event_id}).status_code == 200:
                    acknowledged[worker].append(event_id)

    def go_on():
        """Wait until both servers have acknowledged more."""
        before = [len(ids) for ids in acknowledged]
        while any(len(ids) < number + 3 for ids, number in zip(acknowledged, before, strict=True)):
            assert all(writer.is_alive() for writer in writers)
            writers[0].join(timeout=0.01)

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(2)]
    for writer in writers:
        writer.start()
    go_on()
    for lose in ("requests", "answers"):
        proxy.freeze(lose)
        go_on()
    stop.set()
    for writer in writers:
        writer.join()
    assert sorted(logged_all(servers[0])) == sorted(acknowledged[0] + acknowledged[1])
    for server in servers:
        with server.client() as client:
            assert client.get("/readyz").status_code == 200
        assert server.end() == -signal.SIGTERM
    proxy.close()
    postgres.drop(url)


def logged_all(server):
    found, cursor = [], None
    with server.client() as client:
        while True:
            asked = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            page = client.get("/v1/users/u/feedback", params=asked).json()
            found += [event["event_id"] for event in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return found
