"""`POST /v1/feedback`."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from penchant.service.access.keyring import Scope
from penchant.service.api.answers.feedback import FeedbackResponse
from penchant.service.api.body import read_body
from penchant.service.api.context import (
    authorize,
    get_runtime,
    get_served_model,
    is_admin,
    json_response,
    read_header_user,
)
from penchant.service.api.openapi import FEEDBACK_BODY, describe_route
from penchant.service.api.routing import LeanRouter
from penchant.service.feedback.events import parse_request
from penchant.service.telemetry.metrics import Timings

router = LeanRouter(tags=["feedback"])


@router.post(
    "/v1/feedback",
    scope=Scope.FEEDBACK,
    summary="Send feedback of users",
    **describe_route("feedback", FeedbackResponse, FEEDBACK_BODY),
)
async def feedback(request: Request) -> Response:
    """Learn from a batch of events, or from a single event without an envelope.

    The events are on disk before the answer is sent, and the next ranking for their users reflects them.
    """
    runtime, tenant = get_runtime(request), authorize(request)
    key = request.headers.get("idempotency-key")
    parse = partial(
        parse_request,
        header_user=read_header_user(request),
        is_hashed=key is not None,
        settings=runtime.settings,
    )
    received = await read_body(request, runtime.settings, parse)
    timings = Timings()
    answer = await runtime.learner.learn(
        tenant, received, key, timings, model=get_served_model(request), is_admin=is_admin(request)
    )
    return json_response(answer, timings)
