"""From the log to a new bundle: what is exported, what is learned from, and what the comparison says."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from pydantic import SecretStr
from starlette.testclient import TestClient
from typer.testing import CliRunner

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.judgements.files import read
from penchant.models.taste.items import item_key
from penchant.models.testing import tiny_bundle
from penchant.service.access.limits import TenantSettings, put_settings
from penchant.service.cli.app import app
from penchant.service.log.judgements import StoredJudgements, read_judgements
from penchant.service.log.reading import hash_context
from penchant.service.settings import Settings
from penchant.service.store.database import Store

Serve = Callable[..., TestClient]
At = tuple[str, object]

WORDS = ["tea", "rain", "moon", "bread", "river", "stone", "lamp", "garden", "paper", "music"]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def send(client: TestClient, *events: dict[str, Any], key: str | None = None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for start in range(0, len(events), 100):
        body = {"events": list(events[start : start + 100])}
        answer = client.post("/v1/feedback", json=body, headers=headers).json()
        assert answer["rejected"] == [], answer


ONE_OF_EACH: list[dict[str, Any]] = [
    {"type": "preference", "prompt": "p", "chosen": "a", "rejected": "b", "strength": 0.5, "weight": 0.5},
    {"type": "choice", "prompt": "p", "candidates": ["a", "b", "c"], "index": 2, "source": "web"},
    {"type": "ranking", "order": [["a"], ["b", "c"]]},
    {"type": "vote", "prompt": "p", "text": "a", "value": -1},
    {"type": "rating", "prompt": "p", "text": "b", "value": 4, "scale": [1, 5]},
    {"type": "edit", "original": "The cat sat.", "edited": "The cat slept."},
]


def one_of_each(user: str) -> list[dict[str, Any]]:
    return [{**event, "user": user, "event_id": f"{user}{i}"} for i, event in enumerate(ONE_OF_EACH)]


def test_export_writes_what_fit_reads(serve: Serve, at: At, tmp_path: Path) -> None:
    client = serve()
    send(
        client,
        *one_of_each("u"),
        {"type": "vote", "user": "v", "text": "gone", "value": 1, "event_id": "x"},
    )
    send(client, {"type": "retract", "user": "v", "target_event_id": "x"})
    shown = client.post("/v1/rerank", json={"query": "q", "documents": ["d", "e"], "user": "w"}).json()["id"]
    send(client, {"type": "choice", "rank_id": shown, "index": 1})
    send(client, {"type": "vote", "user": "w", "text": " ", "value": 1})
    out = tmp_path / "out.jsonl"
    told = run("export", "--judgements", "--out", out, *at)
    assert "7 judgements" in told.stdout
    assert "1 left out: says nothing" in told.stderr
    found = list(read(out))
    assert [(j.user, j.kind, j.context) for j in found] == [
        ("u", "pair", "p"), ("u", "choice", "p"), ("u", "ranking", ""), ("u", "vote", "p"),
        ("u", "rating", "p"), ("u", "edit", ""), ("w", "choice", "q"),
    ]  # fmt: skip
    assert [j.texts for j in found] == [
        ("a", "b"), ("c", "a", "b"), ("a", "b", "c"), ("a",), ("b",), ("The cat slept.", "The cat sat."), ("e", "d"),
    ]  # fmt: skip
    assert found[0].weight == 0.25
    assert (found[1].source, found[0].source) == ("web", "default")
    assert found[2].groups == (1, 2)
    assert (found[3].value, found[4].normalised) == (-1.0, 0.5)
    assert 0 < found[5].weight < 1
    packed = tmp_path / "out.jsonl.gz"
    run("export", "--judgements", "--out", packed, *at)
    assert gzip.decompress(packed.read_bytes()) == out.read_bytes()


def test_tenants_are_not_mixed_unasked(serve: Serve, at: At, tmp_path: Path) -> None:
    client = serve(api_keys={"a": SecretStr("ka"), "b": SecretStr("kb")})
    send(client, *one_of_each("u"), key="ka")
    send(client, *one_of_each("u")[:2], key="kb")
    out, data = tmp_path / "out.jsonl", at
    refused = run("export", "--judgements", "--out", out, *data, code=2)
    assert "a (6 events), b (2 events)" in refused.stderr
    assert not out.exists()
    run("export", "--judgements", "--out", out, *data, "--tenant", "b")
    assert [j.user for j in read(out)] == ["u", "u"]
    run("export", "--judgements", "--out", out, *data, "--tenant", "a", "--tenant", "b")
    assert [j.user for j in read(out)] == ["a/u"] * 6 + ["b/u"] * 2
    assert (
        "no feedback of tenant 'c'"
        in run("export", "--judgements", "--out", out, *data, "--tenant", "c", code=2).stderr
    )


@pytest.fixture
def at(settings: Settings) -> At:
    """The options by which a command finds the server's store."""
    if settings.store_url is not None:
        return "--store-url", settings.store_url.get_secret_value()
    return "--data-dir", settings.data_dir


def test_features_alone_say_the_same(
    serve: Serve, settings: Settings, fresh: Any, at: At, tmp_path: Path
) -> None:
    def found(place: Settings) -> StoredJudgements:
        database = Store.open(place, exclusive=False)
        with database.reading() as connection:
            read = read_judgements(connection, ["default"], FeatureExtractor(HashingEncoder()).identity)
        database.close()
        return read

    send(serve(), *one_of_each("u"), *one_of_each("v"))
    with_texts = found(settings)
    served = (client := serve(**fresh.place)).app.state.runtime  # type: ignore[attr-defined]
    with served.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(keep_texts=False), 0.0)
    served.feed.poll()
    send(client, *one_of_each("u"), *one_of_each("v"))
    without = found(Settings(**fresh.place))
    assert len(without.judgements) == 12
    assert without.judgements == with_texts.judgements
    assert (without.item_keys, without.users, without.sha256) == (with_texts.item_keys, 2, with_texts.sha256)
    assert without.vectors.keys() == with_texts.vectors.keys()
    assert all((without.vectors[item] == with_texts.vectors[item]).all() for item in without.vectors)
    extractor = FeatureExtractor(HashingEncoder())
    named = (hash_context({"prompt": "p"}), extractor.key("a").hex())
    assert without.item_keys[item_key(*named)] == item_key("p", "a")


@pytest.fixture
def bundle(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The bundle in use, which knows nothing of these users. It reads prompts if the test's parameter is True."""
    match = getattr(request, "param", False)
    tiny_bundle(FeatureExtractor(HashingEncoder()), match=match).save(tmp_path / "current")
    return tmp_path / "current"


def taught(client: TestClient, users: int, key: str | None = None) -> None:
    """Everybody likes long texts; 24 ratings each."""
    rng = random.Random(7)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(2, 40))) + "." for _ in range(60)]
    events: list[dict[str, Any]] = []
    for number in range(users):
        for text in rng.sample(texts, 24):
            value = min(10.0, max(1.0, 5.5 + (len(text.split()) - 20) / 5 + rng.gauss(0, 0.5)))
            said = {"type": "rating", "text": text, "value": value, "scale": [1, 10], "source": "stars"}
            events.append({"user": f"u{number}", "prompt": "Which?", **said})
    send(client, *events, key=key)


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)  # ten seconds: once is enough
@pytest.mark.parametrize("bundle", [False, True], indirect=True)
def test_a_bundle_is_fitted_to_the_store_without_an_encoder(
    serve: Serve, at: At, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = Bundle.load(bundle)
    client = serve(current)
    taught(client, 80)
    monkeypatch.setattr(
        "penchant.models.encoding.loading.load_encoder", lambda *_a, **_o: pytest.fail("text was encoded")
    )
    out = tmp_path / "new"
    told = run("fit", "--from-store", "--current", bundle, *at, "--out", out)
    new = Bundle.load(out)
    assert new.manifest.encoder == current.manifest.encoder
    assert (new.reward.text_prior.standardiser.match is not None) == current.manifest.encoder.reads_prompts
    assert f"bundle {new.version}" in told.stdout
    assert "The new bundle is better" in told.stdout
    comparison = new.manifest.metrics["comparison"]
    assert [shot["k"] for shot in comparison["shots"]] == [0, 3, 10, 30]
    assert comparison["with"] == current.version
    assert comparison["verdict"] == "better"
    assert comparison["shots"][0]["accuracy"] > 0.8 > comparison["shots"][0]["current_accuracy"]
    assert comparison["gain"] > 2 * comparison["gain_error"] > 0
    data = new.manifest.data[0]
    assert data["users"] + data["held_out_users"] == 80
    assert data["judgements"] == 24 * data["users"]
    rng = random.Random(7)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(2, 40))) + "." for _ in range(60)]
    remembered = [item_key("Which?", text) in new.reward.memory.rows for text in texts]
    assert all(remembered)  # the memory goes by the texts' own keys
    assert np.isfinite(new.reward.memory.means).all()
    assert "u1" not in json.dumps(new.manifest.metrics)
    assert not (tmp_path / "new.work").exists()


def test_too_little_is_said_in_numbers(serve: Serve, at: At, bundle: Path, tmp_path: Path) -> None:
    client = serve()
    taught(client, 4)
    arguments = (
        "fit",
        "--from-store",
        "--current",
        bundle,
        *at,
        "--out",
        tmp_path / "new",
    )
    told = run(*arguments, code=2)
    assert "96 judgements of 4 users are too few" in told.stderr
    assert "but 10 are needed" in told.stderr
    assert not (tmp_path / "new").exists()
    assert "but not both" in run(*arguments, tmp_path, code=2).stderr
    assert "name files of judgements" in run("fit", "--out", tmp_path / "new", code=2).stderr
