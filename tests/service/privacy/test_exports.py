"""Pages of a log and exports are bounded in bytes: memory does not grow with what is stored, nor with slow clients."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from starlette.requests import ClientDisconnect

from penchant.service.api.streaming import ExportResponse
from penchant.service.errors import OverloadedError
from penchant.service.store.long_logs import user_log

USER = "ana"
TEXT = "café " * 400


def fill(client, events=7):
    for number in range(events):
        event = {"type": "vote", "user": USER, "text": f"{number} {TEXT}", "value": 1}
        answer = client.post("/v1/feedback", json=event, headers={"Idempotency-Key": f"k{number}"})
        assert answer.json()["accepted"] == 1
        client.post("/v1/rerank", json={"query": "q", "documents": [TEXT, "b"], "user": USER})
    client.delete("/v1/users/nobody")  # after which all rankings are stored


def read_pages(client, **query):
    pages, cursor = [], None
    while True:
        answer = client.get(f"/v1/users/{USER}/feedback", params=query | {"cursor": cursor or "0"})
        pages.append(answer)
        if not answer.json()["has_more"]:
            return pages
        cursor = answer.json()["next_cursor"]


def test_a_page_ends_before_it_has_too_many_bytes(serve):
    client = serve(max_page_bytes=8000)
    fill(client)
    pages = read_pages(client, limit=5)
    assert [event["seq"] for page in pages for event in page.json()["data"]] == list(range(1, 8))
    assert all(len(page.content) <= 8000 for page in pages)
    assert [len(page.json()["data"]) for page in pages] == [2, 2, 2, 1]
    assert pages[-1].json()["next_cursor"] is None


def test_a_page_has_an_event_even_if_it_is_larger(serve):
    client = serve(max_page_bytes=100)
    fill(client, 3)
    assert [len(page.json()["data"]) for page in read_pages(client)] == [1, 1, 1]


def test_a_page_of_small_events_has_as_many_as_asked_for(client):
    fill(client, 4)
    assert [len(page.json()["data"]) for page in read_pages(client, limit=3)] == [3, 1]
    assert len(client.get(f"/v1/users/{USER}/feedback?limit=4").json()["data"]) == 4


def test_an_export_is_the_same_in_any_number_of_parts(client, monkeypatch):
    fill(client)
    whole = client.get(f"/v1/users/{USER}/export")
    for name, value in (("PART_BYTES", 1), ("_PART_ROWS", 1), ("_PART_ANSWERS", 2), ("_READ_AHEAD", 1)):
        monkeypatch.setattr(user_log, name, value)
    monkeypatch.setattr("penchant.service.privacy.exports._MEMORY_BYTES", 1)  # in a file on disk
    parts = client.get(f"/v1/users/{USER}/export")
    assert parts.content == whole.content
    export = whole.json()
    assert list(export) == [
        "format", "user", "exported_at", "standing", "events", "states", "rankings", "stored_answers"
    ]  # fmt: skip
    assert [event["seq"] for event in export["events"]] == list(range(1, 8))
    assert [event["event"]["text"] for event in export["events"]] == [f"{n} {TEXT}" for n in range(7)]
    assert [len(export[name]) for name in ("rankings", "stored_answers")] == [7, 7]
    assert whole.headers["content-length"] == str(len(whole.content))


def test_an_export_holds_no_more_than_a_part_of_the_log_in_memory(client, monkeypatch):
    fill(client)
    monkeypatch.setattr(user_log, "PART_BYTES", 7000)
    store = client.app.state.runtime.store
    with store.reading() as connection:
        parts = [len(events) for events, _ in user_log.iterate_events(connection, "default", USER)]
        shown = [len(part) for part in user_log.iterate_rankings(connection, "default", USER)]
    assert parts == [2, 2, 2, 1]
    assert shown == [2, 2, 2, 1]


def serve_export(client, send, seconds=30.0):
    """Answer with the export through an ASGI `send`."""

    async def answer():
        export = await client.app.state.runtime.exports.open("default", USER)
        await ExportResponse(export, seconds)({}, None, send)

    client.portal.call(answer)


def test_an_export_is_sent_in_pieces(client, monkeypatch):
    fill(client)
    monkeypatch.setattr("penchant.service.privacy.exports._PIECE_BYTES", 1000)
    sent = []

    async def send(message):
        sent.append(message)

    serve_export(client, send)
    start, *pieces, end = sent
    assert max(len(piece["body"]) for piece in pieces) == 1000
    assert all(piece["more_body"] for piece in pieces)
    assert end == {"type": "http.response.body"}
    body = b"".join(piece["body"] for piece in pieces)
    assert json.loads(body)["user"] == USER
    assert dict(start["headers"])[b"content-length"] == str(len(body)).encode()


def test_a_client_that_reads_nothing_is_cut_off_and_keeps_nothing(client):
    fill(client, 1)
    runtime = client.app.state.runtime

    async def send(message):
        if message["type"] == "http.response.body":
            assert runtime.store._readers.pool.checkedout() == 0  # neither a connection nor a snapshot
            await asyncio.Event().wait()

    with pytest.raises(ClientDisconnect):
        serve_export(client, send, seconds=0.0)
    assert runtime.exports._number == 0


def test_only_so_many_exports_exist(serve):
    client = serve(max_exports=1)
    fill(client, 1)
    exports = client.app.state.runtime.exports

    async def open_two():
        first = await exports.open("default", USER)
        with pytest.raises(OverloadedError):
            await exports.open("default", USER)
        first.close()
        (await exports.open("default", USER)).close()

    client.portal.call(open_two)
    assert client.get("/v1/users/nobody-at-all/export").status_code == 404
    assert client.get(f"/v1/users/{USER}/export").status_code == 200


def test_an_export_that_fails_keeps_nothing(client, monkeypatch):
    fill(client, 1)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("penchant.service.privacy.user_export.find_states", fail)
    assert client.get(f"/v1/users/{USER}/export").status_code == 500
    assert client.app.state.runtime.exports._number == 0


def test_rows_are_split_by_their_sizes():
    rows = [SimpleNamespace(size=size) for size in (5, 5, 1, 20, 1, 1)]
    assert [[row.size for row in part] for part in user_log._split(rows, 10)] == [[5, 5], [1], [20], [1, 1]]
