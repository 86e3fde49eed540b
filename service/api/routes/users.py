"""Routes for users' states and data. Paths stay percent-encoded (see `middleware`), because ids may contain `/`."""

from typing import Final

import orjson
from pydantic import Field
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from penchant.service.access.keyring import Scope
from penchant.service.api.answers import users as answers
from penchant.service.api.body import read_model
from penchant.service.api.context import (
    authorize,
    get_runtime,
    get_served_model,
    json_response,
    read_path_user,
)
from penchant.service.api.openapi import describe_route
from penchant.service.api.routing import LeanRouter
from penchant.service.api.streaming import ExportResponse
from penchant.service.bundles.served_model import ServedModel
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.store.long_logs.user_log import list_events
from penchant.service.timestamps import format_rfc3339
from penchant.service.users.states import UserState, compute_share_of_prior_std
from penchant.service.validation import MAX_DIGITS_VALUE, ExactModel, UserId, read_digits

router = LeanRouter(prefix="/v1/users", tags=["users"])

DEFAULT_LIMIT: Final = 20


class MergeRequest(ExactModel):
    """A provisional user who turned out to be the user of the path."""

    source: UserId = Field(
        alias="from", description="provisional user whose feedback moves to the user of the path"
    )


@router.get(
    "/{user}",
    scope=Scope.RANK,
    summary="Get the state of a user",
    **describe_route("user", answers.UserResponse),
)
async def get_user(request: Request) -> Response:
    """Return the user's state: feedback received, remaining uncertainty, and differences from the population."""
    runtime, tenant = get_runtime(request), authorize(request)
    user, model = read_path_user(request), get_served_model(request)
    state = await _known(model, tenant, user)
    posterior = model.states.compute_posterior(state)
    reasons = await runtime.store.run(model.explainer.compute_reasons, tenant, user, posterior)
    return json_response(
        {
            "user": user,
            "state": "personal" if state.is_personal else "population",
            "feedback_events": state.feedback_events,
            "posterior_version": state.version,
            "bundle": model.bundle.version,
            "archetype_weights": posterior.archetype_weights.tolist(),
            "uncertainty": {"share_of_prior_std": compute_share_of_prior_std(posterior)},
            "reasons": reasons,
            "updated_at": format_rfc3339(state.updated_at),
        }
    )


@router.delete(
    "/{user}", scope=Scope.ADMIN, status_code=204, summary="Delete a user", **describe_route("forget", None)
)
async def delete_user(request: Request) -> Response:
    """Delete the user's posterior, log, rankings, and features that nothing else needs. Unknown users get 204 too."""
    runtime, tenant = get_runtime(request), authorize(request)
    await runtime.user_data.delete(tenant, read_path_user(request))
    return Response(status_code=204)


@router.get(
    "/{user}/export",
    scope=Scope.ADMIN,
    summary="Export everything stored about a user",
    **describe_route("export", answers.UserExport),
)
async def export_user(request: Request) -> Response:
    """Return everything stored about the user: log with texts, states of every bundle, rankings, answers and trust."""
    runtime, tenant = get_runtime(request), authorize(request)
    export = await runtime.exports.open(tenant, read_path_user(request))
    return ExportResponse(export, runtime.settings.body_timeout_seconds)


@router.post(
    "/{user}/merge",
    scope=Scope.ADMIN,
    summary="Merge a provisional user into a user",
    **describe_route("merge", answers.MergeResponse, MergeRequest),
)
async def merge_users(request: Request) -> Response:
    """Merge the log of a provisional user into this one, by time of arrival, and delete that user. Idempotent."""
    runtime, tenant = get_runtime(request), authorize(request)
    user = read_path_user(request)
    body = await read_model(request, runtime.settings, MergeRequest)
    return json_response(await runtime.user_data.merge(tenant, user, body.source))


@router.get(
    "/{user}/feedback",
    scope=Scope.FEEDBACK,
    summary="List a user's feedback",
    **describe_route("page", answers.FeedbackPage),
)
async def get_feedback(request: Request) -> Response:
    """List events in the order in which they were learned. A page of large events has fewer than `limit`."""
    runtime, tenant = get_runtime(request), authorize(request)
    user = read_path_user(request)
    limit = _integer(request, "limit", DEFAULT_LIMIT, 1, runtime.settings.max_page_items)
    after = _integer(request, "cursor", 0, 0, MAX_DIGITS_VALUE)
    await _known(get_served_model(request), tenant, user)
    page = await runtime.store.read_snapshot(
        _write_page, tenant, user, after=after, limit=limit, max_bytes=runtime.settings.max_page_bytes
    )
    return json_response(page)


async def _known(model: ServedModel, tenant: str, user: str) -> UserState:
    state = await model.states.get(tenant, user)
    if state is None:
        raise ApiError(Code.USER_NOT_FOUND, "Nothing is known of this user.")
    return state


def _write_page(
    connection: Connection,
    /,
    tenant: str,
    user: str,
    **limits: int,
) -> bytes:
    """Return a page within limits as JSON."""
    rows, has_more = list_events(connection, tenant, user, **limits)
    page = [
        {
            "seq": row.seq,
            "event_id": row.event_id,
            "received_at": format_rfc3339(row.received_at),
            "event": orjson.Fragment(row.payload),  # as it was stored, however deeply it is nested
        }
        for row in rows
    ]
    next_cursor = str(rows[-1].seq) if has_more else None
    return orjson.dumps({"data": page, "has_more": has_more, "next_cursor": next_cursor})


def _integer(request: Request, name: str, default: int, low: int, high: int) -> int:
    raw = request.query_params.get(name)
    if not raw:
        return default
    number = read_digits(raw)
    if number is None or not low <= number <= high:
        raise InvalidRequestError(
            (f"/{name}", f"The query parameter must be an integer from {low} to {high}.")
        )
    return number
