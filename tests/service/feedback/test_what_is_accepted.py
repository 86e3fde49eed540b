"""Whatever feedback is answered 200 can be read, exported, replayed, backed up and restored, and is then the same."""

import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from starlette.testclient import TestClient

from penchant.service.settings import Settings
from penchant.service.store.archive import read_archive, write_archive
from penchant.service.store.database import Store
from penchant.service.store.tables import metadata
from penchant.service.users.verify import replay

Serve = Callable[..., TestClient]

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
ANY_TEXT = st.text(max_size=6)  # also half a surrogate pair, which UTF-8 cannot hold
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.sampled_from([1e308, 5e-324, -0.0, 2**53 + 1, 2**64]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, ANY_TEXT)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


def nest(depth: int) -> Any:
    value: Any = {}
    for level in range(depth - 1):
        value = [value] if level % 2 else {"k": value}
    return value


EVENTS = st.fixed_dictionaries(
    {"type": st.just("vote"), "text": TEXT.filter(bool), "value": st.sampled_from([1, -1])},
    optional={
        "event_id": st.one_of(TEXT, ANY_TEXT),
        "prompt": TEXT,
        "rank_id": TEXT,
        "source": st.one_of(TEXT, st.sampled_from(["a,b", "'", '"', "%", "\u2028"])),
        "weight": st.floats(0, 1),
        "timestamp": st.sampled_from(
            [
                "2020-02-29T23:59:60Z",
                "0001-01-01T00:00:00+23:59",
                "9999-12-31T23:59:59-12:00",
                "2026-01-31T12:00:00.5Z",
            ]
        ),
        "metadata": st.dictionaries(st.one_of(TEXT, ANY_TEXT), VALUES, max_size=3)
        | st.integers(1, 260).map(lambda depth: {"k": nest(depth)}),
    },
)
USERS = st.one_of(TEXT, st.sampled_from(["a/b", "..", "%2F", "ü", "日本", "a b", "?", "#", "'", '"', "\\"]))


def contents(store: Store) -> dict[str, list[str]]:
    """Return the rows of every table but the one of usage, to which the server adds up from time to time."""
    with store.reading() as connection:
        return {
            table.name: sorted(repr(tuple(row)) for row in connection.execute(select(table)))
            for table in metadata.sorted_tables
            if table.name != "tenant_usage"
        }


def test_whatever_is_accepted_comes_back(serve: Serve, store: Any, fresh: Any) -> None:
    client = serve()
    runtime = client.app.state.runtime  # type: ignore[attr-defined]
    accepted: dict[str, list[dict[str, Any]]] = {}

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(event=EVENTS, user=USERS)
    def check(event: dict[str, Any], user: str) -> None:
        try:
            body = json.dumps(event | {"user": user}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            body = json.dumps(event | {"user": user}).encode()  # the halves of a pair as escapes
        answer = client.post("/v1/feedback", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:
            assert answer.json()["code"] in {
                "validation_failed",
                "invalid_json",
                "invalid_encoding",
                "event_id_conflict",
            }
            return
        if answer.json()["accepted"]:
            sent = {name: value for name, value in event.items() if name != "event_id"}
            accepted.setdefault(user, []).append(sent)
        path = f"/v1/users/{quote(user, safe='')}"
        log = client.get(f"{path}/feedback", params={"limit": 100})
        assert log.status_code == 200, log.text
        assert [entry["event"] for entry in log.json()["data"]] == accepted[user][:100]
        export = client.get(f"{path}/export")
        assert export.status_code == 200, export.text
        assert [entry["event"] for entry in export.json()["events"]] == accepted[user]
        assert client.get(path).status_code == 200

    check()
    assert sum(map(len, accepted.values())) >= 10
    model = runtime.models.current
    report = replay(runtime.store, model.fold, now=runtime.store.clock())
    assert (report.users, report.equal) == (len(accepted), len(accepted))
    archive = io.BytesIO()
    with runtime.store.reading() as connection:
        write_archive(connection, archive)
    restored = Store.open(Settings(**fresh.place))
    try:
        with restored.writing() as connection:
            read_archive(connection, archive)
        assert contents(restored) == contents(runtime.store)
    finally:
        restored.close()
