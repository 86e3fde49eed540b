"""The outermost layer of every request: its id, the user in its path, its log line, and the last error handler."""

import asyncio
import re
import secrets
import time
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penchant.service.draining import Draining
from penchant.service.errors import build_problem_response, deadline_error, internal_error
from penchant.service.telemetry.metrics import Telemetry, log, log_failure

_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_QUIET: Final = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
_CLIENT_LEFT: Final = 499
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # bounds the labels


class RequestMiddleware:
    """ASGI middleware around the whole application.

    It sets in `scope["state"]`: `request_id`, `trace_id`, and `path_user` (percent-encoded, from `/users/{user}/…`
    before a route that is served per user). Routes add `tenant` and `user` for the log, and `headers` that the answer
    must have even if it is an error.

    Args:
        app: The wrapped application.
        telemetry: Counts requests, and hashes users for the log.
        draining: While it is set, each answer closes its connection, so that the next request goes to another server.
        seconds: Time within which an answer must begin.
        per_user_paths: Paths of the routes that are also served under `/users/{user}`.
    """

    def __init__(
        self,
        app: ASGIApp,
        telemetry: Telemetry,
        draining: Draining,
        seconds: float,
        per_user_paths: frozenset[str],
    ) -> None:
        self._app = app
        self._seconds = seconds
        self._telemetry = telemetry
        self._draining = draining
        self._per_user_paths = per_user_paths
        self._log = (
            log.bind()
        )  # bound a single time, because each call of the lazy logger would bind it again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id, trace_id = _read_ids(scope)
        state = scope.setdefault("state", {})
        state["request_id"], state["trace_id"] = request_id, trace_id
        instance = self._route_by_raw_path(scope)
        status, deadline = 0, asyncio.timeout(self._seconds)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers.append((b"x-request-id", request_id.encode()))
                headers += [(name.encode(), text.encode()) for name, text in state.get("headers", {}).items()]
                if self._draining.since is not None:
                    headers.append((b"connection", b"close"))
            await send(message)

        async def send_in_time(message: Message) -> None:
            if not deadline.expired():
                deadline.reschedule(None)  # an answer that has begun may be long
            await send_with_headers(message)

        try:
            async with deadline:
                await self._app(scope, receive, send_in_time)
        except ClientDisconnect:
            status = status or _CLIENT_LEFT
        except Exception as error:
            failure = deadline_error(self._seconds) if deadline.expired() else internal_error()
            log_failure("request_failed", error, request_id=request_id)
            if status:
                raise
            response = build_problem_response(failure, instance=instance, request_id=request_id)
            await response(scope, receive, send_with_headers)
        finally:
            self._record(scope, status or _CLIENT_LEFT, time.perf_counter() - started, state)

    def _route_by_raw_path(self, scope: Scope) -> str:
        """Route by the raw, percent-encoded path, so that user ids may hold any character; return that path.

        `/users/{user}/v1/rerank` becomes `/v1/rerank`, and the user is kept in the state.
        """
        raw: str = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        if raw.startswith("/users/"):
            user, slash, rest = raw.removeprefix("/users/").partition("/")
            if slash and f"/{rest}" in self._per_user_paths:
                scope["state"]["path_user"] = user
                scope["path"] = f"/{rest}"
        elif raw.startswith("/v1/users/"):
            scope["path"] = raw
        return raw

    def _record(self, scope: Scope, status: int, seconds: float, state: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if route != "unmatched" and scope["method"] in _METHODS else "any"
        self._telemetry.record_response(method, route, status, seconds)
        fields = {
            "request_id": state["request_id"],
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1e3, 3),
        }
        tenant, user = state.get("tenant"), state.get("user")
        if tenant is not None:
            fields["tenant"] = tenant
        if tenant is not None and user is not None:
            fields["user"] = self._telemetry.hash_user(tenant, user)
        if state["trace_id"]:
            fields["trace_id"] = state["trace_id"]
        (self._log.debug if route in _QUIET else self._log.info)("request", **fields)


def _read_ids(scope: Scope) -> tuple[str, str | None]:
    """Return the caller's request id or a new one, and the trace id of a W3C `traceparent`."""
    request_id, trace_id = None, None
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            request_id = value.decode()
        elif name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            trace_id = match[1].decode()
    return request_id or secrets.token_hex(16), trace_id
