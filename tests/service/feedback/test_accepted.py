"""All accepted feedback can be read, exported, replayed, backed up and restored."""

import io
import json
from contextlib import closing
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from penchant.service.cli.app import app
from penchant.service.settings import Settings
from penchant.service.store.archive import read_archive, write_archive
from penchant.service.store.database import Store
from penchant.service.users.verify import replay

TIMES = st.from_regex(
    r"\A20[0-9]{2}-0[1-9]-[012][1-9][Tt][01][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-]0[0-9]:[0-5][0-9])\Z"
).filter(lambda moment: moment[5:10] not in ("02-29", "02-30"))
SANE_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
ANY_TEXT = st.text(
    st.characters(exclude_categories=()), max_size=20
)  # control characters and lone surrogates too


def nest(value, depth, is_list):
    for _ in range(depth):
        value = [value] if is_list else {"a": value}
    return value


def events(text, numbers, times, deepest):
    values = st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=20,
    )
    nested = st.builds(nest, values, st.integers(0, deepest), st.booleans())
    return st.fixed_dictionaries(
        {
            "type": st.just("vote"),
            "user": st.just("u") | text,
            "text": text,
            "value": st.sampled_from([1, -1]),
            "metadata": st.none() | st.dictionaries(text, nested, min_size=1, max_size=3),
        },
        optional={
            "event_id": text,
            "source": text,
            "timestamp": times,
            "weight": st.floats(0, 1, exclude_min=True),
            "prompt": text,
        },
    )


EVENTS = events(
    SANE_TEXT, st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False), TIMES, 25
) | events(ANY_TEXT, st.integers() | st.integers(-(2**70), 2**70) | st.floats(), TIMES | ANY_TEXT, 40)


def read_log(client, user):
    answer = client.get(f"/v1/users/{quote(user, safe='')}/feedback?limit=100")
    assert answer.status_code == 200, answer.text
    return [row["event"] for row in answer.json()["data"]]


def read_export(client, user):
    answer = client.get(f"/v1/users/{quote(user, safe='')}/export")
    assert answer.status_code == 200, answer.text
    return [row["event"] for row in answer.json()["events"]]


def check_replay(client):
    runtime = client.app.state.runtime
    report = replay(runtime.store, runtime.models.current.fold, now=runtime.store.clock())
    assert report.users
    assert (report.equal, report.different, report.lacking) == (report.users, 0, 0)


def back_up(client):
    file = io.BytesIO()
    with client.app.state.runtime.store.reading() as connection:
        write_archive(connection, file)
    return file


def restore(file, place):
    file.seek(0)
    with closing(Store.open(Settings(**place))) as store, store.writing() as connection:
        read_archive(connection, file)


def test_what_is_accepted_comes_back(serve, fresh):
    client = serve(max_daily_information=None, burst_events=10_000)
    accepted = {}

    @settings(
        max_examples=70,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(EVENTS, st.none() | st.text("abc/ \x7f", min_size=1, max_size=5))
    def send(event, key):
        content = json.dumps(event).encode()
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"Idempotency-Key": key})
        answer = client.post("/v1/feedback", content=content, headers=headers)
        assert answer.status_code in (200, 400, 422), answer.text
        if answer.status_code != 200 or not answer.json()["accepted"]:
            return
        sent = orjson.loads(content)
        names = ("text", "prompt", "source", "timestamp", "metadata")
        own = {name: sent[name] for name in names if sent.get(name) is not None}
        accepted.setdefault(event["user"], []).append(own)
        logged = read_log(client, event["user"])[-1]
        assert {name: logged[name] for name in own} == own
        assert read_export(client, event["user"])[-1] == logged

    send()
    events = [event for own in accepted.values() for event in own]
    assert len(events) > 20
    assert sum(bool(event.get("metadata")) for event in events) > 2
    check_replay(client)
    logs = {user: read_log(client, user) for user in accepted}
    file = back_up(client)
    restore(file, fresh.place)
    client = serve(**fresh.place)
    check_replay(client)
    assert {user: read_log(client, user) for user in accepted} == logs


@pytest.fixture
def deep(serve, store):
    """A server with an event of an earlier version: its metadata is nested 250 deep."""
    client = serve()
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1, "event_id": "e", "metadata": {}}
    assert client.post("/v1/feedback", json=vote).status_code == 200
    payload = json.dumps({"type": "vote", "text": "t", "value": 1, "metadata": nest(1, 250, is_list=False)})
    store.run("UPDATE feedback_events SET payload = :payload", payload=payload)
    return client, json.loads(payload)


def test_an_event_of_an_earlier_version_is_read_however_deeply_it_is_nested(deep):
    client, payload = deep
    assert read_log(client, "u") == [payload]
    assert read_export(client, "u") == [payload]
    check_replay(client)


def test_such_an_event_is_backed_up_restored_and_learned_again(deep, serve, fresh):
    client, payload = deep
    restore(back_up(client), fresh.place)
    fresh.run("DELETE FROM user_states")
    client = serve(**fresh.place)
    assert read_log(client, "u") == [payload]
    check_replay(client)


def test_such_an_event_is_merged_retracted_and_deleted(deep):
    client, payload = deep
    assert client.post("/v1/users/other/merge", json={"from": "u"}).json()["merged_events"] == 1
    assert read_log(client, "other") == [payload]
    retraction = {"type": "retract", "user": "other", "target_event_id": "e"}
    assert client.post("/v1/feedback", json=retraction).json()["accepted"] == 1
    assert read_export(client, "other")[0] == payload
    assert client.delete("/v1/users/other").status_code == 204


def test_commands_read_such_an_event(deep, store, tmp_path):
    if store.is_postgres:
        place = ["--store-url", store.place["store_url"].get_secret_value()]
    else:
        place = ["--data-dir", str(store.place["data_dir"])]
    file = tmp_path / "judgements.jsonl"
    done = CliRunner().invoke(app, ["export", "--judgements", "--out", str(file), *place])
    assert done.exit_code == 0, done.output
    assert json.loads(file.read_text())["item"] == "t"
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "backup.zip"), *place])
    assert done.exit_code == 0, done.output
