"""What a request costs in the store does not grow with the other users of its tenant."""

import sqlite3
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import Engine, event

from penchant.service.store.database import FILE_NAME

# Tables and indexes of few rows, and the measurement of a quota.
SMALL = (
    "FROM activations",
    "FROM bundles",
    "users.pending IS NOT NULL",
    "FROM tenant_usage",
    "SELECT sum(rankings.size)",
)
STATEMENTS = ("INSERT", "UPDATE", "DELETE", "SELECT", "WITH")


@pytest.fixture
def statements():
    """Collects the statements that are run."""
    found = {}

    def record(_connection, _cursor, statement, parameters, _context, executemany):
        if statement.startswith(STATEMENTS):
            found[statement] = parameters[0] if executemany else parameters

    event.listen(Engine, "before_cursor_execute", record)
    yield found
    event.remove(Engine, "before_cursor_execute", record)


def use(client, user):
    """Make every kind of request that concerns a user."""
    choice = {
        "type": "choice",
        "prompt": "p",
        "candidates": ["boat sea", "tree house"],
        "index": 0,
        "user": user,
    }
    events = [choice | {"event_id": f"{user}{n}"} for n in range(3)]
    sent = client.post("/v1/feedback", json={"events": events}, headers={"Idempotency-Key": user})
    assert sent.json()["accepted"] == 3
    rank_id = client.post("/v1/rerank", json={"query": "p", "documents": ["a", "b"], "user": user}).json()[
        "id"
    ]
    vote = {"type": "vote", "rank_id": rank_id, "index": 0, "value": 1, "user": user}
    assert client.post("/v1/feedback", json=vote).json()["accepted"] == 1
    retraction = {"type": "retract", "user": user, "target_event_id": f"{user}0"}
    assert client.post("/v1/feedback", json=retraction).json()["accepted"] == 1
    for path in ("", "/feedback", "/export"):
        assert client.get(f"/v1/users/{user}{path}").status_code == 200


@pytest.mark.parametrize("new_store", ["postgresql"], indirect=True)
def test_postgresql_finds_what_features_are_needed_for_by_their_keys(serve, statements, settings):
    """Also before it has counted the rows of the tables, as after an import."""
    client = serve()
    use(client, "u")
    assert client.delete("/v1/users/u").status_code == 204
    [(statement, parameters)] = [
        (statement, parameters)
        for statement, parameters in statements.items()
        if statement.startswith("DELETE FROM features")
    ]
    with psycopg.connect(settings.store_url.get_secret_value()) as connection:
        plan = "\n".join(step for (step,) in connection.execute(f"EXPLAIN {statement}", parameters))
    for index in ("judged_items_by_feature", "judged_items_by_prompt"):
        assert f"using {index} " in plan, plan


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
def test_requests_read_the_rows_that_they_need(serve, statements, settings):
    client = serve()
    statements.clear()
    for user in "uvw":
        use(client, user)
    assert client.post("/v1/users/u/merge", json={"from": "v"}).json()["merged_events"] == 5
    for user in "uw":
        assert client.delete(f"/v1/users/{user}").status_code == 204
    with closing(sqlite3.connect(settings.data_dir / FILE_NAME)) as connection:
        for statement, parameters in statements.items():
            plan = [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            large = [step for step in plan if step.endswith("(tenant=?)") or step.startswith("SCAN")]
            large = [step for step in large if "json_each" not in step]  # the ids of the request
            assert not large or any(few in statement for few in SMALL), (statement, plan)
