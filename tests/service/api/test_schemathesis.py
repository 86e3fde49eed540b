"""The served document against the server, with keys on: whatever is sent, no 5xx and nothing that is not documented.

Schemathesis makes the requests, always the same ones: what fits the document, and what does not.
"""

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
ALLOWED = {"Authorization": "Bearer acme-key"}
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
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
    """Lets the known user say something."""
    vote = {"type": "vote", "user": KNOWN, "text": "boats at sea", "value": 1}
    assert client.post("/v1/feedback", json=vote, headers=ALLOWED).status_code == 200


@pytest.mark.slow  # two minutes for all
@pytest.mark.parametrize(("label", "mode"), CASES, ids=[f"{label}-{mode.value}" for label, mode in CASES])
def test_answers_are_as_documented(session, label, mode):
    operation = OPERATIONS[label]
    learn(session)

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
        known = "{user}" in operation.path and data.draw(st.booleans())
        case = data.draw(
            operation.as_strategy(
                generation_mode=mode, **{"path_parameters": {"user": KNOWN}} if known else {}
            )
        )
        response = case.call(session=session)
        assert response.status_code < 500, response.text
        case.validate_response(response, checks=CHECKS)

    check()


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
