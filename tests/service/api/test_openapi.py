"""The committed OpenAPI document is the served one, and says what is true."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from jsonschema_rs import Draft202012Validator

from penchant.service.api.openapi import build_document
from penchant.service.app import create_app
from penchant.service.settings import Settings
from tests.service.api.test_bad_requests import (
    BEST,
    CHOICE,
    EDIT,
    INVALID,
    PREFERENCE,
    RANKING,
    RATING,
    RERANK,
    RETRACT,
    SCORE,
    SHOWN,
    VOTE,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


# How values compare, how many there are in several lists, how large any JSON is, and what a header may say: what no
# schema of a body can state.
UNSTATED = [
    ("/v1/rerank", "/documents/0"),
    ("/v1/score", "/text_1"),
    ("/v1/score", "/text_1"),
    ("/v1/feedback", "/user"),
    ("/v1/feedback", "/metadata"),
    ("/v1/feedback", "/value"),
    ("/v1/feedback", "/value"),
    ("/v1/feedback", "/scale"),
    ("/v1/feedback", "/scale"),
    ("/v1/feedback", "/scale"),
    ("/v1/feedback", "/rejected"),
    ("/v1/feedback", "/index"),
    ("/v1/feedback", "/order/1/1"),
    ("/v1/feedback", "/order"),
    ("/v1/feedback", "/user"),
]
VALID = [
    ("/v1/rerank", RERANK),
    ("/v1/rerank", RERANK | {"documents": [{"title": "a"}], "rank_fields": ["title"]}),
    ("/v1/rerank", RERANK | {"top_n": 2.0, "max_tokens_per_doc": 10**30, "priority": -(2**70)}),
    ("/rerank", {"query": "q", "texts": ["a"], "documents": None}),
    ("/score", SCORE),
    ("/score", {"queries": ["q"], "documents": "a", "text_1": None}),
    ("/score", SCORE | {"users": ["u"], "explain": True}),
    ("/v1/best-of-n", BEST | {"n_return": 1.0}),
    ("/v1/feedback", {"events": [VOTE]}),
    ("/v1/feedback", VOTE | {"value": -1.0}),
    ("/v1/feedback", VOTE | {"timestamp": "2016-12-31T23:59:60.1234567890Z"}),
    ("/v1/feedback", RATING),
    ("/v1/feedback", PREFERENCE),
    ("/v1/feedback", CHOICE | {"index": 1.0}),
    ("/v1/feedback", RANKING),
    ("/v1/feedback", RANKING | {"order": [["a", "b"]]}),
    ("/v1/feedback", EDIT),
]
KNOWN_LATER = [  # valid, and refused because there is no such ranking or event
    ("/v1/feedback", SHOWN | {"seen": [1, 0]}),
    ("/v1/feedback", RETRACT | {"weight": 1}),
]


@pytest.fixture(scope="module")
def client(serve_module):
    """One server for all."""
    return serve_module()


@pytest.fixture(scope="module")
def document():
    return json.loads(DOCUMENT.read_text())


@pytest.fixture(scope="module")
def is_valid(document):
    """Returns whether the document calls the body of a request valid."""

    def check(path, body):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        schema = content["schema"] | {"components": document["components"]}
        return Draft202012Validator(schema, validate_formats=True).is_valid(body)

    return check


def test_the_committed_document_is_the_served_one(client):
    served = client.get("/openapi.json")
    assert served.content == DOCUMENT.read_bytes(), "run: penchant openapi > docs/openapi.json"


def test_the_command_prints_the_committed_document():
    command = [sys.executable, "-m", "penchant.service.cli.main", "openapi"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == DOCUMENT.read_bytes()


def test_every_reference_leads_somewhere(document):
    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for inner in node.values():
                yield from references(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from references(inner)

    found = set(references(document))
    assert found
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert found <= schemas


def test_every_operation_documents_its_problems_and_bodies(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            problems = {status: r for status, r in operation["responses"].items() if int(status) >= 400}
            assert {"500", "503"} <= set(problems), where
            assert all(set(r["content"]) == {"application/problem+json"} for r in problems.values()), where
            assert ("requestBody" in operation) == (method == "post"), where
            if method == "post":
                assert {"400", "401", "408", "413", "415", "422", "429"} <= set(problems), where


def test_operation_ids_are_unique(document):
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)


def test_a_route_that_names_a_scope_documents_what_a_missing_key_is_answered(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            asks_for_a_key = "x-required-scope" in operation
            assert asks_for_a_key == (operation.get("security") != []), f"{method} {path}"
            assert asks_for_a_key == ("401" in operation["responses"]), f"{method} {path}"


def test_every_documented_operation_is_served(client, document):
    for path, item in document["paths"].items():
        for method in item:
            answer = client.request(method, path.replace("{user}", "u"))
            code = answer.json()["code"] if answer.status_code >= 400 else None
            assert code not in ("not_found", "method_not_allowed", "internal_error"), (method, path)


def test_the_document_refuses_what_the_server_refuses(is_valid):
    assert [(path, pointer) for path, body, pointer in INVALID if is_valid(path, body)] == UNSTATED


@pytest.mark.parametrize(("path", "body"), VALID)
def test_what_the_document_calls_valid_is_accepted(client, is_valid, path, body):
    assert is_valid(path, body)
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert "rejected" not in answer.json() or answer.json()["rejected"] == []


@pytest.mark.parametrize(("path", "body"), KNOWN_LATER)
def test_what_the_document_cannot_know_is_not_found(client, is_valid, path, body):
    assert is_valid(path, body)
    assert client.post(path, json=body).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/score", SCORE | {"queries": 3}, "/queries"),
        ("/score", SCORE | {"documents": []}, "/documents"),
        ("/score", {"text_1": "q", "queries": "q", "documents": "a"}, "/text_2"),
        ("/v1/feedback", SHOWN | {"index": 2**31}, "/index"),
        ("/v1/feedback", VOTE | {"timestamp": "0000-01-01T00:00:00Z"}, "/timestamp"),
        ("/v1/feedback", VOTE | {"timestamp": f"2026-01-01T00:00:00.{'0' * 64}Z"}, "/timestamp"),
        ("/v1/feedback", VOTE | {"timestamp": "٢٠٢٦-01-01T00:00:00Z"}, "/timestamp"),
        ("/v1/feedback", RETRACT | {"weight": 1.5}, "/weight"),
    ],
)
def test_what_neither_accepts(client, is_valid, path, body, pointer):
    answer = client.post(path, json=body)
    assert not is_valid(path, body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize("user", ["u", "a b", "100%", "ü/é", "日本", "🙂", "\u0800\ud7ff\ue000", "x" * 128])
def test_an_encoded_user_id_fits_the_document(document, user):
    validator = Draft202012Validator(document["components"]["schemas"]["EncodedUserId"])
    assert validator.is_valid(quote(user, safe=""))
    assert validator.is_valid(quote(user, safe="").lower())


@pytest.mark.parametrize(
    "sent", ["%00", "%1F", "%7F", "%C2%80", "%C2%9F", "%C0%80", "%FF", "%ED%A0%80", "%F4%90%80%80", "x" * 129]
)
def test_what_is_no_user_id_does_not_fit_the_document(client, document, sent):
    assert not Draft202012Validator(document["components"]["schemas"]["EncodedUserId"]).is_valid(sent)
    answer = client.post("/v1/rerank", json=RERANK, headers={"X-User-Id": sent})
    assert answer.json()["code"] in ("invalid_encoding", "validation_failed")


def test_the_document_states_the_limits_of_the_settings():
    settings = Settings(
        max_candidates=7, max_event_texts=8, max_events=9, max_page_items=10, max_text_chars=11
    )
    document = build_document(create_app(settings), settings)
    schemas = document["components"]["schemas"]
    assert schemas["RerankRequest"]["properties"]["documents"]["maxItems"] == 7
    assert schemas["TeiRequest"]["properties"]["texts"]["maxItems"] == 7
    assert schemas["RankingEvent"]["properties"]["order"]["maxItems"] == 8
    assert schemas["FeedbackBatch"]["properties"]["events"]["maxItems"] == 9
    cursor, limit = document["paths"]["/v1/users/{user}/feedback"]["get"]["parameters"][1:]
    assert limit["schema"]["maximum"] == 10
    assert schemas["VoteEvent"]["properties"]["prompt"]["anyOf"][0]["maxLength"] == 11
    assert cursor["schema"]["pattern"] == "^[0-9]*$"


def test_a_cursor_may_have_any_number_of_digits(client):
    client.post("/v1/feedback", json=VOTE)
    page = client.get(f"/v1/users/u/feedback?cursor={'9' * 30}")
    assert page.json() == {"data": [], "has_more": False, "next_cursor": None}
