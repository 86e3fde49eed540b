"""The store: migrations, one server per folder, rebuilt states, disk failures and expiry."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from pydantic import ValidationError
from sqlalchemy import create_engine, event, insert, inspect, make_url
from sqlalchemy.exc import DatabaseError, OperationalError

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.observing import build_judgement
from penchant.models.testing import tiny_bundle
from penchant.service import store as store_package
from penchant.service.bundles.loading import check_match
from penchant.service.claims import StartError
from penchant.service.settings import Settings
from penchant.service.store.database import FILE_NAME, Store, StoreError, store_place
from penchant.service.store.tables import installation, metadata
from penchant.service.timestamps import parse_rfc3339
from penchant.service.users import fold
from penchant.service.users.replayer import Replayer

LONG = "a long answer that goes on and on, and then on, with many words, until everybody has left the room"


def opened(store, **more):
    return Store.open(Settings(**store.place), **more)


def test_migrations_create_the_declared_tables(store):
    database = opened(store)
    with database.reading() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        keys = {name: inspect(connection).get_pk_constraint(name) for name in metadata.tables}
    database.close()
    assert all(key["constrained_columns"][0] == "tenant" for key in keys.values())


def at_first_revision(store):
    """Downgrade the database to the schema of the first release, with one user who had voted."""
    if store.is_postgres:
        store.run("DROP SCHEMA public CASCADE")
        store.run("CREATE SCHEMA public")
    else:
        store.place["data_dir"].mkdir()
    place = store_place(Settings(**store.place))
    engine = create_engine(place if store.is_postgres else f"sqlite:///{place / FILE_NAME}")
    with engine.begin() as connection:
        command.upgrade(alembic(connection), "r0001")
    engine.dispose()
    event = {"type": "vote", "text": "boat sea", "prompt": "p", "value": 1}
    store.run(
        "INSERT INTO feedback_events VALUES"
        " ('default', 'u', 1, 'e1', :digest, 'vote', 1, 1, NULL, :payload, 1.0)",
        digest=b"\0",
        payload=json.dumps(event),
    )
    store.run(
        "INSERT INTO user_states VALUES ('default', 'u', 1, 1, :bundle, :state, 1.0)",
        bundle=tiny_bundle(FeatureExtractor(HashingEncoder())).version,
        state=b"old",
    )
    return event


def alembic(connection):
    config = Config()
    config.set_main_option("script_location", str(Path(store_package.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def test_a_store_of_the_first_release_is_upgraded(serve, store, fresh):
    """States in another format are learned again from the log for any bundle, and new event kinds can be logged."""
    voted = at_first_revision(store)
    client = serve()
    before = answers(client)
    description = client.get("/v1/users/u").json()
    assert (description["feedback_events"], description["state"]) == (1, "personal")
    choice = {"type": "choice", "user": "u", "candidates": ["boat", "tree", "sea"], "index": 1}
    undo = {"type": "retract", "user": "u", "target_event_id": "e1"}
    assert client.post("/v1/feedback", json={"events": [choice, undo]}).json()["accepted"] == 2
    after = answers(client)
    client = serve(**fresh.place)
    client.post("/v1/feedback", json=voted | {"user": "u"})
    assert answers(client) == before
    client.delete("/v1/users/u")
    client.post("/v1/feedback", json=choice)
    assert answers(client) == after


def test_revisions_can_be_undone(store):
    database = opened(store)
    with database.writing() as connection:
        command.downgrade(alembic(connection), "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
        command.upgrade(alembic(connection), "head")
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_users_survive_a_downgrade_and_an_upgrade(serve, store):
    client = serve()
    teach(client)
    before = answers(client)
    serve(**store.place)
    database = opened(store, exclusive=False)
    with database.writing() as connection:
        command.downgrade(alembic(connection), "r0003")
        command.upgrade(alembic(connection), "head")
    database.close()
    client = serve()
    assert client.get("/v1/users/u").json()["feedback_events"] == 12
    assert answers(client) == before


def test_what_the_bounds_on_work_need_is_filled_in(serve, store, clock):
    """Ids that were used again get names of their own in an older release, and stay what they were."""
    client = serve()
    old = VOTE | {"event_id": "e", "timestamp": "2020-01-01T00:00:00Z"}
    undo = {"type": "retract", "user": "u", "target_event_id": "e", "event_id": "r"}
    late = VOTE | {"user": "v", "timestamp": "2999-01-01T00:00:00Z", "metadata": {"timestamp": "text"}}
    body = {"events": [old, undo, old, undo, old, late, VOTE | {"user": "v", "metadata": {"timestamp": 1}}]}
    answer = client.post("/v1/feedback", json=body, headers={"Idempotency-Key": "k"}).json()
    assert answer["accepted"] == 7
    client.post("/v1/rerank", json={"query": "q", "documents": ["a", "b"], "user": "u"})
    before = answers(client)
    serve()  # the first server stops, and writes the ranking
    assert len(store.run("SELECT user_id FROM user_states")) == 2
    columns = "user_id, seq, event_id, target_event_id, happened_at"
    shown = f"SELECT {columns} FROM feedback_events ORDER BY user_id, seq"
    events = store.run(shown)
    happened_at = parse_rfc3339(old["timestamp"]).timestamp()
    assert [row[-1] for row in events] == [happened_at, None] * 2 + [happened_at, None, None]
    sizes = store.run("SELECT size FROM rankings")
    database = opened(store, exclusive=False)
    with database.writing() as connection:
        command.downgrade(alembic(connection), "r0006")
        ids = list(connection.exec_driver_sql("SELECT event_id, target_event_id FROM feedback_events"))
        (users,) = connection.exec_driver_sql("SELECT users FROM idempotency").one()
        command.upgrade(alembic(connection), "head")
    assert sorted(json.loads(users)) == ["u", "v"]
    assert len({event_id for event_id, _ in ids}) == 7
    named = sorted((event_id, target) for event_id, target in ids if "e" in (event_id, target) or target)
    assert named == [
        ("e", None),
        ("replaced_2_r", "replaced_1_e"),
        ("replaced_4_r", "replaced_3_e"),
    ]
    database.close()
    assert [row[-1] for row in store.run(shown)] == [row[-1] for row in events]
    assert store.run("SELECT size FROM rankings") == sizes
    assert sorted(store.run("SELECT tenant, user_id, key FROM answered_users")) == [
        ("default", "u", "k"),
        ("default", "v", "k"),
    ]
    assert store.run("SELECT user_id FROM user_states") == []  # all states are learned again
    client = serve()
    assert answers(client) == before
    assert client.post("/v1/feedback", json=body, headers={"Idempotency-Key": "k"}).json() == answer
    assert client.post("/v1/feedback", json=old).json()["duplicates"] == 1


def test_the_match_is_computed_again_after_a_downgrade(serve, store, encoder):
    """A downgrade drops the match and the prompts' features, which an older release would never delete."""
    extractor = FeatureExtractor(encoder)
    bundle = tiny_bundle(extractor, match=True)
    client = serve(bundle)
    event = {"type": "preference", "user": "u", "prompt": "boat", "chosen": "boat sea", "rejected": "tree"}
    assert client.post("/v1/feedback", json={"events": [event, event]}).json()["accepted"] == 2
    before = answers(client)
    serve(**store.place)
    database = opened(store, exclusive=False)
    with database.writing() as connection:
        command.downgrade(alembic(connection), "r0005")
        command.upgrade(alembic(connection), "head")
    database.close()
    keys = [bytes(key) for (key,) in store.run("SELECT feature_key FROM features")]
    assert sorted(keys) == sorted(map(extractor.key, ("boat sea", "tree")))
    store.run("DELETE FROM user_states")
    assert answers(serve(bundle)) == before
    assert {match is None for (match,) in store.run("SELECT match FROM judged_items")} == {False}
    keys = [bytes(key) for (key,) in store.run("SELECT feature_key FROM features")]
    assert sorted(keys) == sorted(map(extractor.key, ("boat", "boat sea", "tree")))


def test_a_store_can_be_reopened(store):
    database = opened(store)
    salt = database.salt()
    database.close()
    database = opened(store)
    assert database.salt() == salt
    database.close()


def test_two_servers_that_start_together_create_the_tables_once(postgres):
    """Each waits for the other's migration."""
    url = postgres.new()
    postgres.run("DROP SCHEMA public CASCADE", database_of(url))
    postgres.run("CREATE SCHEMA public", database_of(url))
    with ThreadPoolExecutor(4) as threads:
        salts = set(threads.map(lambda _: salt_of(url), range(4)))
    assert len(salts) == 1
    postgres.drop(url)


def salt_of(url):
    database = Store.open(Settings(store_url=url))
    try:
        return database.salt()
    finally:
        database.close()


def database_of(url):
    return make_url(url).database


def test_an_unreachable_database_server_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="cannot be opened") as refused:
        Store.open(Settings(store_url=f"postgresql://u:secret@/none?host={tmp_path}"))
    assert "secret" not in str(refused.value)


def test_an_invalid_store_url_is_refused():
    with pytest.raises(ValidationError, match="must start with postgresql://") as refused:
        Settings(store_url="mysql://u:secret@host/db")
    assert "secret" not in str(refused.value)


def test_a_command_works_while_a_server_runs(client, store):
    """This also holds for the same SQLite file, because a command takes no lock on the folder."""
    client.post("/v1/feedback", json=VOTE)
    database = opened(store, exclusive=False)
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM feedback_events").scalar() == 1
    with database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM rankings")
    database.close()
    assert client.post("/v1/feedback", json=VOTE).json()["users"][0]["feedback_events"] == 2


def test_commits_are_durable(store):
    """This holds on PostgreSQL too, although the tests' server sets `synchronous_commit = off`."""
    database = opened(store)
    expected = {"SHOW synchronous_commit": "on"} if store.is_postgres else DURABLE
    with database.writing() as connection:
        assert {query: connection.exec_driver_sql(query).scalar() for query in expected} == expected
    database.close()


DURABLE = {"PRAGMA journal_mode": "wal", "PRAGMA synchronous": 2}  # FULL


def test_a_reader_does_not_wait_for_the_writer(store):
    database = opened(store)
    with database.writing() as writing, database.reading() as reading:
        writing.execute(insert(installation), {"tenant": "", "name": "x", "value": b""})
        assert reading.exec_driver_sql("SELECT count(*) FROM installation").scalar() == 0
    with database.reading() as reading:
        assert reading.exec_driver_sql("SELECT count(*) FROM installation").scalar() == 1
    database.close()


def test_two_servers_cannot_share_a_folder(tmp_path):
    database = Store(tmp_path)
    with pytest.raises(StoreError, match="Another server uses"):
        Store(tmp_path)
    script = (
        "import sys; from pathlib import Path; from penchant.service.store.database import Store; "
        "Store(Path(sys.argv[1]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "Another server uses the data folder" in other.stderr
    database.close()
    Store(tmp_path).close()


def test_a_data_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "penchant.sqlite3").write_bytes(b"this is no database, whatever its name may say" * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path)


def teach(client, user="u", events=12):
    rng = np.random.default_rng(0)
    words = ["boat", "sea", "tree", "house", "cloud", "river"]
    for n in range(events):
        text = f"{' '.join(rng.permutation(words)[:3])} {n}"
        body = [
            {"type": "vote", "user": user, "text": text, "value": 1 if n % 2 else -1, "weight": 0.7},
            {"type": "rating", "user": user, "prompt": "p", "text": text, "value": n % 5, "scale": [0, 4]},
            {"type": "preference", "user": user, "chosen": text, "rejected": LONG, "source": "tests"},
            {"type": "choice", "user": user, "candidates": [LONG, text, "tree"], "index": 1},
            {"type": "ranking", "user": user, "order": [[text], ["tree", LONG]]},
            {"type": "edit", "user": user, "original": LONG, "edited": text},
        ][n % 6]
        assert client.post("/v1/feedback", json=body).status_code == 200


ASK = {"prompt": "p", "candidates": ["boat sea 1", "tree house", LONG], "user": "u"}


def answers(client):
    return client.post("/v1/best-of-n", json=ASK).json()["results"]


def test_a_rebuilt_state_equals_the_saved_one(serve, store):
    """Learning again from the log gives exactly the saved bytes."""
    teach(serve())
    serve()
    saved = states(store)
    store.run("DELETE FROM user_states")
    serve()
    assert states(store) == saved != []


def states(store):
    return store.run("SELECT * FROM user_states ORDER BY tenant, user_id, bundle_version")


def test_answers_do_not_wait_for_a_rebuild(serve, store, background_replay):
    """The user of a request is caught up first, and the answer includes everything in the log."""
    client = serve()
    teach(client)
    before = answers(client)
    serve()
    store.run("DELETE FROM user_states")
    background_replay.clear()
    client = serve(settle=False)
    assert answers(client) == before
    assert client.get("/v1/users/u").json()["feedback_events"] == 12
    assert "penchant_replay_pending_users 1.0" in client.get("/metrics").text
    background_replay.set()
    assert client.app.state.runtime.models.current.replayer.idle.wait(timeout=30)
    assert "penchant_replay_pending_users 0.0" in client.get("/metrics").text
    assert store.run("SELECT through_seq FROM user_states") == [(12,)]


@pytest.fixture
def background_replay(monkeypatch):
    """Event that pauses the replay in the background while it is cleared. Users in requests are still caught up."""
    gate, save = threading.Event(), Replayer._catch_up_user

    def wait(replayer, key, state=None):
        gate.wait(timeout=30)
        save(replayer, key, state)

    monkeypatch.setattr(Replayer, "_catch_up_user", wait)
    gate.set()
    yield gate
    gate.set()


def test_a_state_behind_the_log_is_caught_up(serve, store):
    client = serve()
    teach(client, events=5)
    serve()
    half = store.run("SELECT through_seq, state, as_of FROM user_states")[0]
    client = serve()
    teach(client, events=12)
    serve()
    saved = states(store)
    statement = "UPDATE user_states SET through_seq = :seq, state = :state, as_of = :as_of"
    store.run(statement, seq=half[0], state=half[1], as_of=half[2])
    serve()
    assert states(store) == saved


def test_each_bundle_has_its_own_states(serve, store, encoder):
    """Switching back to a bundle reuses its states and learns the events logged in between."""
    other = tiny_bundle(FeatureExtractor(encoder), seed=7)
    client = serve()
    teach(client, events=6)
    bundle_version = client.get("/v1/users/u").json()["bundle"]
    client = serve(bundle=other)
    teach(client, events=3)
    through_seqs = dict(store.run("SELECT bundle_version, through_seq FROM user_states"))
    assert through_seqs == {bundle_version: 6, other.version: 9}
    client = serve()
    assert client.get("/v1/users/u").json()["feedback_events"] == 9
    assert store.run("SELECT through_seq FROM user_states ORDER BY through_seq") == [(9,), (9,)]


def test_a_request_encodes_its_users_texts_again(serve, store, background_replay):
    """A request after a change of encoder encodes its user's texts before the replay reaches that user."""
    client = serve()
    teach(client)
    client = serve(using=HashingEncoder(dim=32))
    expected = answers(client)
    serve()
    for table in ("user_states", "judged_items", "features"):
        store.run(f"DELETE FROM {table} WHERE true")
    background_replay.clear()
    client = serve(using=HashingEncoder(dim=32), settle=False)
    assert answers(client) == expected
    background_replay.set()


def test_a_new_bundle_learns_the_log_without_the_encoder(logs, serve, encoder, fresh):
    extractor = FeatureExtractor(encoder)
    other = tiny_bundle(extractor, seed=7)
    client = serve()
    teach(client)
    teach(client, "w", events=3)
    before = answers(client)
    encoder.calls.clear()
    logs.clear()
    client = serve(bundle=other)
    rebuilt = next(line for line in logs if line["event"] == "rebuild_finished")
    assert (rebuilt["users"], rebuilt["texts_encoded"]) == (2, 0)
    description = client.get("/v1/users/u").json()
    assert (description["bundle"], description["feedback_events"], description["posterior_version"]) == (
        other.version,
        12,
        12,
    )
    after = answers(client)
    assert after != before
    # Feedback given to the new bundle from the start leads to the same state.
    client = serve(bundle=other, **fresh.place)
    teach(client)
    assert answers(client) == after


def test_a_new_encoder_encodes_the_log_again(logs, serve, fresh):
    client = serve()
    teach(client)
    documents = ["boat sea", "tree", "house"]
    ranking = client.post("/v1/rerank", json={"query": "p", "documents": documents, "user": "u"}).json()
    vote, choice = {"type": "vote", "value": 1}, {"type": "choice"}
    by_index = [vote | {"index": 0}, choice | {"index": 2, "seen": [0]}]
    for body in by_index:
        assert client.post("/v1/feedback", json=body | {"rank_id": ranking["id"]}).status_code == 200
    logs.clear()
    client = serve(using=HashingEncoder(dim=32))
    assert next(line for line in logs if line["event"] == "rebuild_finished")["texts_encoded"] == 27
    after = answers(client)
    client = serve(using=HashingEncoder(dim=32), **fresh.place)
    teach(client)
    by_text = [vote | {"text": "boat sea"}, choice | {"candidates": ["house", "boat sea"], "index": 0}]
    for body in by_text:
        assert client.post("/v1/feedback", json=body | {"user": "u", "prompt": "p"}).status_code == 200
    assert answers(client) == after
    # The new features are stored, so switching back and forth encodes nothing.
    logs.clear()
    serve()
    serve(using=HashingEncoder(dim=32))
    assert [line for line in logs if line["event"] == "rebuild_finished"] == []


def test_a_bundle_of_another_encoder_is_refused(encoder):
    bundle = tiny_bundle(FeatureExtractor(encoder))
    check_match(bundle, FeatureExtractor(encoder))
    with pytest.raises(StartError, match="was fitted with"):
        check_match(bundle, FeatureExtractor(HashingEncoder(dim=32)))


VOTE = {"type": "vote", "user": "u", "text": "t", "value": 1}


def fail_writes(client, kinds=("INSERT", "DELETE")):
    """Make every such statement fail, as on a full disk. Call the result to stop that."""
    engine = client.app.state.runtime.store._writer

    def full(_connection, _cursor, statement, *_rest):
        if statement.startswith(kinds):
            raise OperationalError(statement, {}, OSError("database or disk is full"))

    event.listen(engine, "before_cursor_execute", full)
    return lambda: event.remove(engine, "before_cursor_execute", full)


def test_a_full_disk_acknowledges_nothing(serve):
    client = serve()
    client.post("/v1/feedback", json=VOTE)
    before = client.get("/v1/users/u").json(), answers(client)
    heal = fail_writes(client)
    refused = client.post("/v1/feedback", json=VOTE | {"text": "other"})
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert refused.headers["retry-after"] == "5"
    assert "disk" not in refused.text
    assert client.delete("/v1/users/u").status_code == 503
    assert client.get("/readyz").status_code == 503
    assert (client.get("/v1/users/u").json(), answers(client)) == before  # ranking goes on
    heal()
    assert client.post("/v1/feedback", json=VOTE | {"text": "other"}).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert serve().get("/v1/users/u").json()["feedback_events"] == 2


def test_a_server_is_not_ready_before_a_write_succeeds(serve):
    """Removing expired rows is no proof: if none are expired, it succeeds on a full disk too."""
    client = serve()
    heal = fail_writes(client, ("INSERT",))
    assert client.post("/v1/feedback", json=VOTE).status_code == 503
    commits = client.app.state.runtime.writer._commits
    commits.expire()
    assert client.get("/readyz").status_code == 503
    heal()
    commits.expire()
    assert client.get("/readyz").status_code == 200


def test_concurrent_feedback_loses_nothing(serve, store):
    client = serve()
    failures = []

    def send(worker):
        for n in range(15):
            user = "shared" if n % 3 else f"own {worker}"
            body = VOTE | {"user": user, "text": f"{worker} {n % 4}", "event_id": f"{worker}-{n}"}
            answer = client.post("/v1/feedback", json=body)
            if answer.json().get("accepted") != 1:
                failures.append(answer.text)

    workers = [threading.Thread(target=send, args=(worker,)) for worker in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    shared = client.get("/v1/users/shared").json()
    assert (shared["feedback_events"], shared["posterior_version"]) == (80, 80)
    saved = answers(client)
    client = serve()
    assert client.get("/v1/users/shared").json() == shared
    assert answers(client) == saved
    logged = store.run("SELECT seq FROM feedback_events WHERE user_id = 'shared' ORDER BY seq")
    assert [seq for (seq,) in logged] == list(range(1, 81))


class PausedWriter:
    """Stops the writer before its next transaction. Requests sent meanwhile form one group."""

    def __init__(self, client):
        self.client = client
        writer = client.app.state.runtime.writer
        for _ in range(2):  # between the two, the writer has done the chores of its start
            client.portal.call(writer.run_between_groups, lambda: None)
        self.gate = threading.Event()
        self.engine = client.app.state.runtime.store._writer
        event.listen(self.engine, "begin", lambda _: self.gate.wait(timeout=30))

    def send(self, *events):
        """Send the first event alone and the others while the writer is paused. Return all answers in order."""
        answers = {}
        senders = []
        for n, body in enumerate(events):
            sender = threading.Thread(target=lambda n=n, body=body: answers.update({n: self.post(body)}))
            sender.start()
            senders.append(sender)
            while self.client.app.state.runtime.writer._queued_events < n + 1:
                sender.join(timeout=0.001)
        self.gate.set()
        for sender in senders:
            sender.join()
        return [answers[n] for n in range(len(events))]

    def post(self, body):
        return self.client.post("/v1/feedback", json=body)


def test_requests_that_wait_together_are_one_commit(client):
    paused_writer = PausedWriter(client)
    answers_ = paused_writer.send(*[VOTE | {"text": f"text {n}"} for n in range(6)])
    assert [answer.json()["users"][0]["feedback_events"] for answer in answers_] == [1, 2, 3, 4, 5, 6]
    metrics = client.get("/metrics").text
    assert "penchant_commit_events_count 2.0" in metrics
    assert "penchant_commit_events_sum 6.0" in metrics


def test_one_request_of_a_group_cannot_fail_another(client, monkeypatch):
    def explode(*arguments, weight, **named):
        if weight == 0.125:
            raise ArithmeticError("secret reason")
        return build_judgement(*arguments, weight=weight, **named)

    monkeypatch.setattr(fold, "build_judgement", explode)
    paused_writer = PausedWriter(client)
    batch = {"events": [VOTE | {"text": "in a batch"}, VOTE | {"weight": 0.125}]}
    answers_ = paused_writer.send(VOTE, VOTE | {"weight": 0.125}, VOTE | {"text": "other"}, batch)
    assert [answer.status_code for answer in answers_] == [200, 500, 200, 500]
    assert "secret" not in answers_[1].text
    # Either all events of a request are learned, or none.
    assert client.get("/v1/users/u").json()["feedback_events"] == 2
    texts = [entry["event"]["text"] for entry in client.get("/v1/users/u/feedback").json()["data"]]
    assert texts == ["t", "other"]


def test_a_row_that_cannot_be_written_fails_only_its_request(client):
    def refuse(_connection, _cursor, statement, parameters, *_rest):
        if "INTO feedback_events" in statement and "unwritable" in repr(parameters):
            raise DatabaseError(statement, {}, OSError("constraint failed"))

    paused_writer = PausedWriter(client)
    event.listen(paused_writer.engine, "before_cursor_execute", refuse)
    answers_ = paused_writer.send(
        VOTE, VOTE | {"text": "other"}, VOTE | {"event_id": "unwritable"}, VOTE | {"text": "third"}
    )
    assert [answer.status_code for answer in answers_] == [200, 200, 503, 200]
    assert client.get("/v1/users/u").json()["feedback_events"] == 3


def test_the_writer_survives_unexpected_errors(client, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(client.app.state.runtime.writer, "_write", lambda _group: {}["unforeseen"])
        assert client.post("/v1/feedback", json=VOTE).status_code == 500
        assert client.delete("/v1/users/u").status_code == 500
    assert client.post("/v1/feedback", json=VOTE).json()["users"][0]["feedback_events"] == 1


def test_a_full_writer_refuses_requests(serve):
    client = serve(max_queued_events=2)
    paused_writer = PausedWriter(client)
    refused = []

    def overfill():
        while client.app.state.runtime.writer._queued_events < 2:
            waiting.join(timeout=0.001)
        refused.append(paused_writer.post(VOTE))
        paused_writer.gate.set()

    waiting = threading.Thread(target=paused_writer.post, args=({"events": [VOTE, VOTE]},))
    waiting.start()
    overfill()
    waiting.join()
    assert (refused[0].status_code, refused[0].json()["code"]) == (429, "overloaded")
    assert refused[0].headers["ratelimit-policy"] == '"feedback";q=2'
    assert client.get("/v1/users/u").json()["feedback_events"] == 2


def test_the_same_key_in_flight_is_409(serve, encoder):
    client = serve()
    encoder.gate.clear()
    answers_ = []
    key = {"Idempotency-Key": "k"}
    first = threading.Thread(
        target=lambda: answers_.append(client.post("/v1/feedback", json=VOTE, headers=key))
    )
    first.start()
    encoder.entered.wait()
    second = client.post("/v1/feedback", json=VOTE, headers=key)
    assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_flight")
    encoder.gate.set()
    first.join()
    assert answers_[0].json()["accepted"] == 1
    assert client.post("/v1/feedback", json=VOTE, headers=key).content == answers_[0].content


def test_old_rankings_and_answers_are_removed(serve, clock, store):
    client = serve(expiry_grace_hours=48.0)
    client.post("/v1/rerank", json={"query": "q", "documents": ["a"]})
    client.post("/v1/feedback", json=VOTE, headers={"Idempotency-Key": "k"})
    client = serve(expiry_grace_hours=48.0)  # pending writes are done
    clock.now += 24 * 3600 + 1
    client.post("/v1/feedback", json=VOTE)
    serve()
    counts = [store.run(f"SELECT count(*) FROM {table}") for table in ("rankings", "idempotency")]
    assert counts == [[(0,)], [(0,)]]


def test_usage_of_tenants_is_kept_for_a_month(serve, clock, store):
    serve()
    today = int(clock() // 86_400)
    for ago in (0, 31, 32, 400):
        row = {"day": today - ago, "kind": "events"}
        store.run("INSERT INTO tenant_usage (tenant, day, kind, amount) VALUES ('t', :day, :kind, 1)", **row)
    serve()
    serve()  # pending work is done
    rows = store.run("SELECT day FROM tenant_usage WHERE tenant = 't' ORDER BY day")
    assert [today - day for (day,) in rows] == [31, 0]
