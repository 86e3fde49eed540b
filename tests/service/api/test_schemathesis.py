"""The served document against the server, with keys on: whatever is sent, no 5xx and nothing that is not documented.

Schemathesis makes the requests, always the same ones. What fits the document is accepted, and what does not is refused.
"""

import re
from itertools import count

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.python import asgi
from schemathesis.specs.openapi import checks

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.access.keyring import create_key
from penchant.service.api.openapi import build_document
from penchant.service.app import create_app
from penchant.service.settings import Settings

EXAMPLES = 10
KNOWN = "0"  # a user with feedback
EVENTS = (f"event {n}" for n in count())
ALLOWED = {"Authorization": "Bearer acme-key"}
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
UNSTATED = [  # refusals that compare or count values in different places, which no JSON schema can state
    r"/documents/\d+: None of `rank_fields` is a text in this document\.",
    r"/(text_1|queries): \d+ prompts do not fit \d+ texts",
    r"/(rejected|order/.*): This is the same text as `.*`",
    r"/order: The event has \d+ texts; the limit is 50\.",
    r"/index: There are \d+ candidates, so `index` must be from 0 to \d+\.",
    r"/(index|seen/\d+): The ranking has \d+ candidates",
    r"/scale: A scale is \[lowest, highest\], with the lowest first and a finite width\.",
    r"/value: It is outside the scale",
    r"/from: It is the same user\.",
]


def served_operations():
    """The operations of the document that the service serves, by method and path."""
    raw = build_document(create_app(Settings()), Settings())
    return {one.ok().label: one.ok() for one in schemathesis.openapi.from_dict(raw).get_all_operations()}


OPERATIONS = served_operations()
CASES = [
    (label, mode)
    for label, operation in OPERATIONS.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or list(operation.iter_parameters()) or operation.body
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def start(request, tmp_path_factory):
    """Makes a server's app on an empty store: `start(max_events=3)`."""

    def make(**changes):
        extractor = FeatureExtractor(HashingEncoder())
        folder = tmp_path_factory.mktemp("data")
        if request.param == "postgresql":
            changes["store_url"] = SecretStr(request.getfixturevalue("postgres").new())
        place = Settings(data_dir=folder, api_keys={"acme": SecretStr("acme-key")}, **changes)
        return create_app(place, extractor=extractor, bundle=tiny_bundle(extractor))

    load_all_checks()
    return make


@pytest.fixture(scope="module")
def session(start):
    with asgi.get_client(start()) as client:
        client.headers.update(ALLOWED)
        yield client


def learn(client):
    """Lets the known user say something. Returns the id of the event."""
    event_id = next(EVENTS)
    vote = {"type": "vote", "user": KNOWN, "event_id": event_id, "text": "boats at sea", "value": 1}
    assert client.post("/v1/feedback", json=vote, headers=ALLOWED).status_code == 200
    return event_id


def list_problems(response):
    """The problems of an answer: of the request, or of the events that are rejected."""
    if response.status_code >= 400:
        return [response.json()]
    rejected = response.json().get("rejected", []) if response.content[:1] == b"{" else []
    return [entry["problem"] for entry in rejected]


def name_one_user(case):
    """Leaves one part of a request that names a user: the path if it can, or the header."""
    for part in list_parts(case):
        part.pop("user", None)
        part.pop("users", None)
    case.headers.pop("X-User-Id", None)
    if "{user}" not in case.path:
        case.headers["X-User-Id"] = KNOWN


def list_parts(case):
    """The objects of a body: itself and its events."""
    return [case.body, *case.body.get("events", ())] if isinstance(case.body, dict) else []


def change(field, value):
    """Returns a function that sets a field wherever a request has it."""

    def apply(case):
        for part in list_parts(case):
            if part.get(field) is not None:
                part[field] = value

    return apply


def make_cures(session):
    """How to mend a request that was refused for what only the server knows, or for what its parts say together."""
    asked = {"query": "", "documents": ["boats", "trains", "planes"], "user": KNOWN}
    rank_id, event_id = session.post("/v1/rerank", json=asked).json()["id"], learn(session)

    def name_known_user(case):
        learn(session)  # an earlier request may have deleted the user
        case.path_parameters["user"] = KNOWN

    def name_known_event(case):
        change("target_event_id", event_id)(case)
        name_one_user(case)

    return {
        "user_conflict": name_one_user,
        "user_not_found": name_known_user,
        "model_not_found": change("model", "penchant"),
        "rank_not_found": change("rank_id", rank_id),
        "event_not_found": name_known_event,
        "event_id_conflict": change("event_id", None),
        "idempotency_key_reused": lambda case: case.headers.pop("Idempotency-Key"),
        "The event names no user. Send `user`, `X-User-Id` or a `rank_id`.": name_one_user,
    }


def is_unstated(problem):
    detail = re.sub(r"^/events/\d+", "", problem["detail"])
    return problem["code"] == "validation_failed" and any(re.match(rule, detail) for rule in UNSTATED)


def assert_accepted(case, response, session, cures):
    """The request is accepted, at the latest when what the document cannot know is mended. Returns whether it is."""
    used = set()
    while True:
        unexpected = [problem for problem in list_problems(response) if not is_unstated(problem)]
        if not unexpected:
            return not list_problems(response)
        problem = unexpected[0]
        fitting = [name for name in cures if name == problem["code"] or problem["detail"].endswith(name)]
        assert set(fitting) - used, (problem, case.as_curl_command())
        (name,) = fitting
        used.add(name)
        cures[name](case)
        response = case.call(session=session)
        assert response.status_code < 500, response.text
        case.validate_response(response, checks=CHECKS)


def is_understood(case):
    """Whether the server may accept a request that departs from the document.

    A user id in the header that is not percent-encoded is understood. Lists and objects have no form of their own in a
    query: they are sent as repeated parameters, or as parameters of other names.
    """
    changed = {mutation.parameter for mutation in case.meta.phase.data.mutations}
    nested = {name for name, value in case.query.items() if isinstance(value, list | dict)}
    return bool(changed) and changed <= {"X-User-Id", *nested}


@pytest.mark.slow  # two minutes for all
@pytest.mark.parametrize(("label", "mode"), CASES, ids=[f"{label}-{mode.value}" for label, mode in CASES])
def test_answers_are_as_documented(session, label, mode):
    operation = OPERATIONS[label]
    learn(session)
    cures = make_cures(session)
    accepted = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def check(data):
        nonlocal accepted
        known = "{user}" in operation.path and data.draw(st.booleans())
        case = data.draw(
            operation.as_strategy(
                generation_mode=mode, **{"path_parameters": {"user": KNOWN}} if known else {}
            )
        )
        response = case.call(session=session)
        assert response.status_code < 500, response.text
        case.validate_response(response, checks=CHECKS)
        if mode is GenerationMode.POSITIVE:
            accepted += assert_accepted(case, response, session, cures)
        elif not list_problems(response) and not is_understood(case):
            case.validate_response(response, checks=[checks.negative_data_rejection])

    check()
    assert accepted or mode is GenerationMode.NEGATIVE


def test_refusals_are_as_documented_on_every_operation(start):
    """No key, a key without a scope, and a key that asked too often; the known user's answers beside them."""
    with asgi.get_client(start(key_requests_per_minute=1000)) as client:
        learn(client)
        served = client.app.state.runtime
        with served.store.writing() as connection:
            useless, _ = create_key(connection, "acme", (), "", 0.0)
        served.feed.poll()
        headers = {401: {}, 403: {"Authorization": f"Bearer {useless}"}, None: ALLOWED}
        seen = {}
        for label, operation in OPERATIONS.items():
            if operation.definition.raw.get("security") == []:
                continue
            for expected, sent in headers.items():
                path = operation.path.replace("{user}", KNOWN)
                response = client.request(operation.method, path, headers=sent)
                operation.validate_response(response)
                assert str(response.status_code) in operation.definition.raw["responses"], label
                assert expected in (None, response.status_code), label
                seen.setdefault(response.status_code, []).append(label)
        assert len(seen[401]) == len(seen[403]) > 15
        assert "GET /v1/users/{user}" in seen[200]

    with asgi.get_client(start(key_requests_per_minute=1)) as client:
        client.get("/v1/models", headers=ALLOWED)
        for label, operation in OPERATIONS.items():
            if label in seen[401]:
                path = operation.path.replace("{user}", KNOWN)
                response = client.request(operation.method, path, headers=ALLOWED)
                assert response.status_code == 429, label
                operation.validate_response(response)
                documented = operation.definition.raw["responses"]["429"]["headers"]
                assert {"Retry-After", "RateLimit", "RateLimit-Policy"} <= set(documented)
                assert {"retry-after", "ratelimit", "ratelimit-policy"} <= {
                    h.lower() for h in response.headers
                }
