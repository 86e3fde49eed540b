"""Each method against a fake server: the request, the parsed response and the errors."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

import penchant
from penchant import AsyncClient, Client, errors
from penchant._config import DEFAULT_BASE_URL

RANKING = {
    "id": "rank_1",
    "model": "penchant",
    "results": [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.25}],
    "meta": {
        "api_version": {"version": "2"},
        "warnings": [],
        "personalization": {"user": "ana", "state": "personal", "feedback_events": 3, "posterior_version": 3},
    },
    "usage": {"prompt_tokens": 9, "total_tokens": 9},
}
RECEIPT = {
    "accepted": 1,
    "duplicates": 0,
    "rejected": [],
    "users": [{"user": "ana", "posterior_version": 1, "feedback_events": 1}],
}
USER = {"user": "ana", "feedback_events": 1, "state": "personal"}


def test_rerank(call: Any, server: Any) -> None:
    server.respond(RANKING)
    ranking = call(lambda c: c.rerank(query="Tea?", documents=["Yes.", {"text": "No."}], user="ana", top_n=2))
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/rerank")
    assert request.body == {
        "query": "Tea?",
        "documents": ["Yes.", {"text": "No."}],
        "user": "ana",
        "top_n": 2,
    }
    assert ranking.order == [1, 0]
    assert ranking.results[0].relevance_score == 0.75
    assert ranking.results[0].document is None
    assert ranking.meta.personalization.feedback_events == 3
    assert ranking.usage.total_tokens == 9


def test_score(call: Any, server: Any) -> None:
    data = [{"index": 0, "object": "score", "score": -1.5, "std": 0.5, "probability": 0.25}]
    server.respond(
        {"id": "score_1", "object": "list", "created": 1, "model": "penchant", "data": data, "usage": {}}
    )
    scores = call(lambda c: c.score(queries="Tea?", documents=["Yes."]))
    assert server.requests[0].path == "/v1/score"
    assert server.requests[0].body == {"queries": "Tea?", "documents": ["Yes."]}
    assert (scores.data[0].score, scores.data[0].std, scores.data[0].probability) == (-1.5, 0.5, 0.25)


def test_best_of_n(call: Any, server: Any) -> None:
    best = {"index": 1, "score": 0.5, "probability_best": 0.7, "probability_acceptable": 0.6}
    server.respond({"id": "best_1", "best": best, "accepted": True, "results": [best]})
    result = call(
        lambda c: c.best_of_n(
            candidates=["a", "b"],
            prompt="Tea?",
            user="ana",
            strategy="mean",
            accept_threshold=0.5,
            n_return=1,
        )
    )
    assert server.requests[0].path == "/v1/best-of-n"
    assert server.requests[0].body == {
        "candidates": ["a", "b"],
        "prompt": "Tea?",
        "user": "ana",
        "strategy": "mean",
        "accept_threshold": 0.5,
        "n_return": 1,
    }
    assert result.best.index == 1
    assert result.best.probability_best == 0.7


@pytest.mark.parametrize("strength", [0.0, 0.25, 1])
def test_every_ranking_takes_a_strength_of_personalization(call: Any, server: Any, strength: float) -> None:
    best = {"index": 0, "score": 0.5, "probability_best": 1.0, "probability_acceptable": 0.6}
    server.respond(RANKING)
    server.respond(
        {"id": "score_1", "object": "list", "created": 1, "model": "penchant", "data": [], "usage": {}}
    )
    server.respond({"id": "best_1", "best": best, "accepted": True, "results": [best]})
    call(lambda c: c.rerank(query="Tea?", documents=["Yes."], personalization=strength))
    call(lambda c: c.score(queries="Tea?", documents=["Yes."], personalization=strength))
    call(lambda c: c.best_of_n(candidates=["Yes."], personalization=strength))
    assert [request.path for request in server.requests] == ["/v1/rerank", "/v1/score", "/v1/best-of-n"]
    assert [request.body["personalization"] for request in server.requests] == [strength] * 3


def test_best_of_n_without_an_acceptable_candidate(call: Any, server: Any) -> None:
    server.respond({"id": "best_1", "best": None, "accepted": False, "results": []})
    result = call(lambda c: c.best_of_n(candidates=["a"]))
    assert result.best is None
    assert not result.accepted


def test_feedback_adds_an_id_and_a_user_to_each_event(call: Any, server: Any) -> None:
    rejected = [{"index": 1, "problem": {"code": "rank_not_found"}}]
    server.respond({**RECEIPT, "rejected": rejected})
    events = [
        {"type": "vote", "text": "Yes.", "value": 1},
        {"type": "vote", "text": "No.", "value": -1, "event_id": "own", "user": "bo"},
    ]
    receipt = call(lambda c: c.feedback(events=events, user="ana", idempotency_key="k1"))
    assert server.requests[0].headers["idempotency-key"] == "k1"
    assert server.requests[0].body["events"] == [
        {"event_id": "k1-0", "user": "ana", "type": "vote", "text": "Yes.", "value": 1},
        {"event_id": "own", "user": "bo", "type": "vote", "text": "No.", "value": -1},
    ]
    assert receipt.rejected[0].index == 1
    assert receipt.users[0].posterior_version == 1


def test_prefer(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    call(
        lambda c: c.prefer(
            chosen="Yes.", rejected="No.", prompt="Tea?", user="ana", event_id="k", timestamp=when
        )
    )
    assert server.requests[0].body == {
        "event_id": "k",
        "user": "ana",
        "type": "preference",
        "chosen": "Yes.",
        "rejected": "No.",
        "prompt": "Tea?",
        "timestamp": "2026-01-02T03:04:05+00:00",
    }


COMMON_FIELDS = {
    "source": "app",
    "event_id": "k",
    "timestamp": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "metadata": {"screen": 3},
}
COMMON_FIELDS_SENT = {**COMMON_FIELDS, "timestamp": "2026-01-02T03:04:05+00:00", "user": "ana"}


def test_prefer_with_strength_and_weight(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    call(
        lambda c: c.prefer(
            chosen="Yes.", rejected="No.", strength=0.5, weight=0.25, user="ana", **COMMON_FIELDS
        )
    )
    fields = {"type": "preference", "chosen": "Yes.", "rejected": "No.", "strength": 0.5, "weight": 0.25}
    assert server.requests[0].body == {**COMMON_FIELDS_SENT, **fields}


def test_choose_among_candidates(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    call(
        lambda c: c.choose(
            index=1, candidates=("Yes.", "No."), prompt="Tea?", weight=0.5, user="ana", **COMMON_FIELDS
        )
    )
    fields = {"type": "choice", "index": 1, "candidates": ["Yes.", "No."], "prompt": "Tea?", "weight": 0.5}
    assert server.requests[0].body == {**COMMON_FIELDS_SENT, **fields}


def test_choose_from_a_ranking(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    call(lambda c: c.for_user("ana").choose(index=0, rank_id="rank_1", seen=range(3), event_id="k"))
    fields = {"type": "choice", "index": 0, "rank_id": "rank_1", "seen": [0, 1, 2]}
    assert server.requests[0].body == {"event_id": "k", "user": "ana", **fields}


def test_rank(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    order = ["Yes.", ("No.", "Never."), ["Perhaps."]]
    call(
        lambda c: c.rank(
            order=order, prompt="Tea?", weight=0.5, rank_id="rank_1", user="ana", **COMMON_FIELDS
        )
    )
    fields = {"type": "ranking", "order": [["Yes."], ["No.", "Never."], ["Perhaps."]], "prompt": "Tea?"}
    assert server.requests[0].body == {**COMMON_FIELDS_SENT, **fields, "weight": 0.5, "rank_id": "rank_1"}


def test_edit(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    call(
        lambda c: c.edit(
            original="Yes.",
            edited="Yes!",
            prompt="Tea?",
            weight=0.5,
            rank_id="rank_1",
            user="ana",
            **COMMON_FIELDS,
        )
    )
    fields = {"type": "edit", "original": "Yes.", "edited": "Yes!", "prompt": "Tea?", "weight": 0.5}
    assert server.requests[0].body == {**COMMON_FIELDS_SENT, **fields, "rank_id": "rank_1"}


def test_retract(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    call(lambda c: c.retract(target_event_id="e1", user="ana", **COMMON_FIELDS))
    assert server.requests[0].body == {**COMMON_FIELDS_SENT, "type": "retract", "target_event_id": "e1"}


PART = {"name": "length", "personal": True, "label": "longer", "value": 0.5, "std": 0.25}
EXPLANATION = {"utility": 0.5, "parts": [PART], "shift": 0.5, "moved": [PART], "population_rank": 2, "new": 1}


def test_explanations(call: Any, server: Any) -> None:
    best = {"index": 0, "score": 0.5, "probability_best": 1.0, "probability_acceptable": 0.6}
    server.respond(
        {**RANKING, "results": [{"index": 0, "relevance_score": 0.75, "explanation": EXPLANATION}]}
    )
    server.respond({"id": "s", "data": [{"index": 0, "score": 0.5, "explanation": EXPLANATION}]})
    server.respond(
        {"id": "b", "best": {**best, "explanation": EXPLANATION}, "accepted": True, "results": [best]}
    )
    ranking = call(lambda c: c.rerank(query="q", documents=["d"], explain=True))
    scores = call(lambda c: c.score(queries="q", documents=["d"], explain=True))
    chosen = call(lambda c: c.best_of_n(candidates=["d"], explain=True))
    assert [request.body["explain"] for request in server.requests] == [True, True, True]
    for result in (ranking.results[0], scores.data[0], chosen.best):
        explanation = result.explanation
        assert (explanation.utility, explanation.shift, explanation.population_rank, explanation.new) == (
            0.5,
            0.5,
            2,
            1,
        )
        assert [(p.name, p.personal, p.label, p.value, p.std) for p in explanation.moved] == [
            tuple(PART.values())
        ]
    assert chosen.results[0].explanation is None


def test_reasons_of_a_user(call: Any, server: Any) -> None:
    longer = {"name": "length", "label": "longer answers", "effect": 0.5, "std": 0.25, "probability": 0.97}
    text = {"event_id": "e1", "prompt": "Tea?", "text": "Yes.", "value": 0.5, "std": 0.25, "probability": 0.9}
    server.respond({**USER, "reasons": {"attributes": [{**longer, "told": True}], "texts": [text]}})
    server.respond(USER)
    reasons = call(lambda c: c.users.get(user="ana")).reasons
    assert (reasons.attributes[0].label, reasons.attributes[0].effect) == ("longer answers", 0.5)
    assert reasons.attributes[0].told
    assert (reasons.texts[0].prompt, reasons.texts[0].text, reasons.texts[0].event_id) == (
        "Tea?",
        "Yes.",
        "e1",
    )
    assert call(lambda c: c.users.get(user="ana")).reasons is None  # an older server


def test_vote(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    call(lambda c: c.vote(value=-1, rank_id="rank_1", index=0, user="ana", weight=0.5, event_id="k"))
    assert server.requests[0].body == {
        "event_id": "k",
        "user": "ana",
        "type": "vote",
        "value": -1,
        "rank_id": "rank_1",
        "index": 0,
        "weight": 0.5,
    }


def test_rate(call: Any, server: Any) -> None:
    server.respond(RECEIPT)
    call(lambda c: c.rate(value=4, scale=(1, 5), text="Yes.", user="ana", source="stars", event_id="k"))
    assert server.requests[0].body == {
        "event_id": "k",
        "user": "ana",
        "type": "rating",
        "value": 4,
        "scale": [1, 5],
        "text": "Yes.",
        "source": "stars",
    }


@pytest.mark.parametrize(
    ("user", "path"),
    [
        ("ana", "ana"),
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        ("a%2Fb", "a%252Fb"),
        ("zoë", "zo%C3%AB"),
        ("花 子", "%E8%8A%B1%20%E5%AD%90"),
        ("who?#x&y=z", "who%3F%23x%26y%3Dz"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("../ana", "..%2Fana"),
        ("a+b@c:d", "a%2Bb%40c%3Ad"),
    ],
)
def test_user_ids_are_one_path_segment(call: Any, server: Any, user: str, path: str) -> None:
    server.respond({**USER, "user": user})
    assert call(lambda c: c.users.get(user=user)).user == user
    assert call(lambda c: c.users.export(user=user)).user == user
    assert call(lambda c: c.users.merge(user=user, provisional="guest")).user == user
    assert server.requests[-1].body == {"from": "guest"}
    server.responses[:] = [(204, {}, None)]
    assert call(lambda c: c.users.delete(user=user)) is None
    assert [(request.method, request.path) for request in server.requests] == [
        ("GET", f"/v1/users/{path}"),
        ("GET", f"/v1/users/{path}/export"),
        ("POST", f"/v1/users/{path}/merge"),
        ("DELETE", f"/v1/users/{path}"),
    ]


@pytest.mark.parametrize("use", [lambda c: c.users.delete(), lambda c: c.users.get(user="")])
def test_user_methods_need_a_user(call: Any, server: Any, use: Any) -> None:
    with pytest.raises(ValueError, match="user"):
        call(use)
    assert server.requests == []


def test_for_user_sets_the_user_of_every_call(call: Any, server: Any) -> None:
    server.respond(RANKING).respond(RECEIPT).respond(USER)
    call(lambda c: c.for_user("ana").rerank(query="q", documents=["d"]))
    call(lambda c: c.for_user("ana").vote(value=1, text="Yes."))
    call(lambda c: c.for_user("ana").users.get())
    call(lambda c: c.for_user("ana").users.get(user="bo"))
    assert server.requests[0].body["user"] == "ana"
    assert server.requests[1].body["user"] == "ana"
    assert [request.path for request in server.requests[2:]] == ["/v1/users/ana", "/v1/users/bo"]


def test_fields_of_a_newer_server_are_kept(call: Any, server: Any) -> None:
    server.respond({**USER, "archetype_weights": [0.5, 0.5]})
    assert call(lambda c: c.users.get(user="ana")).archetype_weights == [0.5, 0.5]


def test_models(call: Any, server: Any) -> None:
    server.respond({"object": "list", "data": [{"id": "penchant", "limits": {"max_events": 100}}]})
    page = call(lambda c: c.models())
    assert [model.id for model in page.data] == ["penchant"]
    assert page.data[0].limits == {"max_events": 100}
    assert page.next_cursor is None


def test_iterating_a_page_fetches_the_following_pages(server: Any) -> None:
    def page(*ids: str, cursor: str | None = None) -> tuple[int, dict[str, str], Any]:
        data = [{"seq": 1, "event_id": i, "event": {"type": "vote"}} for i in ids]
        return 200, {}, {"data": data, "has_more": cursor is not None, "next_cursor": cursor}

    async def read_async() -> list[str]:
        async with AsyncClient(base_url=server.url) as client:
            return [event.event_id async for event in await client.users.feedback(user="a/b", limit=2)]

    pages = [page("e1", "e2", cursor="c/2"), page("e3", "e4", cursor="c4"), page("e5")]
    server.responses = [*pages]
    with Client(base_url=server.url) as client:
        read = [event.event_id for event in client.users.feedback(user="a/b", limit=2)]
    assert read == ["e1", "e2", "e3", "e4", "e5"]
    server.responses = [*pages]
    assert asyncio.run(read_async()) == read
    path = "/v1/users/a%2Fb/feedback?limit=2"
    assert [request.path for request in server.requests] == [
        path,
        f"{path}&cursor=c%2F2",
        f"{path}&cursor=c4",
    ] * 2


def test_a_timestamp_needs_its_time_zone(call: Any, server: Any) -> None:
    with pytest.raises(ValueError, match="time zone"):
        call(lambda c: c.vote(value=1, text="Yes.", user="ana", timestamp=datetime(2026, 1, 2)))
    assert server.requests == []


def test_ready(call: Any, server: Any) -> None:
    server.respond({"checks": {"encoder": "ok"}})
    ready = call(lambda c: c.ready())
    assert ready
    assert ready.checks == {"encoder": "ok"}


def test_a_server_that_is_not_ready_is_a_result(call: Any, server: Any) -> None:
    server.respond({"checks": {"encoder": "loading"}}, status=503)
    ready = call(lambda c: c.ready())
    assert not ready
    assert ready.checks == {"encoder": "loading"}
    assert len(server.requests) == 1


PROBLEM = {
    "type": "about:blank",
    "title": "Bad",
    "detail": "documents is empty",
    "code": "invalid_request",
    "errors": [{"pointer": "/documents", "detail": "at least one"}],
    "request_id": "req_9",
}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, errors.APIStatusError),
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (409, errors.ConflictError),
        (413, errors.PayloadTooLargeError),
        (418, errors.APIStatusError),
        (422, errors.UnprocessableEntityError),
        (429, errors.RateLimitError),
        (503, errors.InternalServerError),
    ],
)
def test_each_status_raises_its_error(
    call: Any, server: Any, status: int, error: type[errors.APIStatusError]
) -> None:
    server.respond(PROBLEM, status=status, Retry_After="61")
    with pytest.raises(error) as caught:
        call(lambda c: c.rerank(query="q", documents=[]))
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (
        status,
        "invalid_request",
        "req_9",
    )
    assert caught.value.errors[0]["pointer"] == "/documents"
    assert caught.value.retry_after_s == 61.0
    assert str(caught.value) == (
        f"{status} invalid_request: documents is empty; /documents: at least one [request req_9]"
    )
    assert len(server.requests) == 1


def test_a_response_of_a_proxy_raises_too(call: Any, server: Any) -> None:
    server.respond(b"<h1>Bad gateway</h1>", status=502, X_Request_Id="edge-1")
    with pytest.raises(errors.InternalServerError, match="502 error: Bad Gateway") as caught:
        call(lambda c: c.models(), max_retries=0)
    assert caught.value.code is None
    assert caught.value.request_id == "edge-1"
    assert caught.value.body == "<h1>Bad gateway</h1>"


@pytest.mark.parametrize("body", [b"<h1>Hello</h1>", b"", b"[]", b'{"id": "rank_1"}'])
def test_a_success_of_unknown_shape_raises(call: Any, server: Any, body: bytes) -> None:
    server.respond(body)
    with pytest.raises(errors.APIResponseValidationError, match="POST /v1/rerank"):
        call(lambda c: c.rerank(query="q", documents=["d"]))


def test_a_shape_error_quotes_no_texts(call: Any, server: Any) -> None:
    server.respond({"id": "rank_1", "results": [{"index": 0, "document": {"text": "my secret diary"}}]})
    with pytest.raises(errors.APIResponseValidationError, match=r"results\.0\.relevance_score") as caught:
        call(lambda c: c.rerank(query="q", documents=["my secret diary"]))
    assert "diary" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_retries_over_a_real_connection(call: Any, server: Any) -> None:
    server.respond(status=429, Retry_After="0").respond(status=503, Retry_After="0").respond(RECEIPT)
    assert call(lambda c: c.vote(value=1, text="Yes.", user="ana")).accepted == 1
    assert len(server.requests) == 3
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
    assert len({request.body["event_id"] for request in server.requests}) == 1


def test_a_closed_connection_raises(call: Any, server: Any) -> None:
    server.respond(status=0)
    with pytest.raises(errors.APIConnectionError):
        call(lambda c: c.models(), max_retries=0)


def test_nan_is_never_sent(call: Any, server: Any) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        call(lambda c: c.rate(value=float("nan"), scale=(0, 1), text="t", user="u"))
    assert server.requests == []


def test_the_api_key_is_sent_and_never_displayed(call: Any, server: Any) -> None:
    server.respond(PROBLEM, status=401)
    displayed = []

    def use(client: Any) -> Any:
        displayed.append(repr(client) + repr(client.for_user("ana@example.org")) + repr(vars(client)))
        return client.models()

    with pytest.raises(errors.AuthenticationError) as caught:
        call(use, api_key="sk-secret")
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in displayed[0] + repr(caught.value) + str(caught.value)
    assert "Client" in displayed[0]


def test_a_password_in_the_address_is_not_displayed() -> None:
    with Client(base_url="http://me:hunter2@127.0.0.1:1") as client:
        assert "hunter2" not in repr(client)


def test_the_environment_is_read_at_construction(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    monkeypatch.setenv("PENCHANT_BASE_URL", server.url + "/")
    monkeypatch.setenv("PENCHANT_API_KEY", "sk-env")
    server.respond({"data": []})
    with Client() as client:
        monkeypatch.setenv("PENCHANT_BASE_URL", "http://127.0.0.1:1")
        assert list(client.models()) == []
    assert server.requests[0].path == "/v1/models"
    assert server.requests[0].headers["authorization"] == "Bearer sk-env"


def test_the_default_address_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENCHANT_BASE_URL", raising=False)
    with Client() as client:
        assert DEFAULT_BASE_URL == "http://127.0.0.1:8642"
        assert DEFAULT_BASE_URL in repr(client)


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "sk-sécret"},
        {"api_key": "sk-secret\n"},
        {"api_key": "sk secret"},
        {"base_url": "localhost:8642"},
        {"base_url": "ftp://server"},
        {"base_url": "http://"},
        {"base_url": "http://server:port"},
    ],
)
def test_a_malformed_address_or_key_raises_at_construction(options: dict[str, str]) -> None:
    with pytest.raises(penchant.PenchantError) as caught:
        Client(**options)
    assert "cret" not in str(caught.value)


def test_an_injected_client_is_used_and_left_open(server: Any) -> None:
    server.respond({"data": []})
    with httpx.Client(headers={"X-Custom": "1"}, timeout=5) as http:
        with Client(base_url=server.url, http_client=http) as client:
            client.models()
        assert not http.is_closed
        assert server.requests[0].headers["x-custom"] == "1"


def test_closing_a_copy_leaves_the_connections_open(server: Any) -> None:
    server.respond({"data": []})
    client = Client(base_url=server.url)
    with client.for_user("ana"), client.with_options(timeout=1):
        pass
    assert list(client.models()) == []
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.models()


def test_with_options_leaves_the_original_unchanged(server: Any) -> None:
    server.respond(status=503, Retry_After="0")
    with Client(base_url=server.url, max_retries=1) as client:
        with pytest.raises(errors.InternalServerError):
            client.with_options(max_retries=0, timeout=3).models()
        assert len(server.requests) == 1
        with pytest.raises(errors.InternalServerError):
            client.models()
        assert len(server.requests) == 3
