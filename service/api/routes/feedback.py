"""`POST /v1/feedback`."""

from starlette.requests import Request
from starlette.responses import Response

from penchant.service.access.keyring import Scope
from penchant.service.api.answers.feedback import FeedbackResponse
from penchant.service.api.body import read_object
from penchant.service.api.context import header_user, json_answer, runtime, served_model, tenant
from penchant.service.api.openapi import FEEDBACK_BODY, describe
from penchant.service.api.routing import LeanRouter
from penchant.service.telemetry.metrics import Timings

router = LeanRouter(tags=["feedback"])


@router.post(
    "/v1/feedback",
    scope=Scope.FEEDBACK,
    summary="Tell what users liked",
    **describe("feedback", FeedbackResponse, FEEDBACK_BODY),
)
async def feedback(request: Request) -> Response:
    """Learns from a batch of events, or one bare event.

    The events are on disk before the answer, and the next ranking of their users reflects them.
    """
    served, owner = runtime(request), tenant(request)
    body = await read_object(request, served.settings)
    timings = Timings()
    key = request.headers.get("idempotency-key")
    answer = await served.learner.learn(
        owner, body, header_user(request), key, timings, model=served_model(request)
    )
    return json_answer(answer, timings)
