"""A server on OpenVINO never imports torch for events, rankings, explanations or user data."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SERVER = """
import json, sys
from pathlib import Path
from starlette.testclient import TestClient
from penchant.service.api.routes import rank
from penchant.service.app import create_app
from penchant.service.feedback.schemas import EVENT_MODELS
from penchant.service.settings import Settings

HEAVY = ("torch", "transformers", "peft")
TEXTS = ["Bread.", "Rye bread with seeds.", "A loaf that took two days.", "Toast!"]
RANKINGS = {
    "/v1/rerank": {"query": "Which bread?", "documents": TEXTS, "explain": True},
    "/v2/rerank": {"query": "Which bread?", "documents": TEXTS, "top_n": 2},
    "/rerank": {"query": "Which bread?", "texts": TEXTS, "raw_scores": True},
    "/score": {"text_1": "Which bread?", "text_2": TEXTS},
    "/v1/score": {"queries": "Which bread?", "documents": TEXTS, "users": ["ana", "bo"]},
    "/v1/best-of-n": {"prompt": "Which bread?", "candidates": TEXTS, "accept_threshold": 0.1},
}
assert set(RANKINGS) == {route.path for route in rank.router.routes}

with TestClient(create_app(Settings(data_dir=Path(sys.argv[1]), encoder_backend="openvino"))) as client:

    def call(method, path, body=None):
        answer = client.request(method, path, json=body)
        assert answer.status_code < 300, (path, answer.text)
        print(json.dumps([f"{method} {path}", [name for name in HEAVY if sys.modules.get(name)]]))
        return answer

    shown = call("POST", "/users/ana/v1/rerank", RANKINGS["/v1/rerank"]).json()["id"]
    events = {
        "preference": [{"chosen": TEXTS[1], "rejected": TEXTS[0]}],
        "choice": [{"candidates": TEXTS, "index": 2}, {"rank_id": shown, "index": 1, "seen": [0, 3]}],
        "ranking": [{"order": [[text] for text in TEXTS]}, {"order": [TEXTS[:1], TEXTS[1:3], TEXTS[3:]]}],
        "vote": [{"text": TEXTS[0], "value": -1, "event_id": "taken back"}],
        "rating": [{"text": TEXTS[1], "value": 4, "scale": [1, 5]}],
        "edit": [{"original": TEXTS[0], "edited": TEXTS[1]}],
        "retract": [{"target_event_id": "taken back"}],
    }
    assert set(events) == set(EVENT_MODELS)
    for kind, some in events.items():
        for event in some:
            call("POST", "/v1/feedback", {"type": kind, "user": "ana", **event})
    call("POST", "/v1/feedback", {"type": "vote", "user": "guest", "text": TEXTS[3], "value": 1})
    for path, body in RANKINGS.items():
        call("POST", path, body)
        if "users" not in body:
            call("POST", "/users/ana" + path, body)
    call("POST", "/v1/users/ana/merge", {"from": "guest"})
    for path in ("", "/feedback", "/export"):
        call("GET", "/v1/users/ana" + path)
    call("DELETE", "/v1/users/ana")
    for path in ("/v1/models", "/readyz", "/metrics", "/openapi.json"):
        call("GET", path)
"""


def test_a_server_on_openvino_never_imports_torch(tmp_path):
    """A separate process converts the model, so this holds from the first start."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(tmp_path / "data")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(calls) == 31
    assert [call for call in calls if call[1]] == []
