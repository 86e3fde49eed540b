"""Models of the answers to operators."""

from typing import Literal

from penchant.service.api.answers.base import Answer


class Limits(Answer):
    """Limits of a request and of the caller. Null means that there is no limit."""

    max_body_bytes: int
    max_body_values: int
    max_body_depth: int
    max_candidates: int
    max_scores: int
    max_text_chars: int
    max_tokens_per_text: int
    max_events: int
    max_event_texts: int
    max_feedback_texts: int
    max_edit_chars: int
    max_metadata_bytes: int
    max_metadata_depth: int
    max_page_items: int
    max_page_bytes: int
    body_timeout_seconds: float
    request_timeout_seconds: float
    tenant_requests_per_minute: int | None
    key_requests_per_minute: int | None
    candidates_per_day: int | None
    events_per_day: int | None
    users: int | None
    ranking_bytes: int | None


class ModelInfo(Answer):
    """One name of the loaded bundle."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    bundle: str
    bundle_version: str
    limits: Limits


class ModelList(Answer):
    """Every model name that a request may use."""

    object: Literal["list"]
    data: list[ModelInfo]


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]


class Check(Answer):
    """One part of the server that must work."""

    status: Literal["ok", "failed"]
    detail: str


class Readiness(Answer):
    """Whether requests can be served."""

    status: Literal["ready"]
    checks: dict[str, Check]
