"""The answers and the log of what is refused before a request reaches the application."""

import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

import orjson

from penchant.service.errors import PROBLEM_JSON, ApiError, build_problem
from penchant.service.telemetry.metrics import Telemetry, log

LOG_SECONDS = 1.0
"""Shortest time between two log lines of one kind. A caller without a key must not be able to fill the disk."""


class Reason(StrEnum):
    """Why a connection is refused or closed."""

    TOO_MANY = "too_many_connections"
    TOO_MANY_OF_PEER = "too_many_connections_of_peer"
    SILENT = "no_first_byte"
    LARGE_HEADERS = "headers_too_large"
    SLOW_HEADERS = "headers_too_slow"
    SLOW_BODY = "body_too_slow"
    LARGE_FRAMING = "chunks_too_small"
    PIPELINE = "too_much_pipelined"
    UNREAD = "answer_not_read"
    MALFORMED = "not_http"


@dataclass
class _Unlogged:
    number: int = 0
    logged_at: float = float("-inf")


class Refusals:
    """Counts what is refused, and logs it: one line a second of each kind, with the number since the last one.

    Args:
        telemetry: Has the counter.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._unlogged: dict[Reason, _Unlogged] = {}

    def record(self, reason: Reason, peer: str) -> None:
        """Count a refusal, and log it unless one of its kind was just logged."""
        self._telemetry.refused_connections.labels(reason).inc()
        kind = self._unlogged.setdefault(reason, _Unlogged())
        kind.number += 1
        now = time.monotonic()
        if now - kind.logged_at >= LOG_SECONDS:
            log.warning("connection_refused", reason=reason, number=kind.number, last_peer=peer)
            kind.number, kind.logged_at = 0, now


def format_answer(error: ApiError) -> bytes:
    """Return the whole HTTP response that refuses a request and closes its connection."""
    request_id = secrets.token_hex(16)
    body = orjson.dumps(build_problem(error) | {"instance": "", "request_id": request_id})
    headers = {
        "content-type": PROBLEM_JSON,
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "connection": "close",
        **error.headers,
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
