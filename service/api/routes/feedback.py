"""`POST /v1/feedback`."""

from starlette.requests import Request
from starlette.responses import Response

from penchant.service.access.keyring import Scope
from penchant.service.api.answers.feedback import FeedbackResponse
from penchant.service.api.body import read_object
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
    body = await read_object(request, runtime.settings)
    timings = Timings()
    key = request.headers.get("idempotency-key")
    answer = await runtime.learner.learn(
        tenant,
        body,
        read_header_user(request),
        key,
        timings,
        model=get_served_model(request),
        is_admin=is_admin(request),
    )
    return json_response(answer, timings)
