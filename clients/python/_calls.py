"""Describes the call of each endpoint: what to send, and how to parse the response. This module does no I/O.

Both clients share these descriptions. The client method of a call documents its fields.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from penchant import _responses as responses

__all__ = [
    "Call",
    "Document",
    "Strategy",
    "best_of_n",
    "check_readiness",
    "delete_user",
    "export_user",
    "get_user",
    "list_feedback",
    "list_models",
    "merge_users",
    "rerank",
    "score",
    "send_event",
    "send_events",
]

T = TypeVar("T")

Document = str | Mapping[str, Any]
"""A text, or a mapping that holds it under ``text``."""

Strategy = Literal["mean", "lower_bound", "thompson"]
"""How best-of-n treats uncertainty. A server refuses strategies that it does not support with status 422."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to parse its response.

    Attributes:
        method: HTTP method.
        path: Raw path, already percent-encoded.
        parse: Function from the status and the decoded JSON (None for an empty body) to the value that the client
            method returns.
        json: Body of the request.
        params: Query parameters.
        idempotency_key: Key that is sent with the first attempt and each retry.
        expected_statuses: Statuses outside 2xx that are results rather than errors.
    """

    method: str
    path: str
    parse: Callable[[int, object], T]
    json: Mapping[str, Any] | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    idempotency_key: str | None = None
    expected_statuses: frozenset[int] = frozenset()


def score(
    *,
    queries: str | Sequence[str],
    documents: str | Sequence[str],
    user: str | None,
    explain: bool | None,
    personalization: float | None,
    model: str | None,
) -> Call[responses.Scores]:
    body = {
        "queries": queries,
        "documents": documents,
        "user": user,
        "explain": explain,
        "personalization": personalization,
        "model": model,
    }
    return Call("POST", "/v1/score", _build_parser(responses.Scores), _drop_none(body))


def rerank(
    *,
    query: str,
    documents: Sequence[Document],
    user: str | None,
    top_n: int | None,
    return_documents: bool | None,
    max_tokens_per_doc: int | None,
    explain: bool | None,
    personalization: float | None,
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
        "personalization": personalization,
        "model": model,
    }
    return Call("POST", "/v1/rerank", _build_parser(responses.Ranking), _drop_none(body))


def best_of_n(
    *,
    candidates: Sequence[str],
    prompt: str | None,
    user: str | None,
    strategy: Strategy | None,
    accept_threshold: float | None,
    n_return: int | None,
    explain: bool | None,
    personalization: float | None,
) -> Call[responses.BestOfN]:
    body = {
        "candidates": list(candidates),
        "prompt": prompt,
        "user": user,
        "strategy": strategy,
        "accept_threshold": accept_threshold,
        "n_return": n_return,
        "explain": explain,
        "personalization": personalization,
    }
    return Call("POST", "/v1/best-of-n", _build_parser(responses.BestOfN), _drop_none(body))


def send_events(
    events: Sequence[Mapping[str, Any]], user: str | None, idempotency_key: str | None
) -> Call[responses.FeedbackReceipt]:
    key = _choose_key(idempotency_key)
    body = [
        {"event_id": f"{key}-{index}", **_build_user_field(user), **event}
        for index, event in enumerate(events)
    ]
    return _post_feedback({"events": body}, key)


def send_event(event: Mapping[str, Any], user: str | None) -> Call[responses.FeedbackReceipt]:
    """Describe a call with one bare event. If that is invalid, the call raises instead of listing it in ``rejected``."""
    key = _choose_key(None)
    return _post_feedback({"event_id": key, **_build_user_field(user), **_drop_none(event)}, key)


def get_user(user: str) -> Call[responses.User]:
    return Call("GET", _build_user_path(user), _build_parser(responses.User))


def list_feedback(
    user: str, limit: int | None, cursor: str | None
) -> Call[responses.Listing[responses.LoggedEvent]]:
    params = _drop_none({"limit": limit, "cursor": cursor})
    return Call(
        "GET",
        f"{_build_user_path(user)}/feedback",
        _build_parser(responses.Listing[responses.LoggedEvent]),
        params=params,
    )


def delete_user(user: str) -> Call[None]:
    return Call("DELETE", _build_user_path(user), lambda _status, _body: None)


def export_user(user: str) -> Call[responses.UserExport]:
    return Call("GET", f"{_build_user_path(user)}/export", _build_parser(responses.UserExport))


def merge_users(user: str, provisional: str) -> Call[responses.Merged]:
    return Call(
        "POST", f"{_build_user_path(user)}/merge", _build_parser(responses.Merged), {"from": provisional}
    )


def list_models(cursor: str | None = None) -> Call[responses.Listing[responses.ModelCard]]:
    params = {"cursor": cursor} if cursor else {}
    return Call("GET", "/v1/models", _build_parser(responses.Listing[responses.ModelCard]), params=params)


def check_readiness() -> Call[responses.Readiness]:
    def parse(status: int, body: object) -> responses.Readiness:
        checks = body if isinstance(body, dict) else {}
        return responses.Readiness.model_validate({**checks, "ready": status == 200})

    return Call("GET", "/readyz", parse, expected_statuses=frozenset({503}))


def _build_parser(model: type[responses.ResponseT]) -> Callable[[int, object], responses.ResponseT]:
    return lambda _status, body: model.model_validate(body)


def _post_feedback(body: Mapping[str, Any], key: str) -> Call[responses.FeedbackReceipt]:
    return Call("POST", "/v1/feedback", _build_parser(responses.FeedbackReceipt), body, idempotency_key=key)


def _choose_key(idempotency_key: str | None) -> str:
    """Return the idempotency key. Event ids derive from it, so that no retry can count an event twice."""
    return idempotency_key or f"call_{uuid.uuid4().hex}"


def _build_user_field(user: str | None) -> dict[str, str]:
    return {} if user is None else {"user": user}


def _drop_none(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _build_user_path(user: str) -> str:
    """Build the user's raw path, with every reserved character encoded (``/`` is ``%2F``, ``%`` is ``%25``)."""
    if not user:
        raise ValueError("`user` is empty; a user id has 1 to 128 characters.")
    encoded = quote(user, safe="")
    if set(encoded) == {"."}:  # quote keeps dots, and clients resolve "." and ".." in a path
        encoded = encoded.replace(".", "%2E")
    return f"/v1/users/{encoded}"
