"""Whether a failed call is repeated, and after how long."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from penchant import errors
from penchant._async.transport import AsyncTransport
from penchant._calls import list_models, send_event
from penchant._config import read_config
from penchant._retry import RetryPolicy, parse_retry_after
from penchant._sync.transport import Transport

CONFIG = read_config("http://server", None, None, None)


@pytest.mark.parametrize(
    ("attempt", "delay"), [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 8.0), (5000, 8.0)]
)
def test_delays_double_up_to_eight_seconds(attempt: int, delay: float) -> None:
    assert RetryPolicy(5000, sample_uniform=lambda: 0.0).delay_after_failure(attempt) == delay
    assert RetryPolicy(5000, sample_uniform=lambda: 1.0).delay_after_failure(attempt) == 0.75 * delay


def test_retries_end() -> None:
    policy = RetryPolicy(2, sample_uniform=lambda: 0.0)
    assert [policy.delay_after_failure(attempt) for attempt in (1, 2, 3)] == [0.5, 1.0, None]
    assert policy.delay_after_status(3, 503, {}) is None


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 599])
def test_retried_statuses(status: int) -> None:
    assert RetryPolicy(2, sample_uniform=lambda: 0.0).delay_after_status(1, status, {}) == 0.5


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 413, 422])
def test_final_statuses(status: int) -> None:
    assert RetryPolicy(2).delay_after_status(1, status, {"retry-after": "1"}) is None


@pytest.mark.parametrize(
    ("header", "delay"), [("0", 0.0), ("7", 7.0), ("60", 60.0), ("61", None), ("soon", 0.5)]
)
def test_retry_after_is_obeyed_up_to_a_minute(header: str, delay: float | None) -> None:
    policy = RetryPolicy(2, sample_uniform=lambda: 0.0)
    assert policy.delay_after_status(1, 429, {"retry-after": header}) == delay


def test_retry_after_may_be_a_date() -> None:
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert parse_retry_after({"retry-after": past}) == 0.0
    delay = parse_retry_after({"retry-after": soon})
    assert delay is not None
    assert 25 < delay <= 30


@pytest.mark.parametrize("value", ["", "-1", "1.5", "²", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_a_malformed_retry_after_is_none(value: str) -> None:
    assert parse_retry_after({"retry-after": value}) is None


class FakeServer:
    """A handler for httpx.MockTransport that returns responses or raises errors in turn, and records requests."""

    def __init__(self, *outcomes: httpx.Response | httpx.TransportError) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[httpx.Request] = []
        self.delays: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, httpx.TransportError):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Any:
    def run_sync(server: FakeServer, call: Any) -> Any:
        with httpx.Client(transport=httpx.MockTransport(server)) as http:
            return Transport(http, sleep=server.delays.append).run(call, CONFIG)

    async def run_async(server: FakeServer, call: Any) -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
            return await AsyncTransport(http, sleep=server.sleep).run(call, CONFIG)

    if request.param == "sync":
        return run_sync
    return lambda server, call: asyncio.run(run_async(server, call))


def test_a_failing_connection_is_attempted_three_times(run: Any) -> None:
    server = FakeServer(*[httpx.ConnectError("refused") for _ in range(3)])
    with pytest.raises(errors.APIConnectionError, match="GET /v1/models got no response: refused") as caught:
        run(server, list_models())
    assert not isinstance(caught.value, errors.APITimeoutError)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert len(server.requests) == 3
    assert 0.375 <= server.delays[0] <= 0.5
    assert 0.75 <= server.delays[1] <= 1.0


def test_a_timeout_raises_its_own_error(run: Any) -> None:
    server = FakeServer(*[httpx.ReadTimeout("late") for _ in range(3)])
    with pytest.raises(errors.APITimeoutError, match="timed out"):
        run(server, list_models())


def test_retries_repeat_the_request_byte_for_byte(run: Any) -> None:
    receipt = {"accepted": 1, "duplicates": 0, "rejected": [], "users": []}
    server = FakeServer(
        httpx.ReadError("reset"),
        httpx.Response(503, headers={"retry-after": "3"}),
        httpx.Response(200, json=receipt),
    )
    event = {"type": "vote", "value": 1, "text": "Yes."}
    assert run(server, send_event(event, "ana")).accepted == 1
    first, *others = server.requests
    assert len(others) == 2
    for other in others:
        assert other.content == first.content
        assert other.headers["idempotency-key"] == first.headers["idempotency-key"]
    assert server.delays[1] == 3.0


def test_each_call_has_its_own_idempotency_key() -> None:
    event = {"type": "vote", "value": 1, "text": "Yes."}
    first, second = send_event(event, "ana"), send_event(event, "ana")
    assert first.idempotency_key != second.idempotency_key


def test_connecting_has_a_shorter_timeout() -> None:
    assert CONFIG.timeout is None
    assert read_config(None, None, 30.0, None).timeout == httpx.Timeout(30.0, connect=2.0)
    assert read_config(None, None, 0.5, None).timeout == httpx.Timeout(0.5)
