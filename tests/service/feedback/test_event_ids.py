"""Ids that are used again after a retraction, against a model that looks at everything that was ever sent."""

import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import event as sqlalchemy_event

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.feedback.event_ids import MAX_RETRACTIONS, EventIds, NamedEvent
from penchant.service.log.judgements import iterate_lines, read_judgements
from penchant.service.log.reading import in_force
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.users.fold import Fold
from penchant.service.users.states import Forgetting
from penchant.service.users.verify import replay

USERS = ["u", "v"]
IDS = ["a", "b", "c"]


@dataclass(frozen=True)
class Sent:
    """An event as it is sent: a judgement, or a retraction of `target`."""

    user: str
    event_id: str
    content: str
    target: str | None = None


@dataclass
class Logged:
    """An event in the model's log."""

    sent: Sent
    target_event: "Logged | None" = None
    is_replaced: bool = False

    @property
    def event_id(self) -> str:
        return self.sent.event_id

    @property
    def target(self) -> str | None:
        return self.sent.target


class Model:
    """Everything that was accepted, in order. Whether an event is in force is looked up from scratch each time."""

    def __init__(self) -> None:
        self.log: list[Logged] = []

    def send(self, sent: Sent) -> str:
        holder = self.find(sent.event_id)
        if holder is not None and self.is_in_force(holder):
            return "duplicate" if holder.sent == sent else "conflict"
        replaced = [] if holder is None else self.list_tree(holder)
        target = None if sent.target is None else self.find(sent.target)
        is_known = target is not None and target not in replaced and target.sent.user == sent.user
        if sent.target is not None and not is_known:
            return "not found"
        for event in replaced:
            event.is_replaced = True
        self.log.append(Logged(sent, target))
        return "accepted"

    def find(self, event_id: str) -> Logged | None:
        return next((e for e in self.log if e.event_id == event_id and not e.is_replaced), None)

    def is_in_force(self, event: Logged) -> bool:
        return not any(e.target_event is event and self.is_in_force(e) for e in self.log)

    def list_tree(self, event: Logged) -> list[Logged]:
        below = [self.list_tree(e) for e in self.log if e.target_event is event]
        return [event, *(e for tree in below for e in tree)]

    def list_in_force(self, user: str) -> list[Sent]:
        return [
            event.sent
            for event in self.log
            if event.sent.user == user and event.target is None and self.is_in_force(event)
        ]


judgements = st.builds(
    Sent, st.sampled_from(USERS), st.sampled_from(IDS), st.sampled_from(["up", "down"]), st.none()
)
retractions = st.builds(
    Sent, st.sampled_from(USERS), st.sampled_from(IDS), st.just("retract"), st.sampled_from(IDS)
)
requests = st.lists(st.lists(judgements | retractions, min_size=1, max_size=5), min_size=1, max_size=8)


def apply(ids: EventIds, sent: Sent, seq: int) -> str:
    """Decide and add an event, as the ledger does."""
    content = repr(sent).encode()
    holder = ids.find_in_force("t", sent.event_id)
    if holder is not None:
        return "duplicate" if holder.content_hash == content else "conflict"
    target = None if sent.target is None else ids.find_target("t", sent.target, sent.event_id)
    if sent.target is not None and (target is None or target.user != sent.user):
        return "not found"
    ids.add(NamedEvent(("t", sent.user, seq), sent.event_id, content), target)
    return "accepted"


@given(st.lists(st.tuples(st.lists(judgements | retractions, max_size=8), st.booleans()), max_size=10))
def test_ids_name_what_the_model_says(batches: list[tuple[list[Sent], bool]]) -> None:
    """A batch that fails changes nothing."""
    model, ids, seq = Model(), EventIds(), 0
    for events, succeeds in batches:
        later = EventIds(ids)
        if not succeeds:
            for sent in events:
                apply(later, sent, seq + 1000)
            continue
        for sent in events:
            seq += 1
            logged = len(model.log)
            assert apply(later, sent, seq) == model.send(sent)
            if len(model.log) == logged:
                seq -= 1
        ids.merge(later)
    for place in range(1, seq + 1):
        event = model.log[place - 1]
        assert (("t", event.sent.user, place) in ids.replaced) == event.is_replaced


@given(requests, st.randoms(use_true_random=False))
def test_the_log_read_backwards_is_in_force_as_the_model_says(batches: list[list[Sent]], random: Any) -> None:
    """With the marks of what was replaced, the logs of two users may also be merged by clocks that differ."""
    model = Model()
    for sent in (sent for events in batches for sent in events):
        model.send(sent)
    logs = {user: [event for event in model.log if event.sent.user == user] for user in USERS}
    for user, log in logs.items():
        expected = model.list_in_force(user)
        assert [event.sent for event in in_force(log)] == expected
        assert [
            event.sent for event in in_force(replace(event, is_replaced=False) for event in log)
        ] == expected
    merged, rest = [], [list(log) for log in logs.values() if log]
    while rest:
        log = random.choice(rest)
        merged.append(log.pop(0))
        rest = [log for log in rest if log]
    expected = [e for e in merged if e.target is None and model.is_in_force(e)]
    assert in_force(merged) == expected


def test_an_id_with_many_retractions_cannot_be_used_again() -> None:
    """The work for one event is bounded. The event counts as if it were in force."""
    for number, is_free in ((MAX_RETRACTIONS, True), (MAX_RETRACTIONS + 1, False)):
        ids = EventIds()
        first = NamedEvent(("t", "u", 1), "a", b"")
        ids.add(first)
        for n in range(number):
            ids.add(NamedEvent(("t", "u", n + 2), f"r{n}", b""), first)
        assert (ids.find_in_force("t", "a") is None) == is_free


# Through HTTP


def event_of(sent: Sent, prefix: str) -> dict[str, Any]:
    event = {"user": prefix + sent.user, "event_id": prefix + sent.event_id}
    if sent.target is not None:
        return event | {"type": "retract", "target_event_id": prefix + sent.target}
    texts = {"u": "boat sea", "v": "tree house and many more words"}
    text = f"{texts[sent.user]} {sent.event_id}"
    return event | {"type": "vote", "prompt": "p", "text": text, "value": 1 if sent.content == "up" else -1}


def send(client: Any, *events: dict[str, Any], key: str | None = None, status: int = 200) -> Any:
    body = events[0] if len(events) == 1 else {"events": list(events)}
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = client.post("/v1/feedback", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def rank(client: Any, user: str | None) -> Any:
    body = {"prompt": "p", "candidates": ["boat sea", "tree house", "many words " * 20], "user": user}
    return client.post("/v1/best-of-n", json=body).json()["results"]


def count(outcomes: Sequence[str]) -> tuple[int, int, int]:
    rejected = outcomes.count("conflict") + outcomes.count("not found")
    return outcomes.count("accepted"), outcomes.count("duplicate"), rejected


def test_a_server_does_what_the_model_says(client: Any, store: Any, settings: Settings) -> None:
    numbers: Iterator[int] = iter(range(1000))

    @given(requests)
    @examples(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def run(batches: list[list[Sent]]) -> None:
        prefix, model = f"{next(numbers)}-", Model()
        for batch in batches:
            expected = count([model.send(sent) for sent in batch])
            answer = client.post(
                "/v1/feedback", json={"events": [event_of(sent, prefix) for sent in batch]}
            ).json()
            assert (answer["accepted"], answer["duplicates"], len(answer["rejected"])) == expected
        for user in USERS:
            kept = [event_of(sent, prefix) for sent in model.list_in_force(user)]
            plain = [event | {"user": f"{prefix}plain {user}", "event_id": None} for event in kept]
            if plain:
                client.post("/v1/feedback", json={"events": plain})
            assert rank(client, prefix + user) == rank(client, f"{prefix}plain {user}" if plain else None)

    run()
    assert client.app.state.runtime.models.current.replayer.idle.wait(timeout=30)
    extractor = FeatureExtractor(HashingEncoder())
    bundle = tiny_bundle(extractor)
    database = Store.open(settings, exclusive=False)
    fold = Fold(bundle.reward, Forgetting(None), bundle.version, extractor.identity)
    report = replay(database, fold, now=0.0)
    database.close()
    assert report.users == report.equal > 0
    assert store.run("SELECT count(*) > 0 FROM feedback_events WHERE replaced = 1") in ([(1,)], [(True,)])


LIKE = {"type": "vote", "user": "u", "text": "boat sea", "prompt": "p", "value": 1, "event_id": "like-7"}
UNLIKE = {"type": "retract", "user": "u", "target_event_id": "like-7", "event_id": "unlike-7"}


def test_a_button_can_be_pressed_for_ever(client: Any) -> None:
    send(client, LIKE | {"user": "once", "event_id": "once"})
    liked, nobody = rank(client, "once"), rank(client, None)
    for _ in range(4):
        assert send(client, LIKE)["accepted"] == 1
        assert send(client, LIKE)["duplicates"] == 1
        assert rank(client, "u") == liked
        assert send(client, UNLIKE)["accepted"] == 1
        assert send(client, UNLIKE)["duplicates"] == 1
        assert rank(client, "u") == nobody
    body = send(client, *[LIKE, UNLIKE] * 3, LIKE)
    assert (body["accepted"], body["duplicates"]) == (7, 0)
    assert rank(client, "u") == liked
    page = client.get("/v1/users/u/feedback").json()["data"]
    assert [entry["event_id"] for entry in page] == ["like-7", "unlike-7"] * 7 + ["like-7"]
    exported = client.get("/v1/users/u/export").json()["events"]
    assert [event["is_replaced"] for event in exported] == [True] * 14 + [False]


def test_the_id_may_have_other_content_the_second_time(client: Any) -> None:
    send(client, LIKE)
    assert send(client, LIKE | {"value": -1}, status=422)["code"] == "event_id_conflict"
    send(client, UNLIKE)
    assert send(client, LIKE | {"value": -1})["accepted"] == 1
    assert send(client, LIKE, status=422)["code"] == "event_id_conflict"


def test_a_retry_with_its_key_gets_the_first_answer(client: Any) -> None:
    """Without the key, the delayed copy of a vote counts as a new one."""
    first = send(client, LIKE, key="k")
    send(client, UNLIKE)
    without = rank(client, "u")
    assert send(client, LIKE, key="k") == first
    assert rank(client, "u") == without
    assert send(client, LIKE)["accepted"] == 1


def test_replaced_retractions_name_nothing(client: Any) -> None:
    send(client, LIKE, UNLIKE, UNLIKE | {"event_id": "again"})
    send(client, LIKE)
    liked = rank(client, "u")
    for target in ("unlike-7", "again"):
        undo = {"type": "retract", "user": "u", "target_event_id": target}
        assert send(client, undo, status=404)["code"] == "event_not_found"
    assert rank(client, "u") == liked


def test_a_retraction_cannot_name_what_it_would_replace(client: Any) -> None:
    send(client, LIKE, UNLIKE)
    for target in ("like-7", "unlike-7"):
        undo = {"type": "retract", "user": "u", "target_event_id": target, "event_id": "like-7"}
        assert send(client, undo, status=404)["code"] == "event_not_found"
    assert send(client, LIKE)["accepted"] == 1


def test_another_user_can_take_over_the_id_of_a_retracted_event(client: Any) -> None:
    theirs = LIKE | {"user": "v"}
    send(client, LIKE)
    assert send(client, theirs, status=422)["code"] == "event_id_conflict"
    send(client, UNLIKE)
    liked = send(client, theirs)
    assert (liked["accepted"], [user["user"] for user in liked["users"]]) == (1, ["v"])
    assert rank(client, "u") == rank(client, None) != rank(client, "v")
    assert send(client, UNLIKE, status=404)["code"] == "event_not_found"
    assert send(client, LIKE, status=422)["code"] == "event_id_conflict"
    assert send(client, UNLIKE | {"user": "v"})["accepted"] == 1
    assert send(client, LIKE)["accepted"] == 1
    merged = client.post("/v1/users/u/merge", json={"from": "v"}).json()
    assert merged["feedback_events"] == 5
    send(client, LIKE | {"user": "once", "event_id": "once"})
    assert rank(client, "u") == rank(client, "once")
    assert client.delete("/v1/users/u").status_code == 204
    assert send(client, LIKE)["accepted"] == 1


def test_requests_in_one_commit_know_of_each_other(client: Any, store: Any) -> None:
    send(client, LIKE)
    runtime = client.app.state.runtime
    gate, senders = threading.Event(), []
    sqlalchemy_event.listen(runtime.store._writer, "begin", lambda _: gate.wait(timeout=30))
    waiting = [LIKE, UNLIKE, LIKE, LIKE | {"user": "v"}, UNLIKE, LIKE | {"user": "v"}]
    answers: dict[int, Any] = {}
    for n, body in enumerate([{"type": "vote", "user": "w", "text": "first", "value": 1}, *waiting]):

        def post(n: int = n, body: dict[str, Any] = body) -> None:
            answers[n] = client.post("/v1/feedback", json=body).json()

        senders.append(threading.Thread(target=post))
        senders[-1].start()
        while runtime.writer._queued_events < n + 1:
            senders[-1].join(timeout=0.001)
    gate.set()
    for sender in senders:
        sender.join()
    told = [answers[n].get("code") or answers[n]["accepted"] for n in range(1, 7)]
    assert told == [0, 1, 1, "event_id_conflict", 1, 1]
    rows = store.run("SELECT user_id, seq, replaced FROM feedback_events WHERE user_id <> 'w' ORDER BY 1, 2")
    assert rows == [("u", 1, 1), ("u", 2, 1), ("u", 3, 1), ("u", 4, 1), ("v", 1, 0)]
    assert rank(client, "u") == rank(client, None) != rank(client, "v")


def test_new_ids_cost_one_look_up(client: Any) -> None:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if re.search("(FROM|JOIN) feedback_events", statement):
            statements.append(statement)

    send(client, LIKE)
    sqlalchemy_event.listen(client.app.state.runtime.store._writer, "before_cursor_execute", note)
    send(client, LIKE | {"event_id": "another"}, LIKE | {"event_id": "a third"})
    assert len(statements) == 1
    send(client, LIKE)  # a duplicate: is it in force?
    assert len(statements) == 3


def test_a_fit_reads_what_is_in_force(client: Any) -> None:
    send(client, LIKE, UNLIKE, LIKE | {"value": -1}, UNLIKE, LIKE | {"text": "tree"})
    with client.app.state.runtime.store.reading() as connection:
        lines = list(iterate_lines(connection, "default", "", Counter()))
        stored = read_judgements(connection, ["default"], FeatureExtractor(HashingEncoder()).identity)
    assert [line["user"] for line in lines] == ["u"]
    assert "tree" in str(lines)
    assert [judgement.value for judgement in stored.judgements] == [1.0]
