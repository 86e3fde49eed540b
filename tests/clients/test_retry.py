"""When a call is tried again, and after how long."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from penchant import errors
from penchant._calls import feedback_event, models
from penchant._config import read_config
from penchant._retry import RetryPolicy, retry_after_s
from penchant._transport import AsyncTransport, Transport

CONFIG = read_config("http://server", None, None, None)


@pytest.mark.parametrize(("tries", "delay"), [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 8.0), (5000, 8.0)])
def test_delays_double_up_to_eight_seconds(tries: int, delay: float) -> None:
    assert RetryPolicy(5000, uniform=lambda: 0.0).after_failure(tries) == delay
    assert RetryPolicy(5000, uniform=lambda: 1.0).after_failure(tries) == 0.75 * delay


def test_tries_end() -> None:
    policy = RetryPolicy(2, uniform=lambda: 0.0)
    assert [policy.after_failure(tries) for tries in (1, 2, 3)] == [0.5, 1.0, None]
    assert policy.after_status(3, 503, {}) is None


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 599])
def test_statuses_that_are_tried_again(status: int) -> None:
    assert RetryPolicy(2, uniform=lambda: 0.0).after_status(1, status, {}) == 0.5


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 413, 422])
def test_statuses_that_are_final(status: int) -> None:
    assert RetryPolicy(2).after_status(1, status, {"retry-after": "1"}) is None


@pytest.mark.parametrize(
    ("asked", "delay"), [("0", 0.0), ("7", 7.0), ("60", 60.0), ("61", None), ("soon", 0.5)]
)
def test_the_server_s_wait_is_kept_up_to_a_minute(asked: str, delay: float | None) -> None:
    policy = RetryPolicy(2, uniform=lambda: 0.0)
    assert policy.after_status(1, 429, {"retry-after": asked}) == delay


def test_retry_after_may_be_a_date() -> None:
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after_s({"retry-after": past}) == 0.0
    wait = retry_after_s({"retry-after": soon})
    assert wait is not None
    assert 25 < wait <= 30


@pytest.mark.parametrize("value", ["", "-1", "1.5", "²", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_an_unusable_retry_after_is_none(value: str) -> None:
    assert retry_after_s({"retry-after": value}) is None


class Script:
    """Plays answers and failures in turn, for httpx's own test transport; keeps requests and waits."""

    def __init__(self, *answers: httpx.Response | httpx.TransportError) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Any:
    def run_sync(script: Script, call: Any) -> Any:
        with httpx.Client(transport=httpx.MockTransport(script)) as http:
            return Transport(http, sleep=script.waits.append).run(call, CONFIG)

    async def run_async(script: Script, call: Any) -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(script)) as http:
            return await AsyncTransport(http, sleep=script.wait).run(call, CONFIG)

    if request.param == "sync":
        return run_sync
    return lambda script, call: asyncio.run(run_async(script, call))


def test_a_failing_connection_is_tried_three_times(run: Any) -> None:
    script = Script(*[httpx.ConnectError("refused") for _ in range(3)])
    with pytest.raises(errors.APIConnectionError, match="GET /v1/models got no answer: refused") as caught:
        run(script, models())
    assert not isinstance(caught.value, errors.APITimeoutError)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert len(script.requests) == 3
    assert 0.375 <= script.waits[0] <= 0.5
    assert 0.75 <= script.waits[1] <= 1.0


def test_a_timeout_has_its_own_error(run: Any) -> None:
    script = Script(*[httpx.ReadTimeout("late") for _ in range(3)])
    with pytest.raises(errors.APITimeoutError, match="not answered in time"):
        run(script, models())


def test_retries_repeat_the_request_byte_for_byte(run: Any) -> None:
    receipt = {"accepted": 1, "duplicates": 0, "rejected": [], "users": []}
    script = Script(
        httpx.ReadError("reset"),
        httpx.Response(503, headers={"retry-after": "3"}),
        httpx.Response(200, json=receipt),
    )
    event = {"type": "vote", "value": 1, "text": "Yes."}
    assert run(script, feedback_event(event, "ana")).accepted == 1
    first, *others = script.requests
    assert len(others) == 2
    for other in others:
        assert other.content == first.content
        assert other.headers["idempotency-key"] == first.headers["idempotency-key"]
    assert script.waits[1] == 3.0


def test_each_call_has_a_key_of_its_own() -> None:
    event = {"type": "vote", "value": 1, "text": "Yes."}
    one, other = feedback_event(event, "ana"), feedback_event(event, "ana")
    assert one.idempotency_key != other.idempotency_key


def test_the_connect_limit_is_shorter() -> None:
    assert CONFIG.timeout is None
    assert read_config(None, None, 30.0, None).timeout == httpx.Timeout(30.0, connect=2.0)
    assert read_config(None, None, 0.5, None).timeout == httpx.Timeout(0.5)
