"""Logs longer than a checkpoint's distance: what is learned from where, and that it is the same as from the start."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from starlette.testclient import TestClient

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.log.reading import find_withdrawn, in_force
from penchant.service.store.judgements import LoggedJudgement, replay_events
from penchant.service.users import catching_up
from penchant.service.users.catching_up import CHECKPOINT_EVENTS

Serve = Callable[..., TestClient]
ASK = {"prompt": "p", "candidates": ["boat sea", "tree house", "many words " * 20], "user": "u"}


@pytest.fixture
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every four events, two of them to a step, and nothing is near."""
    monkeypatch.setattr(catching_up, "CHECKPOINT_EVENTS", 4)
    monkeypatch.setattr(catching_up, "STEP_EVENTS", 8)
    monkeypatch.setattr(catching_up, "NEAR_EVENTS", 0)


@pytest.fixture
def read_from(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The place from which each part of a log was read."""
    places: list[int] = []

    def watched(*arguments: Any, since: int = 0, **options: Any) -> Iterable[LoggedJudgement]:
        places.append(since)
        return replay_events(*arguments, since=since, **options)

    monkeypatch.setattr(catching_up, "replay_events", watched)
    return places


def history(number: int, start: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    words = ["boat", "sea", "tree", "house", "cloud", "river"]
    texts = [" ".join(rng.permutation(words)[: 1 + n % 5]) + f" {n}" for n in range(start + number)]
    return [
        {"type": "vote", "user": "u", "event_id": f"e{n}", "text": texts[n], "value": 1 if n % 3 else -1}
        for n in range(start, start + number)
    ]


def retract(target: str, **more: Any) -> dict[str, Any]:
    return {"type": "retract", "user": "u", "target_event_id": target, **more}


def send(client: TestClient, events: list[dict[str, Any]]) -> None:
    for start in range(0, len(events), 100):
        batch = events[start : start + 100]
        assert client.post("/v1/feedback", json={"events": batch}).json()["accepted"] == len(batch)


def results(client: TestClient) -> Any:
    return client.post("/v1/best-of-n", json=ASK).json()["results"]


def settle(client: TestClient) -> None:
    """Wait until everything learned is saved."""
    assert client.app.state.runtime.models.current.replayer.idle.wait(timeout=30)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_short_steps")
@pytest.mark.parametrize(("target", "first"), [(2, 1), (45, 45), (58, 57)])
def test_a_retraction_is_learned_from_the_checkpoint_before_it(
    serve: Serve, fresh: Any, store: Any, read_from: list[int], target: int, first: int
) -> None:
    client = serve()
    send(client, history(60))
    read_from.clear()
    send(client, [retract(f"e{target}")])
    after = results(client)
    settle(client)
    assert min(read_from) == first
    (state,) = store.run("SELECT state, through_seq FROM user_states")
    assert state[1] == 61
    stored = store.run("SELECT seq, state FROM checkpoints ORDER BY seq")
    assert [seq for seq, _ in stored] == list(range(4, 61, 4))
    others = [event for event in history(60) if event["event_id"] != f"e{target}"]
    client = serve(**fresh.place)
    send(client, others)
    assert results(client) == after
    assert fresh.run("SELECT state FROM user_states")[0][0] == state[0]


@pytest.mark.usefixtures("_short_steps")
def test_checkpoints_are_those_of_the_events_that_count(serve: Serve, fresh: Any, store: Any) -> None:
    """After retractions, retractions of retractions, and more feedback, every checkpoint is that of a clean log."""
    client = serve()
    send(client, history(40))
    for events in (
        [retract("e5", event_id="r5")],
        history(6, start=40),
        [retract("e33", event_id="r33"), retract("r5", event_id="rr5"), retract("e0", event_id="r0")],
        history(14, start=46),
    ):
        send(client, events)
        results(client)
        settle(client)
    after = results(client)
    stored = {seq: bytes(state) for seq, state in store.run("SELECT seq, state FROM checkpoints")}
    client = serve(**fresh.place)
    weightless = {
        "type": "edit",
        "user": "u",
        "original": "same",
        "edited": "same",
    }  # takes a place in the log
    skipped = {0, 33}
    clean = [weightless if n in skipped else event for n, event in enumerate(history(40))]
    clean += [weightless, *history(6, start=40), *[weightless] * 3, *history(14, start=46)]
    send(client, clean)
    assert results(client) == after
    expected = {seq: bytes(state) for seq, state in fresh.run("SELECT seq, state FROM checkpoints")}
    assert stored == expected
    assert len(stored) == 16


@pytest.mark.usefixtures("_short_steps")
def test_another_bundle_learns_a_log_in_steps_that_are_saved(
    serve: Serve, store: Any, read_from: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()
    send(client, history(30))
    other = tiny_bundle(FeatureExtractor(HashingEncoder()), seed=7)
    read_from.clear()
    expected = results(serve(bundle=other))
    assert read_from == list(range(1, 30, 4))
    store.run("DELETE FROM user_states")
    store.run("DELETE FROM checkpoints")

    class StopError(Exception):
        pass

    replay = replay_events
    parts = [0]

    def interrupted(*arguments: Any, **options: Any) -> Iterable[LoggedJudgement]:
        parts[0] += 1
        if parts[0] == 4:
            raise StopError
        return replay(*arguments, **options)

    monkeypatch.setattr(catching_up, "replay_events", interrupted)
    serve(bundle=other)
    assert store.run("SELECT through_seq FROM user_states") == [(8,)]
    monkeypatch.setattr(catching_up, "replay_events", replay)
    assert results(serve(bundle=other)) == expected
    assert store.run("SELECT through_seq FROM user_states") == [(30,)]


def test_a_state_that_cannot_be_read_is_learned_again(serve: Serve, store: Any, logs: list[Any]) -> None:
    client = serve()
    send(client, history(40))
    before = results(client)
    store.run("UPDATE user_states SET state = :state", state=b"pup2 damaged")
    client = serve()
    assert results(client) == before
    assert client.get("/v1/users/u").status_code == 200
    assert client.get("/v1/users/u/export").status_code == 200
    assert [line["table"] for line in logs if line["event"] == "state_unreadable"] != []
    assert 'penchant_unreadable_states_total{table="user_states"}' in client.get("/metrics").text
    settle(client)
    send(client, history(1, start=40))
    assert store.run("SELECT state FROM user_states")[0][0] != b"pup2 damaged"
    assert results(serve()) != before


def test_feedback_to_a_user_with_an_unreadable_state_is_learned(serve: Serve, store: Any, fresh: Any) -> None:
    client = serve()
    send(client, history(3))
    client = serve(settle=False)
    store.run("UPDATE user_states SET state = :state", state=b"")
    send(client, history(1, start=3))
    after = results(client)
    client = serve(**fresh.place)
    send(client, history(4))
    assert results(client) == after


def test_an_unreadable_checkpoint_is_not_used(serve: Serve, store: Any, fresh: Any) -> None:
    events = history(CHECKPOINT_EVENTS + 20)
    client = serve(burst_events=1000)
    send(client, events)
    store.run("UPDATE checkpoints SET state = :state", state=b"damaged")
    send(client, [retract(f"e{CHECKPOINT_EVENTS + 3}")])
    after = results(client)
    settle(client)
    assert store.run("SELECT state FROM checkpoints")[0][0] != b"damaged"
    client = serve(burst_events=1000, **fresh.place)
    send(client, events[: CHECKPOINT_EVENTS + 3] + events[CHECKPOINT_EVENTS + 4 :])
    assert results(client) == after


def logged(seq: int, event_id: str, target: str | None) -> LoggedJudgement:
    return LoggedJudgement(seq, event_id, "vote", 1.0, 1.0, (), target, None, 0.0, 0.0)


class _Row:
    """A row of the log, as a query returns it."""

    def __init__(self, event: LoggedJudgement) -> None:
        self.seq, self.event_id, self.target_event_id = event.seq, event.event_id, event.target or ""
        self.replaced = 0


@settings(max_examples=300, deadline=None)
@given(
    strategies.lists(strategies.tuples(strategies.integers(0, 3), strategies.integers(0, 12)), max_size=14)
)
def test_what_is_withdrawn_is_what_is_not_in_force(plan: list[tuple[int, int]]) -> None:
    """Every event has an id of its own; a retraction names any earlier one."""
    log = [
        logged(seq, f"e{seq}", f"e{named % seq}" if is_retraction == 0 and seq > 1 and named % seq else None)
        for seq, (is_retraction, named) in enumerate(plan, start=1)
    ]
    rows = [_Row(event) for event in log]
    retractions = [row for row in rows if row.target_event_id]
    withdrawn, _ = find_withdrawn(retractions, rows, 0, len(log))
    judgements = {event.seq for event in log if event.target is None}
    assert judgements - withdrawn == {event.seq for event in in_force(log)}
    for covered in range(len(log) + 1):
        _, earliest = find_withdrawn(retractions, rows, covered, len(log))
        before = {event.seq for event in in_force(log[:covered])}
        now = {event.seq for event in in_force(log) if event.seq <= covered}
        assert earliest <= min(before ^ now, default=len(log) + 1)
