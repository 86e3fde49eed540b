"""What a route needs to know about its request: the calling tenant, the user it is for, and the parts of the server."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

import orjson
from starlette.requests import Request
from starlette.responses import Response

from penchant.service.access.keyring import Scope
from penchant.service.access.limits import QuotaKind
from penchant.service.api.routing import LeanRoute
from penchant.service.bundles.served_model import ServedModel
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.runtime import Runtime
from penchant.service.telemetry.metrics import Timings
from penchant.service.validation import find_user_id_error

USER_HEADER: Final = "x-user-id"


def get_runtime(request: Request) -> Runtime:
    """Return the parts of the server.

    Raises:
        ApiError: `not_ready`, if the server is starting or stopping.
    """
    state = request.scope["state"]
    found = cast("Runtime | None", state.get("runtime"))
    if found is None:
        found = state["runtime"] = cast("Runtime | None", getattr(request.app.state, "runtime", None))
    if found is None:
        raise ApiError(Code.NOT_READY, "The server is starting or stopping.", headers={"Retry-After": "1"})
    return found


def get_served_model(request: Request) -> ServedModel:
    """Return the model that answers this request. It stays the same even if another bundle is activated meanwhile.

    Raises:
        ApiError: `not_ready`, if the server is starting or stopping.
    """
    state = request.scope["state"]
    found = cast("ServedModel | None", state.get("model"))
    if found is None:
        found = state["model"] = get_runtime(request).models.current
    return found


def authorize(request: Request) -> str:
    """Return the calling tenant, after checking its key, the key's scopes and the rate limits.

    Raises:
        ApiError: `unauthenticated`, `rate_limited` or `forbidden`.
    """
    state = request.scope["state"]
    if (found := state.get("tenant")) is not None:
        return cast("str", found)
    access = get_runtime(request).access
    caller = access.keyring.authenticate(request.headers)
    state["tenant"], state["is_admin"] = caller.tenant, Scope.ADMIN in caller.scopes
    state["headers"] = access.limiter.count(caller)
    route: LeanRoute = request.scope["route"]
    if route.required_scope is None:
        raise LookupError(f"{route.path} needs a key but declares no scope")
    caller.require(route.required_scope)
    return caller.tenant


def is_admin(request: Request) -> bool:
    """Return whether the caller of an authorized request has the scope `admin`, as everybody has without any key."""
    return bool(request.scope["state"]["is_admin"])


def spend_candidates(request: Request, number: int) -> None:
    """Count candidates against the tenant's quota before they are ranked.

    Raises:
        ApiError: `quota_exceeded`.
    """
    get_runtime(request).access.quotas.spend(authorize(request), QuotaKind.CANDIDATES, number)


def read_header_user(request: Request) -> str | None:
    """Return the user that the header `X-User-Id` names, if any.

    Raises:
        ApiError: If the header is not a percent-encoded user id.
    """
    raw = request.headers.get(USER_HEADER)
    return decode_user(raw, "") if raw else None


def resolve_ranking_user(request: Request, body: str | None, model: str | None) -> str | None:
    """Return the user of a ranking, named in the path, the body, the header or the model. None for the population.

    Raises:
        ApiError: `user_conflict`, `model_not_found`, or `validation_failed` for an invalid user id.
    """
    raw = request.scope["state"].get("path_user")
    user = resolve_user(
        path=decode_user(raw, "") if raw is not None else None,
        body=body,
        header=read_header_user(request),
        model=None if model is None else parse_model_user(model, list_model_names(request)),
    )
    request.scope["state"]["user"] = user
    return user


def read_path_user(request: Request) -> str:
    """Return the user of a `/v1/users/{user}` route.

    Raises:
        ApiError: If the path has no valid user id.
    """
    user = decode_user(request.path_params["user"], "")
    request.scope["state"]["user"] = user
    return user


def list_model_names(request: Request) -> tuple[str, ...]:
    """Return every name of the bundle that answers."""
    bundle = get_served_model(request).bundle
    names = (*get_runtime(request).settings.model_aliases, bundle.manifest.name, bundle.version)
    return tuple(dict.fromkeys(names))


def json_response(
    content: object, timings: Timings | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response. Content of type `bytes` is sent as it is."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    all_headers: dict[str, Any] = dict(headers or {})
    if timings is not None:
        all_headers["Server-Timing"] = timings.header()
    return Response(body, 200, all_headers, "application/json")


def decode_user(raw: str, pointer: str) -> str:
    """Decode a percent-encoded user id from a path segment or a header.

    Raises:
        ApiError: `invalid_encoding` if it is not UTF-8, `validation_failed` if it is not a user id.
    """
    try:
        # Headers and raw paths arrive as Latin-1; a client that sent bare UTF-8 is understood as well.
        user = unquote_to_bytes(raw.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        raise ApiError(Code.INVALID_ENCODING, "The user id is not percent-encoded UTF-8.") from None
    if fault := find_user_id_error(user):
        raise InvalidRequestError((pointer, fault))
    return user


def parse_model_user(model: str | None, aliases: Iterable[str]) -> str | None:
    """Return the user in a model name such as `penchant:{user}`, if there is one.

    Raises:
        ApiError: `model_not_found`, or `validation_failed` for an invalid user id after the colon.
    """
    if model is None or model in aliases:
        return None
    name, colon, user = model.partition(":")
    if not colon or name not in aliases:
        raise ApiError(
            Code.MODEL_NOT_FOUND,
            "The model is not in the list of GET /v1/models.",
            errors=[{"pointer": "/model", "detail": "unknown model"}],
        )
    if fault := find_user_id_error(user):
        raise InvalidRequestError(("/model", fault))
    return user


def resolve_user(*, path: str | None, body: str | None, header: str | None, model: str | None) -> str | None:
    """Return the user on which all channels in use agree. None for the population.

    Raises:
        ApiError: `user_conflict`, if two channels name different users.
    """
    channels = {"path": path, "body": body, "header": header, "model": model}
    named = {channel: user for channel, user in channels.items() if user is not None}
    if len(set(named.values())) > 1:
        raise ApiError(Code.USER_CONFLICT, f"Different users are named by: {', '.join(named)}.")
    return next(iter(named.values()), None)
