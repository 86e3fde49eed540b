"""Requests that are valid, and enormous: in what they ask for, in what they are answered with, or in what they store."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks.faults.hostile.cases import Case, Sizes, Target
from benchmarks.faults.hostile.seeding import count_ranking_bytes, lengthen_log
from benchmarks.faults.hostile.sending import MB, Request, ordinary_ranking, post, send
from benchmarks.faults.processes import Server
from benchmarks.faults.stores import Store

OK: Final = frozenset({"200"})
USER: Final = "enormous"

_QUOTA_FACTOR: Final = 1.25
_QUOTA_SECONDS: Final = 15.0
_CANDIDATES: Final = 8


def ranking_quota(sizes: Sizes) -> int:
    """Return the quota of stored rankings in bytes, which a few rankings fill."""
    return int(4 * sizes.large_event_mb * MB)


def teach_large_log(server: Server, sizes: Sizes) -> None:
    """Send the event of which the large log consists."""
    event = {
        "type": "choice",
        "user": USER,
        "event_id": "large",
        "index": 0,
        "candidates": _large_texts(sizes),
    }
    status = send(server.port, post("/v1/feedback", event))
    if status != "200":
        raise RuntimeError(f"the large event was answered {status}")


def seed_large_log(store: Store, sizes: Sizes) -> None:
    """Copy the large event."""
    lengthen_log(store, USER, sizes.large_events)


def enormous_cases(sizes: Sizes) -> Iterator[Case]:
    """Yield requests about many users and many texts, answers of a large log, and rankings that fill a quota."""
    unknown = [_score(f"{part}-", sizes.users) for part in range(2)]
    yield Case(
        f"scores for {sizes.users:,} unknown users",
        lambda target: target.send(*unknown),
        OK,
        ordinary_ranking(len(unknown[0].body or b""), return_documents=True),
    )
    explained = post(
        "/v1/rerank",
        {"query": "q", "documents": _texts(sizes.texts), "user": "innocent", "explain": True},
    )
    yield _case(
        f"an explanation of {sizes.texts:,} texts", explained, ordinary_ranking(len(explained.body or b""))
    )
    large = int(sizes.large_event_mb * MB)
    answer = ordinary_ranking(large, return_documents=True)
    log = f"{sizes.large_events} events of {sizes.large_event_mb:g} MB"
    yield _case(f"a page of {log}", Request("GET", f"/v1/users/{USER}/feedback?limit=100"), answer)
    yield _case(f"an export of {log}", Request("GET", f"/v1/users/{USER}/export"), answer)
    texts = _large_texts(sizes)
    filling = [post("/v1/rerank", {"query": f"q {n}", "documents": texts, "user": USER}) for n in range(4)]
    yield Case(
        f"stored rankings of {sizes.large_event_mb:g} MB",
        lambda target: target.send(*filling),
        OK,
        filling[0],
        check=lambda target: _check_quota(target, ranking_quota(sizes)),
    )


def _case(name: str, request: Request, ordinary: Request) -> Case:
    return Case(name, lambda target: target.send(request), OK, ordinary)


def _score(prefix: str, users: int) -> Request:
    body: dict[str, Any] = {
        "text_1": "q",
        "text_2": ["a text"],
        "users": [f"{prefix}{n}" for n in range(users)],
    }
    return post("/v1/score", body)


def _texts(number: int) -> list[str]:
    return [f"text {n} about things" for n in range(number)]


def _large_texts(sizes: Sizes) -> list[str]:
    chars = int(sizes.large_event_mb * MB) // _CANDIDATES
    return [f"{n} " + "x" * chars for n in range(_CANDIDATES)]


def _check_quota(target: Target, quota: int) -> Sequence[str]:
    """Wait until the stored rankings are within their quota, which removes the oldest after the next ranking."""
    until = time.monotonic() + _QUOTA_SECONDS
    small = post("/v1/rerank", {"query": "q", "documents": ["a", "b"], "user": USER})
    while (stored := count_ranking_bytes(target.store)) > _QUOTA_FACTOR * quota:
        if time.monotonic() > until:
            return [f"{stored / MB:.0f} MB of rankings are stored, with a quota of {quota / MB:.0f} MB"]
        target.send(small)
        time.sleep(0.1)
    return []
