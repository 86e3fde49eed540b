"""Each endpoint as a value: what to send and how to read the answer, the same for both clients.

A function here is named for the method that uses it and does no input or output, so that `Client` and
`AsyncClient` differ in the word ``await`` alone.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from penchant import _responses as responses

__all__ = [
    "Call",
    "Document",
    "Strategy",
    "best_of_n",
    "choice",
    "delete_user",
    "edit",
    "export_user",
    "feedback",
    "feedback_event",
    "get_user",
    "merge_users",
    "models",
    "preference",
    "ranking",
    "rating",
    "ready",
    "rerank",
    "retraction",
    "score",
    "user_feedback",
    "vote",
]

T = TypeVar("T")

Document = str | Mapping[str, Any]
"""A text, or a mapping with ``text``."""

Field = str | float | Mapping[str, Any] | None

Strategy = Literal["mean", "lower_bound", "thompson"]
"""How best-of-n treats uncertainty. A server may serve fewer; it says so with 422."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how to read its answer.

    Attributes:
        method: HTTP method.
        path: Raw path, percent-encoded already.
        read: Status and decoded JSON (None for an empty body) to the value that the method returns.
        json: Body.
        params: Query.
        idempotency_key: Sent with the first try and each retry.
        expected: Statuses besides 2xx that are answers rather than errors.
    """

    method: str
    path: str
    read: Callable[[int, object], T]
    json: Mapping[str, Any] | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    idempotency_key: str | None = None
    expected: frozenset[int] = frozenset()


def score(
    *,
    queries: str | Sequence[str],
    documents: str | Sequence[str],
    user: str | None,
    explain: bool | None,
    model: str | None,
) -> Call[responses.Scores]:
    body = {"queries": queries, "documents": documents, "user": user, "explain": explain, "model": model}
    return Call("POST", "/v1/score", _to(responses.Scores), _given(body))


def rerank(
    *,
    query: str,
    documents: Sequence[Document],
    user: str | None,
    top_n: int | None,
    return_documents: bool | None,
    max_tokens_per_doc: int | None,
    explain: bool | None,
    model: str | None,
) -> Call[responses.Ranking]:
    body = {
        "query": query,
        "documents": list(documents),
        "user": user,
        "top_n": top_n,
        "return_documents": return_documents,
        "max_tokens_per_doc": max_tokens_per_doc,
        "explain": explain,
        "model": model,
    }
    return Call("POST", "/v1/rerank", _to(responses.Ranking), _given(body))


def best_of_n(
    *,
    candidates: Sequence[str],
    prompt: str | None,
    user: str | None,
    strategy: Strategy | None,
    accept_threshold: float | None,
    n_return: int | None,
    explain: bool | None,
) -> Call[responses.BestOfN]:
    body = {
        "candidates": list(candidates),
        "prompt": prompt,
        "user": user,
        "strategy": strategy,
        "accept_threshold": accept_threshold,
        "n_return": n_return,
        "explain": explain,
    }
    return Call("POST", "/v1/best-of-n", _to(responses.BestOfN), _given(body))


def feedback(
    events: Sequence[Mapping[str, Any]], user: str | None, idempotency_key: str | None
) -> Call[responses.FeedbackReceipt]:
    key = _key(idempotency_key)
    body = [{"event_id": f"{key}-{index}", **_for_user(user), **event} for index, event in enumerate(events)]
    return _send_feedback({"events": body}, key)


def feedback_event(event: Mapping[str, Any], user: str | None) -> Call[responses.FeedbackReceipt]:
    """One bare event, so that a bad one is an error rather than an entry in ``rejected``."""
    key = _key(None)
    return _send_feedback({"event_id": key, **_for_user(user), **_given(event)}, key)


def preference(*, timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "preference", "timestamp": _rfc3339(timestamp), **fields}


def choice(
    *,
    candidates: Sequence[str] | None,
    seen: Sequence[int] | None,
    timestamp: datetime | None,
    **fields: Field,
) -> dict[str, Any]:
    shown = {"candidates": _listed(candidates), "seen": _listed(seen)}
    return {"type": "choice", "timestamp": _rfc3339(timestamp), **fields, **shown}


def ranking(
    *, order: Sequence[str | Sequence[str]], timestamp: datetime | None, **fields: Field
) -> dict[str, Any]:
    groups = [[tied] if isinstance(tied, str) else list(tied) for tied in order]
    return {"type": "ranking", "order": groups, "timestamp": _rfc3339(timestamp), **fields}


def edit(*, timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "edit", "timestamp": _rfc3339(timestamp), **fields}


def retraction(*, timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "retract", "timestamp": _rfc3339(timestamp), **fields}


def vote(*, timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "vote", "timestamp": _rfc3339(timestamp), **fields}


def rating(*, scale: tuple[float, float], timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "rating", "scale": list(scale), "timestamp": _rfc3339(timestamp), **fields}


def get_user(user: str) -> Call[responses.User]:
    return Call("GET", _user_path(user), _to(responses.User))


def user_feedback(
    user: str, limit: int | None, cursor: str | None
) -> Call[responses.Listing[responses.LoggedEvent]]:
    params = _given({"limit": limit, "cursor": cursor})
    return Call(
        "GET", f"{_user_path(user)}/feedback", _to(responses.Listing[responses.LoggedEvent]), params=params
    )


def delete_user(user: str) -> Call[None]:
    return Call("DELETE", _user_path(user), lambda _status, _body: None)


def export_user(user: str) -> Call[responses.UserExport]:
    return Call("GET", f"{_user_path(user)}/export", _to(responses.UserExport))


def merge_users(user: str, provisional: str) -> Call[responses.Merged]:
    return Call("POST", f"{_user_path(user)}/merge", _to(responses.Merged), {"from": provisional})


def models(cursor: str | None = None) -> Call[responses.Listing[responses.ModelCard]]:
    params = {"cursor": cursor} if cursor else {}
    return Call("GET", "/v1/models", _to(responses.Listing[responses.ModelCard]), params=params)


def ready() -> Call[responses.Readiness]:
    def read(status: int, body: object) -> responses.Readiness:
        checks = body if isinstance(body, dict) else {}
        return responses.Readiness.model_validate({**checks, "ready": status == 200})

    return Call("GET", "/readyz", read, expected=frozenset({503}))


def _to(model: type[responses.ResponseT]) -> Callable[[int, object], responses.ResponseT]:
    return lambda _status, body: model.model_validate(body)


def _send_feedback(body: Mapping[str, Any], key: str) -> Call[responses.FeedbackReceipt]:
    return Call("POST", "/v1/feedback", _to(responses.FeedbackReceipt), body, idempotency_key=key)


def _key(given: str | None) -> str:
    """The call's idempotency key. Event ids follow from it, so that no retry can count an event twice."""
    return given or f"call_{uuid.uuid4().hex}"


def _for_user(user: str | None) -> dict[str, str]:
    return {} if user is None else {"user": user}


def _rfc3339(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("timestamp has no time zone: datetime.now(UTC) has")
    return moment.isoformat()


def _listed(values: Sequence[object] | None) -> list[object] | None:
    return None if values is None else list(values)


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _user_path(user: str) -> str:
    """The user's raw path, with every reserved character encoded (``/`` is ``%2F``, ``%`` is ``%25``)."""
    if not user:
        raise ValueError("user is empty: a user id has 1 to 128 characters")
    encoded = quote(user, safe="")
    if set(encoded) == {"."}:  # quote leaves dots alone, and a path of dots means another path
        encoded = encoded.replace(".", "%2E")
    return f"/v1/users/{encoded}"
