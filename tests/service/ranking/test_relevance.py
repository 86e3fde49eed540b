"""The signal `relevance`: a cross-encoder's score counts as declared, is batched and cached, and is stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from penchant.models.bundle import Bundle
from penchant.models.encoding.cross_encoder import CrossEncoder, load_cross_encoder
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.match import BRIEF, COSINE, MATCH_NAMES, RELEVANCE
from penchant.models.testing import tiny_bundle
from penchant.service.bundles.signal import Signal, build_fold, find_signal
from penchant.service.claims import StartError
from penchant.service.log.judgements import read_judgements
from penchant.service.settings import Settings
from penchant.service.users.verify import ReplayReport, replay

from ..conftest import START, Store, WatchedEncoder

Serve = Callable[..., TestClient]

QUERY = "a b c"
DOCUMENTS = ["d e f g", "p o n m", "a b a b", "h h i j k", "c"]


@pytest.fixture
def matching(encoder: WatchedEncoder) -> Bundle:
    return tiny_bundle(FeatureExtractor(encoder), match=True)


@pytest.fixture(scope="module")
def cross(classifier: Path) -> CrossEncoder:
    return load_cross_encoder(str(classifier), device="cpu", threads=1)


@pytest.fixture
def scale(cross: CrossEncoder) -> dict[str, float]:
    """Mean and deviation of the scores of the documents, and a weight that outweighs everything else."""
    scores = cross.score([QUERY] * len(DOCUMENTS), DOCUMENTS)
    return {
        "relevance_mean": float(scores.mean()),
        "relevance_std": float(scores.std()),
        "relevance_weight": 50.0,
    }


@pytest.fixture
def declared(classifier: Path, scale: dict[str, float]) -> dict[str, Any]:
    return {"relevance_model": str(classifier), **scale}


def rank(
    client: TestClient, query: str = QUERY, documents: list[str] = DOCUMENTS, **fields: Any
) -> list[int]:
    answer = client.post("/v1/rerank", json={"query": query, "documents": documents, **fields})
    assert answer.status_code == 200, answer.text
    return [result["index"] for result in answer.json()["results"]]


def utilities(client: TestClient, documents: list[str], **fields: Any) -> list[float]:
    answer = client.post("/v1/score", json={"queries": QUERY, "documents": documents, **fields})
    assert answer.status_code == 200, answer.text
    return [text["score"] for text in answer.json()["data"]]


def count(client: TestClient, name: str) -> int:
    lines = client.get("/metrics").text.splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(f"penchant_{name}_total")))


def test_a_heavy_signal_orders_texts_by_their_scores(
    serve: Serve, matching: Bundle, declared: dict[str, Any], cross: CrossEncoder
) -> None:
    scores = cross.score([QUERY] * len(DOCUMENTS), DOCUMENTS)
    assert rank(serve(matching)) != np.argsort(-scores).tolist()
    assert rank(serve(matching, **declared)) == np.argsort(-scores).tolist()


def test_utilities_are_those_of_the_library(
    serve: Serve, matching: Bundle, declared: dict[str, Any], cross: CrossEncoder, encoder: WatchedEncoder
) -> None:
    declared["relevance_weight"] = 0.7
    client = serve(matching, **declared)
    extractor = FeatureExtractor(encoder)
    prompts = [QUERY] * len(DOCUMENTS)
    texts = extractor.extract(DOCUMENTS)
    match = extractor.compute_match(
        prompts,
        DOCUMENTS,
        extractor.extract(prompts).vectors,
        texts.windows,
        relevance=cross.score(prompts, DOCUMENTS).astype(np.float16),
    )
    mean, std = declared["relevance_mean"], declared["relevance_std"]
    reward = matching.reward.with_signal(RELEVANCE, mean=mean, std=std, weight=0.7)
    raw = np.concatenate([texts.vectors, match], axis=1)
    expected = reward.describe(raw).base
    plain = matching.reward.describe(raw).base
    assert np.abs(expected - plain).max() > 0.3
    assert utilities(client, DOCUMENTS) == pytest.approx(expected.tolist(), abs=2e-3)


def test_scores_are_cached_by_prompt_and_text(
    serve: Serve, matching: Bundle, declared: dict[str, Any]
) -> None:
    client = serve(matching, **declared)
    first = rank(client)
    assert (count(client, "relevance_cache_misses"), count(client, "relevance_cache_hits")) == (5, 0)
    assert rank(client) == first  # the items themselves are in memory
    assert count(client, "relevance_cache_misses") == 5
    rank(client, "d")
    assert count(client, "relevance_cache_misses") == 10
    client = serve(matching, **declared, item_cache_bytes=0)
    rank(client)
    rank(client, documents=[*DOCUMENTS, "n", "n"])
    assert (count(client, "relevance_cache_misses"), count(client, "relevance_cache_hits")) == (6, 5)


def test_scores_do_not_depend_on_the_other_candidates(
    serve: Serve, matching: Bundle, declared: dict[str, Any]
) -> None:
    together = utilities(serve(matching, **declared), DOCUMENTS)
    client = serve(matching, **declared)
    alone = [utilities(client, [document])[0] for document in DOCUMENTS]
    # float16 keeps 11 bits of a score of about 10, and the declared weight multiplies its rounding.
    assert alone == pytest.approx(together, abs=0.3)


def test_a_blank_query_has_no_scores(serve: Serve, matching: Bundle, declared: dict[str, Any]) -> None:
    plain = rank(serve(matching), " ")
    client = serve(matching, **declared)
    assert rank(client, " ") == plain
    assert count(client, "relevance_cache_misses") == 0


def test_readiness_covers_the_relevance_model(
    serve: Serve, matching: Bundle, declared: dict[str, Any]
) -> None:
    assert "relevance" not in serve(matching).get("/readyz").json()["checks"]
    checks = serve(matching, **declared).get("/readyz").json()["checks"]
    assert checks["relevance"] == {"status": "ok", "detail": "warm"}


# ---------------------------------------------------------------- states


def choose(client: TestClient, user: str = "u") -> None:
    event = {
        "type": "preference",
        "user": user,
        "prompt": QUERY,
        "chosen": DOCUMENTS[1],
        "rejected": DOCUMENTS[0],
    }
    answer = client.post("/v1/feedback", json=event)
    assert answer.status_code == 200, answer.text


def find_versions(store: Store) -> list[str]:
    return sorted(row[0] for row in store.run("SELECT DISTINCT bundle_version FROM user_states"))


def test_states_belong_to_a_signal(
    serve: Serve, store: Store, matching: Bundle, declared: dict[str, Any]
) -> None:
    choose(serve(matching))
    assert find_versions(store) == [matching.version]
    serve(matching, **declared)
    first = f"{matching.version}+"
    assert [version[: len(first)] for version in find_versions(store)] == [matching.version, first]
    serve(matching, **(declared | {"relevance_weight": 1.0}))
    assert len(find_versions(store)) == 3
    client = serve(matching)
    assert client.get("/v1/users/u").json()["feedback_events"] == 1
    assert len(find_versions(store)) == 3


def find_scores(store: Store) -> list[tuple[str, float]]:
    """Version of the match features and stored score of every judged text, winner first."""
    rows = store.run("SELECT match_version, match FROM judged_items ORDER BY seq, position")
    return [(version, float(np.frombuffer(bytes(match), "<f2")[RELEVANCE])) for version, match in rows]


def test_feedback_stores_the_scores_so_that_no_model_is_needed_to_learn_again(
    serve: Serve,
    store: Store,
    matching: Bundle,
    declared: dict[str, Any],
    cross: CrossEncoder,
) -> None:
    client = serve(matching, **declared)
    choose(client)
    expected = cross.score([QUERY] * 2, [DOCUMENTS[1], DOCUMENTS[0]]).astype(np.float16)
    assert find_scores(store) == [(f"1+{cross.identity[:8]}", float(score)) for score in expected]
    assert count(client, "relevance_cache_misses") == 2

    learned = utilities(client, DOCUMENTS, user="u")
    assert learned != utilities(client, DOCUMENTS)
    report = learn_again(client, matching)
    assert (report.equal, report.different, report.lacking, report.largest) == (1, 0, 0, 0.0)
    store.run("DELETE FROM user_states")
    client = serve(matching, **declared)  # learns the user from the log
    assert count(client, "relevance_cache_misses") == 0
    assert utilities(client, DOCUMENTS, user="u") == learned


def learn_again(client: TestClient, matching: Bundle) -> ReplayReport:
    """Compare the user's saved state with the log under the fold of a command, which loads no model."""
    runtime = client.app.state.runtime  # type: ignore[attr-defined]
    signal = find_signal(runtime.settings)
    assert signal is not None
    fold = build_fold(signal.add_to(matching), runtime.settings, signal)
    return replay(runtime.store, fold, now=START)


def test_the_scores_of_another_model_are_neutral(
    serve: Serve,
    store: Store,
    matching: Bundle,
    declared: dict[str, Any],
    make_classifier: Callable[..., Path],
) -> None:
    """A judgement under one model is learned under another as if it had no score, and so it is without any model."""
    choose(serve(matching, **declared))
    other = declared | {"relevance_model": str(make_classifier(labels=2)), "relevance_weight": 3.0}
    with_other = serve(matching, **other).get("/v1/users/u").json()
    assert with_other["feedback_events"] == 1
    assert [version for version, _ in find_scores(store)] == [
        f"1+{find_signal(Settings(**declared)).model[:8]}"
    ] * 2
    plain = serve(matching)
    assert plain.get("/v1/users/u").json()["feedback_events"] == 1
    states = {
        version: bytes(state) for version, state in store.run("SELECT bundle_version, state FROM user_states")
    }
    assert len(states) == 3
    other_version = f"{matching.version}+{find_signal(Settings(**other)).tag}"
    assert states[other_version] == states[matching.version]
    assert len(set(states.values())) == 2


def test_fits_read_the_match_of_judgements_with_scores_as_any_other(
    serve: Serve, matching: Bundle, declared: dict[str, Any]
) -> None:
    client = serve(matching, **declared)
    choose(client)
    card = matching.manifest.encoder
    with client.app.state.runtime.store.reading() as connection:  # type: ignore[attr-defined]
        stored = read_judgements(connection, ["default"], card.features, card.match)
    assert (len(stored.judgements), stored.unmatched) == (1, 0)
    match = np.stack([stored.vectors[item] for item in stored.vectors])[:, -len(MATCH_NAMES) :]
    assert match.shape == (2, len(MATCH_NAMES))
    assert not np.isnan(match[:, [COSINE, BRIEF]]).any()
    assert np.isnan(match[:, RELEVANCE]).all()  # it is declared, so that no fit may learn from it


def test_deleted_users_leave_no_scores_in_memory(
    serve: Serve, matching: Bundle, declared: dict[str, Any]
) -> None:
    client = serve(matching, **declared)
    choose(client)
    relevance = client.app.state.runtime.relevance  # type: ignore[attr-defined]
    assert len(relevance) == 2
    assert client.delete("/v1/users/u").status_code in (200, 204)
    client.get("/healthz")  # the loop has run
    assert len(relevance) == 0


def test_every_part_of_a_signal_counts() -> None:
    base = {"model": "0123", "mean": 0.0, "std": 1.0, "weight": 1.0}
    changes: list[dict[str, Any]] = [{}, {"model": "4567"}, {"mean": 0.5}, {"std": 2.0}, {"weight": 0.5}]
    tags = {Signal(**(base | change)).tag for change in changes}
    assert len(tags) == len(changes)
    assert all(len(tag) == 8 for tag in tags)
    assert find_signal(Settings()) is None


# ---------------------------------------------------------------- refusals


def test_a_bundle_that_does_not_read_prompts_takes_no_signal(serve: Serve, declared: dict[str, Any]) -> None:
    with pytest.raises(StartError, match=r"needs a bundle that reads prompts, and tiny \(b-\w+\) does not"):
        serve(**declared)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/no/such/folder", "the folder does not exist"),
        ("embedded", r"lacks these weights: classifier\.bias"),
    ],
)
def test_a_wrong_model_stops_the_start(serve: Serve, matching: Bundle, name: str, reason: str) -> None:
    with pytest.raises(StartError, match=f"The relevance model cannot be loaded: .*{reason}"):
        serve(matching, relevance_model=name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"relevance_std": 0},
        {"relevance_std": -1},
        {"relevance_std": float("inf")},
        {"relevance_weight": 0},
        {"relevance_weight": float("nan")},
        {"relevance_mean": float("nan")},
        {"relevance_model": ""},
        {"relevance_cache_bytes": -1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)
