"""The committed OpenAPI document is the served one, and says what is true."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def document():
    return json.loads(DOCUMENT.read_text())


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
