"""What the one writer does about long logs and many stored answers, while the innocent client votes."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import httpx

from benchmarks.faults.hostile.cases import Case, Sizes
from benchmarks.faults.hostile.seeding import copy_answers, copy_user, lengthen_log
from benchmarks.faults.hostile.sending import MB, Request, ordinary_ranking, post
from benchmarks.faults.processes import Server
from benchmarks.faults.stores import Store

SETTINGS: Final = {"PENCHANT_BURST_EVENTS": "1000000", "PENCHANT_MAX_DAILY_INFORMATION": "1000000"}
"""Settings of the servers, so that what is sent at once counts."""

_LONG: Final = "long"
_SHORT: Final = "short"
_TAUGHT: Final = 500
_SHORT_EVENTS: Final = 20
_BATCH: Final = 100
_WORDS: Final = ("boat", "sea", "tree", "house", "cloud", "river", "train", "soup")


def teach_logs(server: Server, sizes: Sizes) -> None:
    """Send the events of which the logs consist, and the request whose answer is stored."""
    taught = min(_TAUGHT, sizes.log_events)
    events = [_event(_LONG, number) for number in range(1, taught + 1)]
    events += [_event(_SHORT, number) for number in range(1, _SHORT_EVENTS + 1)]
    with server.client() as client:
        for start in range(0, len(events), _BATCH):
            _teach(client, events[start : start + _BATCH])
        _teach(client, [_event(_SHORT, _SHORT_EVENTS + 1)], {"Idempotency-Key": "stored"})


def seed_logs(store: Store, sizes: Sizes) -> None:
    """Lengthen and copy what was sent. One stored answer in a thousand names the same user."""
    lengthen_log(store, _LONG, sizes.log_events)
    copy_user(store, _LONG, _LONG, 2)
    copy_user(store, _SHORT, _SHORT, sizes.deletions)
    copy_answers(store, sizes.stored_answers, _SHORT, min(1000, sizes.stored_answers))


def log_cases(sizes: Sizes) -> Iterator[Case]:
    """Yield the cases, in an order in which each finds the logs that it needs."""
    events = f"{sizes.log_events:,} events"
    asks = _asks()
    yield _case(f"the first ranking after an upgrade, {events}", "200", next(asks))
    recent, old = sizes.log_events - _BATCH, 10
    yield _case(
        f"a retraction of a recent one of {events}, and a ranking", "200", _retract(recent), next(asks)
    )
    yield _case(f"a retraction of an old one of {events}, and a ranking", "200", _retract(old), next(asks))
    yield _case(f"an export of {events}", "200", Request("GET", f"/v1/users/{_LONG}/export"))
    merge = post(f"/v1/users/{_LONG}/merge", {"from": f"{_LONG}-1"})
    yield _case(f"a merge of {events} into as many", "200", merge)
    yield _case(f"a deletion of {events}", "204", Request("DELETE", f"/v1/users/{_LONG}-2"))
    deletions = [Request("DELETE", f"/v1/users/{_SHORT}-{n + 1}") for n in range(sizes.deletions)]
    yield _case(
        f"{sizes.deletions} deletions beside {sizes.stored_answers:,} stored answers", "204", *deletions
    )


def _case(name: str, expected: str, *requests: Request) -> Case:
    return Case(
        name,
        lambda target: target.send(*requests),
        {"200", expected},
        ordinary_ranking(MB),
        repeats=False,
        votes=True,
    )


def _asks() -> Iterator[Request]:
    """Yield rankings of the user with the long log that are not cached."""
    for number in itertools.count():
        yield post(
            "/v1/rerank", {"query": f"q {number}", "documents": ["boat sea", "tree house"], "user": _LONG}
        )


def _retract(seq: int) -> Request:
    """Return the retraction of an event that was copied or sent."""
    target = f"{_LONG}-{seq}"
    return post("/v1/feedback", {"type": "retract", "user": _LONG, "target_event_id": target})


def _teach(
    client: httpx.Client, events: Sequence[dict[str, object]], headers: Mapping[str, str] | None = None
) -> None:
    answer = client.post("/v1/feedback", json={"events": events}, headers=headers)
    if answer.status_code != httpx.codes.OK or answer.json()["accepted"] != len(events):
        raise RuntimeError(f"the events of the logs were answered {answer.text[:1000]}")


def _event(user: str, number: int) -> dict[str, object]:
    """Return an event whose id names its place in the log, as those of copies do."""
    chosen, rejected = (
        " ".join(_WORDS[(number * step + k) % len(_WORDS)] for k in range(3)) + f" {step * number}"
        for step in (1, -3)
    )
    event_id = f"{user}-{number}"
    return {"type": "preference", "user": user, "event_id": event_id, "chosen": chosen, "rejected": rejected}
