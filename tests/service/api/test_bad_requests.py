"""Bad input to every endpoint: the documented status, and the field by name."""

import pytest

from penchant.service.api.answers.base import Problem

RERANK = {"query": "q", "documents": ["a", "b"]}
SCORE = {"text_1": "q", "text_2": ["a"]}
BEST = {"prompt": "p", "candidates": ["a", "b"]}
VOTE = {"type": "vote", "user": "u", "text": "t", "value": 1}
RATING = {"type": "rating", "user": "u", "text": "t", "value": 3, "scale": [1, 5]}
PREFERENCE = {"type": "preference", "user": "u", "chosen": "a", "rejected": "b"}
CHOICE = {"type": "choice", "user": "u", "candidates": ["a", "b", "c"], "index": 0}
SHOWN = {"type": "choice", "user": "u", "rank_id": "rank_x", "index": 0}
RANKING = {"type": "ranking", "user": "u", "order": [["a"], ["b", "c"]]}
EDIT = {"type": "edit", "user": "u", "original": "a", "edited": "b"}
RETRACT = {"type": "retract", "user": "u", "target_event_id": "e"}


def check(answer, status, code, pointer=None):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(answer.json())
    assert (problem.status, problem.code) == (status, code)
    assert problem.message == problem.detail
    assert problem.request_id == answer.headers["x-request-id"]
    if pointer is not None:
        assert pointer in [error.pointer for error in problem.errors]


INVALID = [
    ("/v1/rerank", {}, "/query"),
    ("/v1/rerank", RERANK | {"query": None}, "/query"),
    ("/v1/rerank", RERANK | {"query": 3}, "/query"),
    ("/v1/rerank", {"query": "q"}, "/documents"),
    ("/v1/rerank", {"query": "q", "texts": ["a"]}, "/documents"),
    ("/v1/rerank", RERANK | {"documents": []}, "/documents"),
    ("/v1/rerank", RERANK | {"documents": "a"}, "/documents"),
    ("/v1/rerank", RERANK | {"documents": None}, "/documents"),
    ("/v1/rerank", RERANK | {"documents": {"0": "a"}}, "/documents"),
    ("/v1/rerank", RERANK | {"documents": ["a", 3]}, "/documents/1"),
    ("/v1/rerank", RERANK | {"documents": ["a", None]}, "/documents/1"),
    ("/v1/rerank", RERANK | {"documents": ["a", {"title": "x"}]}, "/documents/1/text"),
    ("/v1/rerank", RERANK | {"documents": ["a", {"text": 3}]}, "/documents/1/text"),
    ("/v1/rerank", RERANK | {"documents": [{"text": "x"}], "rank_fields": ["title"]}, "/documents/0"),
    ("/v1/rerank", RERANK | {"documents": ["a"] * 1001}, "/documents"),
    ("/v1/rerank", RERANK | {"documents": ["a", "b" * 1_000_001]}, "/documents/1"),
    ("/v1/rerank", RERANK | {"query": "b" * 1_000_001}, "/query"),
    ("/v1/rerank", RERANK | {"top_n": -1}, "/top_n"),
    ("/v1/rerank", RERANK | {"top_n": "2"}, "/top_n"),
    ("/v1/rerank", RERANK | {"top_n": 1.5}, "/top_n"),
    ("/v1/rerank", RERANK | {"top_n": True}, "/top_n"),
    ("/v1/rerank", RERANK | {"max_tokens_per_doc": 0}, "/max_tokens_per_doc"),
    ("/v1/rerank", RERANK | {"max_tokens_per_doc": -5}, "/max_tokens_per_doc"),
    ("/v2/rerank", RERANK | {"max_tokens_per_doc": 2.5}, "/max_tokens_per_doc"),
    ("/rerank", RERANK | {"max_tokens_per_doc": "4096"}, "/max_tokens_per_doc"),
    ("/v1/rerank", RERANK | {"return_documents": "yes"}, "/return_documents"),
    ("/v1/rerank", RERANK | {"user": 7}, "/user"),
    ("/v2/rerank", RERANK | {"top_n": -1}, "/top_n"),
    ("/rerank", {"query": "q"}, "/documents"),
    ("/rerank", {"query": "q", "texts": []}, "/texts"),
    ("/rerank", {"query": "q", "texts": ["a", 3]}, "/texts/1"),
    ("/rerank", {"texts": ["a"]}, "/query"),
    ("/rerank", {"query": "q", "texts": ["a"], "raw_scores": 1}, "/raw_scores"),
    ("/rerank", {"query": "q", "texts": ["a"] * 1001}, "/texts"),
    ("/score", {}, "/queries"),
    ("/score", {"text_1": "q"}, "/text_2"),
    ("/score", {"text_2": "q"}, "/text_1"),
    ("/score", {"queries": "q"}, "/documents"),
    ("/v1/score", {"text_1": "q", "text_2": []}, "/text_2"),
    ("/v1/score", {"text_1": ["q", 1], "text_2": ["a", "b"]}, "/text_1/1"),
    ("/v1/score", {"text_1": 1, "text_2": ["a", "b"]}, "/text_1"),
    ("/v1/score", {"text_1": ["q", "r"], "text_2": ["a", "b", "c"]}, "/text_1"),
    ("/v1/score", {"text_1": ["q", "r"], "text_2": "a"}, "/text_1"),
    ("/v1/score", {"text_1": "q", "text_2": ["a"] * 1001}, "/text_2"),
    ("/v1/score", {"text_1": ["q", "b" * 1_000_001], "text_2": ["a", "b"]}, "/text_1/1"),
    ("/v1/best-of-n", {"prompt": "p"}, "/candidates"),
    ("/v1/best-of-n", BEST | {"candidates": []}, "/candidates"),
    ("/v1/best-of-n", BEST | {"candidates": ["a", 1]}, "/candidates/1"),
    ("/v1/best-of-n", BEST | {"candidates": ["a"] * 1001}, "/candidates"),
    ("/v1/best-of-n", BEST | {"prompt": ["p"]}, "/prompt"),
    ("/v1/best-of-n", BEST | {"strategy": "thompson"}, "/strategy"),
    ("/v1/best-of-n", BEST | {"accept_threshold": 1.5}, "/accept_threshold"),
    ("/v1/best-of-n", BEST | {"accept_threshold": -0.1}, "/accept_threshold"),
    ("/v1/best-of-n", BEST | {"n_return": -1}, "/n_return"),
    ("/v1/best-of-n", BEST | {"user": ""}, "/user"),
    ("/v1/best-of-n", BEST | {"model": "penchant"}, "/model"),
    ("/v1/feedback", {"events": []}, "/events"),
    ("/v1/feedback", {"events": None}, "/events"),
    ("/v1/feedback", {"events": VOTE}, "/events"),
    ("/v1/feedback", {"events": [VOTE], "user": "u"}, "/user"),
    ("/v1/feedback", {"events": [VOTE] * 101}, "/events"),
    ("/v1/feedback", {}, "/type"),
    ("/v1/feedback", VOTE | {"type": "like"}, "/type"),
    ("/v1/feedback", VOTE | {"type": 3}, "/type"),
    ("/v1/feedback", VOTE | {"value": 0}, "/value"),
    ("/v1/feedback", VOTE | {"value": 2}, "/value"),
    ("/v1/feedback", VOTE | {"value": "1"}, "/value"),
    ("/v1/feedback", VOTE | {"value": True}, "/value"),
    ("/v1/feedback", VOTE | {"value": None}, "/value"),
    ("/v1/feedback", VOTE | {"text": ""}, "/text"),
    ("/v1/feedback", VOTE | {"text": None}, "/text"),
    ("/v1/feedback", VOTE | {"text": "b" * 1_000_001}, "/text"),
    ("/v1/feedback", VOTE | {"prompt": 3}, "/prompt"),
    ("/v1/feedback", VOTE | {"index": 0}, "/index"),
    ("/v1/feedback", VOTE | {"text": None, "rank_id": "rank_x"}, "/index"),
    ("/v1/feedback", VOTE | {"text": None, "rank_id": "rank_x", "index": -1}, "/index"),
    ("/v1/feedback", VOTE | {"text": None, "rank_id": "rank_x", "index": 0, "prompt": "p"}, "/prompt"),
    ("/v1/feedback", VOTE | {"unknown": 1}, "/unknown"),
    ("/v1/feedback", VOTE | {"scale": [1, 5]}, "/scale"),
    ("/v1/feedback", VOTE | {"user": None}, "/user"),
    ("/v1/feedback", VOTE | {"user": ""}, "/user"),
    ("/v1/feedback", VOTE | {"user": "x" * 129}, "/user"),
    ("/v1/feedback", VOTE | {"event_id": ""}, "/event_id"),
    ("/v1/feedback", VOTE | {"event_id": "e" * 129}, "/event_id"),
    ("/v1/feedback", VOTE | {"event_id": 3}, "/event_id"),
    ("/v1/feedback", VOTE | {"weight": 0}, "/weight"),
    ("/v1/feedback", VOTE | {"weight": 1.1}, "/weight"),
    ("/v1/feedback", VOTE | {"weight": "1"}, "/weight"),
    ("/v1/feedback", VOTE | {"timestamp": "yesterday"}, "/timestamp"),
    ("/v1/feedback", VOTE | {"timestamp": "2026-01-01T00:00:00"}, "/timestamp"),
    ("/v1/feedback", VOTE | {"source": "s" * 65}, "/source"),
    ("/v1/feedback", VOTE | {"metadata": [1]}, "/metadata"),
    ("/v1/feedback", VOTE | {"metadata": {"long": "x" * 5000}}, "/metadata"),
    ("/v1/feedback", RATING | {"value": 6}, "/value"),
    ("/v1/feedback", RATING | {"value": 0.5}, "/value"),
    ("/v1/feedback", RATING | {"value": "3"}, "/value"),
    ("/v1/feedback", RATING | {"scale": [5, 1]}, "/scale"),
    ("/v1/feedback", RATING | {"scale": [1, 1]}, "/scale"),
    ("/v1/feedback", RATING | {"scale": [1]}, "/scale"),
    ("/v1/feedback", RATING | {"scale": [-1e308, 1e308]}, "/scale"),
    ("/v1/feedback", RATING | {"scale": None}, "/scale"),
    ("/v1/feedback", PREFERENCE | {"chosen": ""}, "/chosen"),
    ("/v1/feedback", PREFERENCE | {"rejected": None}, "/rejected"),
    ("/v1/feedback", PREFERENCE | {"rejected": "a"}, "/rejected"),
    ("/v1/feedback", PREFERENCE | {"strength": 0}, "/strength"),
    ("/v1/feedback", PREFERENCE | {"strength": 2}, "/strength"),
    ("/v1/feedback", PREFERENCE | {"value": 1}, "/value"),
    ("/v1/feedback", CHOICE | {"candidates": None}, "/candidates"),
    ("/v1/feedback", CHOICE | {"candidates": ["a"]}, "/candidates"),
    ("/v1/feedback", CHOICE | {"candidates": []}, "/candidates"),
    ("/v1/feedback", CHOICE | {"candidates": "ab"}, "/candidates"),
    ("/v1/feedback", CHOICE | {"candidates": ["a", ""]}, "/candidates/1"),
    ("/v1/feedback", CHOICE | {"candidates": ["a", 3]}, "/candidates/1"),
    ("/v1/feedback", CHOICE | {"candidates": ["a", "b", "a"]}, "/candidates/2"),
    ("/v1/feedback", CHOICE | {"candidates": ["a", "b" * 1_000_001]}, "/candidates/1"),
    ("/v1/feedback", CHOICE | {"candidates": [str(n) for n in range(51)]}, "/candidates"),
    ("/v1/feedback", CHOICE | {"index": 3}, "/index"),
    ("/v1/feedback", CHOICE | {"index": -1}, "/index"),
    ("/v1/feedback", CHOICE | {"index": None}, "/index"),
    ("/v1/feedback", CHOICE | {"index": "0"}, "/index"),
    ("/v1/feedback", CHOICE | {"seen": [0]}, "/seen"),
    ("/v1/feedback", CHOICE | {"value": 1}, "/value"),
    ("/v1/feedback", SHOWN | {"prompt": "p"}, "/prompt"),
    ("/v1/feedback", SHOWN | {"seen": [0, -1]}, "/seen/1"),
    ("/v1/feedback", SHOWN | {"seen": [1, 0, 1]}, "/seen/2"),
    ("/v1/feedback", SHOWN | {"seen": 1}, "/seen"),
    ("/v1/feedback", RANKING | {"order": None}, "/order"),
    ("/v1/feedback", RANKING | {"order": []}, "/order"),
    ("/v1/feedback", RANKING | {"order": [[]]}, "/order/0"),
    ("/v1/feedback", RANKING | {"order": [["a"], []]}, "/order/1"),
    ("/v1/feedback", RANKING | {"order": ["a", "b"]}, "/order/0"),
    ("/v1/feedback", RANKING | {"order": [["a"]]}, "/order"),
    ("/v1/feedback", RANKING | {"order": [["a"], ["b", "a"]]}, "/order/1/1"),
    ("/v1/feedback", RANKING | {"order": [["a"], ["b", ""]]}, "/order/1/1"),
    ("/v1/feedback", RANKING | {"order": [["a"], ["b", "c" * 1_000_001]]}, "/order/1/1"),
    ("/v1/feedback", RANKING | {"order": [[str(n), f"-{n}"] for n in range(26)]}, "/order"),
    ("/v1/feedback", RANKING | {"index": 0}, "/index"),
    ("/v1/feedback", EDIT | {"original": ""}, "/original"),
    ("/v1/feedback", EDIT | {"edited": None}, "/edited"),
    ("/v1/feedback", EDIT | {"edited": "b" * 100_001}, "/edited"),
    ("/v1/feedback", EDIT | {"original": "b" * 100_001}, "/original"),
    ("/v1/feedback", EDIT | {"text": "b"}, "/text"),
    ("/v1/feedback", VOTE | {"event_id": "a\x00b"}, "/event_id"),  # PostgreSQL stores no NUL
    ("/v1/feedback", VOTE | {"source": "a\x00b"}, "/source"),
    ("/v1/feedback", SHOWN | {"rank_id": "a\x00b"}, "/rank_id"),
    ("/v1/feedback", RETRACT | {"target_event_id": "a\x00b"}, "/target_event_id"),
    ("/v1/feedback", RETRACT | {"target_event_id": None}, "/target_event_id"),
    ("/v1/feedback", RETRACT | {"target_event_id": ""}, "/target_event_id"),
    ("/v1/feedback", RETRACT | {"target_event_id": "e" * 129}, "/target_event_id"),
    ("/v1/feedback", RETRACT | {"weight": 0.5}, "/weight"),
    ("/v1/feedback", RETRACT | {"user": None}, "/user"),
    ("/v1/feedback", RETRACT | {"text": "t"}, "/text"),
    ("/v1/rerank", RERANK | {"explain": "yes"}, "/explain"),
    ("/rerank", {"query": "q", "texts": ["a"], "explain": 1}, "/explain"),
    ("/v1/score", SCORE | {"explain": "yes"}, "/explain"),
    ("/v1/best-of-n", BEST | {"explain": "yes"}, "/explain"),
]


@pytest.fixture(scope="module")
def client(serve_module):
    """One server for all: none of these requests changes anything."""
    client = serve_module()
    yield client
    assert client.get("/v1/users/u").status_code == 404


@pytest.mark.parametrize(("path", "body", "pointer"), INVALID)
def test_invalid_fields_are_named(client, path, body, pointer):
    check(client.post(path, json=body), 422, "validation_failed", pointer)


POSTS = ["/v1/rerank", "/v2/rerank", "/rerank", "/score", "/v1/score", "/v1/best-of-n", "/v1/feedback"]
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"not json", 400, "invalid_json"),
        (b"[" * 5000 + b"]" * 5000, 400, "invalid_json"),
        (b'{"query": "\xff"}', 400, "invalid_encoding"),
        ('{"query": "ü"}'.encode("utf-16"), 400, "invalid_encoding"),
        (b'{"query": "\\ud800"}', 400, "invalid_json"),
        (b"[]", 422, "validation_failed"),
        (b"3", 422, "validation_failed"),
        (b"null", 422, "validation_failed"),
    ],
)
def test_bodies_that_are_no_json_object(client, path, content, status, code):
    check(client.post(path, content=content, headers=JSON), status, code)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_not_finite(client, number):
    rating = (
        b'{"events": [{"type": "rating", "user": "u", "text": "t", "value": %b, "scale": [1, 5]}]}' % number
    )
    answer = client.post("/v1/feedback", content=rating, headers=JSON)
    check(answer, 422, "validation_failed", "/events/0/value")
    best = b'{"candidates": ["a"], "accept_threshold": %b}' % number
    check(
        client.post("/v1/best-of-n", content=best, headers=JSON),
        422,
        "validation_failed",
        "/accept_threshold",
    )


@pytest.mark.parametrize("number", [b"9" * 5000, b"-" + b"9" * 400, b"1e999"])
def test_numbers_that_are_too_large_are_named(client, number):
    best = b'{"candidates": ["a"], "n_return": %b}' % number
    check(client.post("/v1/best-of-n", content=best, headers=JSON), 422, "validation_failed", "/n_return")


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 10**30])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", RERANK | {"top_n": 0}),
        ("/v1/rerank", RERANK | {"max_tokens_per_doc": 1}),
        ("/v1/rerank", RERANK | {"priority": 1}),
        ("/v1/best-of-n", BEST | {"n_return": 1}),
        ("/v1/feedback", CHOICE | {"index": 1}),
        ("/v1/feedback", SHOWN | {"index": 1}),
        ("/v1/feedback", SHOWN | {"seen": [1]}),
        ("/v1/feedback", VOTE | {"value": 1}),
    ],
)
def test_large_whole_numbers_are_no_failures(client, path, body, number):
    name = next(reversed(body))
    changed = body | {name: [number] if name == "seen" else number}
    assert client.post(path, json=changed).status_code in (200, 404, 422)


@pytest.mark.parametrize("length", ["0" * 5000, "0" * 5000 + "34", "²", "٣"])
def test_a_content_length_of_many_digits_is_a_number(client, length):
    content = b'{"query": "q", "documents": ["a"]}'
    answer = client.post("/v1/rerank", content=content, headers=[(b"Content-Length", length.encode())])
    assert answer.status_code == 200


def test_a_content_length_beyond_all_limits(client):
    content = b'{"query": "q", "documents": ["a"]}'
    answer = client.post("/v1/rerank", content=content, headers={"Content-Length": "9" * 5000})
    check(answer, 413, "body_too_large")


def nested(depth):
    """An object that is nested that deep, and ends in a number."""
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("path", POSTS)
def test_bodies_that_are_nested_too_deeply_name_the_field(client, path):
    for inner in (nested(64), nested(900), nested(900).replace(b"1", b"NaN"), b"[" * 64 + b"]" * 64):
        answer = client.post(path, content=b'{"query": "q", "unknown": %b}' % inner, headers=JSON)
        check(answer, 422, "validation_failed")
        assert answer.json()["errors"][0]["pointer"].startswith("/unknown")
        assert "64 deep" in answer.json()["detail"]


def test_a_body_of_the_greatest_depth_is_read(client):
    content = b'{"query": "q", "documents": ["a"], "unknown": %b}' % nested(63)
    assert client.post("/v1/rerank", content=content, headers=JSON).status_code == 200


def test_metadata_is_nested_within_a_limit(client):
    for depth, pointer in ((33, "/metadata"), (61, "/metadata"), (250, "/metadata/a/a")):
        event = b'{"type": "vote", "user": "", "metadata": %b}' % nested(depth)
        answer = client.post(
            "/v1/feedback", content=event.replace(b'""', b'"u", "text": "t", "value": 1'), headers=JSON
        )
        check(answer, 422, "validation_failed", pointer)


@pytest.mark.parametrize(
    "media",
    ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "json", ""],
)
def test_other_media_types(client, media):
    answer = client.post(
        "/v1/rerank", content=b'{"query": "q", "documents": ["a"]}', headers={"Content-Type": media}
    )
    check(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        "application/a+json",
    ],
)
def test_json_by_any_name(client, media):
    answer = client.post(
        "/v1/rerank", content=b'{"query": "q", "documents": ["a"]}', headers={"Content-Type": media}
    )
    assert answer.status_code == 200


def test_a_body_without_type_is_json_unless_a_browser_sends_it(client):
    content = b'{"query": "q", "documents": ["a"]}'
    assert client.post("/v1/rerank", content=content).status_code == 200
    check(
        client.post("/v1/rerank", content=content, headers={"Origin": "http://evil.example"}),
        415,
        "unsupported_media_type",
    )


def test_bodies_over_size(serve):
    client = serve(max_body_bytes=1000)
    big = b'{"query": "%b"}' % (b"x" * 1000)
    check(client.post("/v1/rerank", content=big, headers=JSON), 413, "body_too_large")
    check(
        client.post("/v1/rerank", content=iter([big[:500], big[500:]]), headers=JSON), 413, "body_too_large"
    )


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1", "/v1/rerank/", "/v1/users", "/v1/users/u/nothing"])
def test_addresses_without_anything(client, path):
    check(client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/rerank", "POST"),
        ("POST", "/healthz", "GET"),
        ("DELETE", "/v1/feedback", "POST"),
        ("PUT", "/v1/users/a%2Fb", "DELETE, GET"),
    ],
)
def test_methods_that_are_not_known(client, method, path, allow):
    answer = client.request(method, path)
    check(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allow


def test_a_pointer_escapes_what_it_must(client):
    check(client.post("/v1/feedback", json=VOTE | {"a/b~c": 1}), 422, "validation_failed", "/a~1b~0c")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=-1", "cursor=x", "cursor=-1", "limit=1.5"]
)
def test_bad_pages(client, query):
    name = query.partition("=")[0]
    check(client.get(f"/v1/users/u/feedback?{query}"), 422, "validation_failed", f"/{name}")
