"""A bundle with a gate serves, learns, replays and is upgraded to, with the embeddings of prompts from the store."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.match import MATCH_NAMES, MATCH_VERSION
from penchant.models.fitting.gates import PromptDirections
from penchant.models.testing import tiny_bundle
from penchant.service.access.limits import TenantSettings, put_settings
from penchant.service.log.judgements import read_judgements
from penchant.service.log.reading import hash_context
from penchant.service.store.judgements import replay_events
from penchant.service.users.catching_up import replay_log
from penchant.service.users.completion import Shortfall
from penchant.service.users.fold import Fold
from penchant.service.users.states import Forgetting
from penchant.service.users.verify import replay

from ..conftest import WatchedEncoder

Serve = Callable[..., TestClient]

CODE, ADVICE = "how do i sort a list in python", "should i call my sister about the wedding"
SHORT, LONG = "yes", "yes and then a great many other words follow until this text has come to its end"
KEY = ("default", "u")


@pytest.fixture
def extractor(encoder: WatchedEncoder) -> FeatureExtractor:
    return FeatureExtractor(encoder, reads_prompt_embedding=True)


@pytest.fixture
def gated(extractor: FeatureExtractor) -> Bundle:
    return tiny_bundle(extractor, match=True, gate=2)


@pytest.fixture
def fold(gated: Bundle, extractor: FeatureExtractor) -> Fold:
    return Fold(gated.reward, Forgetting(None), gated.version, extractor.identity, MATCH_VERSION)


def send(client: TestClient, *events: dict[str, Any]) -> None:
    answer = client.post("/v1/feedback", json={"events": list(events)}).json()
    assert answer["rejected"] == [], answer


def make_events(user: str = "u", times: int = 6) -> list[dict[str, Any]]:
    """Preferences for short answers about code and long ones in advice, and a vote without a prompt."""
    event = {"user": user, "type": "preference"}
    events = times * [
        event | {"prompt": CODE, "chosen": SHORT, "rejected": LONG},
        event | {"prompt": ADVICE, "chosen": LONG, "rejected": SHORT},
    ]
    return [*events, {"user": user, "type": "vote", "text": SHORT, "value": 1}]


def score(client: TestClient, query: str, user: str = "u") -> list[float]:
    body = {"query": query, "documents": [SHORT, LONG], "user": user}
    results = client.post("/v1/rerank", json=body).json()["results"]
    return [row["relevance_score"] for row in sorted(results, key=lambda row: row["index"])]


def get_posterior(client: TestClient) -> Any:
    _, state = client.app.state.runtime.models.current.cache.find(KEY)  # type: ignore[attr-defined]
    return state.evidence.posterior


def test_taste_that_depends_on_the_prompt_is_served(serve: Serve, gated: Bundle) -> None:
    """The user moves towards short answers about code and towards long ones in advice."""
    client = serve(gated)
    before = {query: score(client, query) for query in (CODE, ADVICE)}
    send(client, *make_events())
    after = {query: score(client, query) for query in (CODE, ADVICE)}
    odds = {
        query: np.subtract(*np.log(np.divide(after[query], np.subtract(1, after[query]))))
        - np.subtract(*np.log(np.divide(before[query], np.subtract(1, before[query]))))
        for query in (CODE, ADVICE)
    }  # change of the log odds of the short text minus that of the long one
    assert odds[CODE] > 0.3
    assert odds[ADVICE] < -0.3


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("keeps_texts", [True, False])
def test_a_replay_learns_the_same_bits(serve: Serve, gated: Bundle, fold: Fold, keeps_texts: bool) -> None:
    client = serve(gated)
    if not keeps_texts:
        runtime = client.app.state.runtime  # type: ignore[attr-defined]
        with runtime.store.writing() as connection:
            put_settings(connection, "default", TenantSettings(keep_texts=False), 0.0)
        runtime.feed.poll()
    send(client, *make_events())
    learned = get_posterior(client)
    store = client.app.state.runtime.store  # type: ignore[attr-defined]
    with store.reading() as connection:
        replayed, _ = replay_log(connection, KEY, fold, 13)
        blind = fold.replay(replay_events(connection, *KEY, fold.extractor, MATCH_VERSION))
    np.testing.assert_array_equal(learned.beliefs.mean, replayed.posterior.beliefs.mean)
    np.testing.assert_array_equal(learned.beliefs.covariance, replayed.posterior.beliefs.covariance)
    assert np.abs(learned.beliefs.mean - blind.posterior.beliefs.mean).max() > 0.1
    report = replay(store, fold, now=store.clock())
    assert (report.equal, report.largest, report.shortfall) == (1, 0.0, Shortfall())


def test_the_embedding_of_the_prompt_comes_from_the_store(
    serve: Serve, gated: Bundle, extractor: FeatureExtractor, fold: Fold
) -> None:
    client = serve(gated)
    send(client, *make_events(times=1))
    with client.app.state.runtime.store.reading() as connection:  # type: ignore[attr-defined]
        events = list(
            replay_events(connection, *KEY, fold.extractor, MATCH_VERSION, reads_prompt_embedding=True)
        )
    dim = extractor.prompt_dim
    for event, prompt in zip(events, (CODE, ADVICE), strict=False):
        assert event.vectors is not None
        assert event.vectors.shape == (2, extractor.width)
        expected = extractor.extract([prompt]).vectors[0, :dim]
        np.testing.assert_array_equal(event.vectors[:, -dim:], [expected, expected])
    assert events[2].vectors is not None
    assert np.isnan(events[2].vectors[:, -dim - len(MATCH_NAMES) :]).all()  # it has no prompt


def test_users_of_an_ungated_bundle_are_learned_for_a_gated_one(
    serve: Serve, gated: Bundle, extractor: FeatureExtractor
) -> None:
    """The log of a bundle that reads prompts holds everything that a gate needs."""
    client = serve(tiny_bundle(extractor, match=True))
    send(client, *make_events())
    upgraded = serve(gated)
    scores = [score(upgraded, query) for query in (CODE, ADVICE)]
    send(upgraded, *[event | {"user": "v"} for event in make_events()])
    assert scores == [score(upgraded, query, "v") for query in (CODE, ADVICE)]


def test_explanations_of_a_gated_bundle_add_up(serve: Serve, gated: Bundle) -> None:
    """What moved the short text is its length, in the direction that belongs to the prompt."""
    client = serve(gated)
    send(client, *make_events())
    assert client.get("/v1/users/u").json()["reasons"]["attributes"]
    moved = {}
    for query in (CODE, ADVICE):
        body = {"query": query, "documents": [SHORT, LONG], "user": "u", "explain": True}
        rows = client.post("/v1/rerank", json=body).json()["results"]
        why = next(row["explanation"] for row in rows if row["index"] == 0)
        assert sum(part["value"] for part in why["parts"]) == pytest.approx(why["utility"], abs=1e-9)
        assert sum(part["value"] for part in why["moved"]) == pytest.approx(why["shift"], abs=1e-9)
        moved[query] = next(part["value"] for part in why["moved"] if part["name"] == "length")
    assert moved[CODE] > 0.1
    assert moved[ADVICE] < -0.1


def test_a_fit_from_the_store_reads_the_embeddings_of_prompts(
    serve: Serve, gated: Bundle, extractor: FeatureExtractor
) -> None:
    client = serve(gated)
    send(client, *make_events(times=1))
    with client.app.state.runtime.store.reading() as connection:  # type: ignore[attr-defined]
        stored = read_judgements(
            connection, ["default"], extractor.identity, MATCH_VERSION, reads_prompt_embedding=True
        )
    vectors = stored.vectors
    assert vectors.prompt_dim == extractor.prompt_dim
    assert {len(vector) for vector in vectors.values()} == {extractor.width}
    code = hash_context({"prompt": CODE})
    name = extractor.key(SHORT).hex()
    np.testing.assert_array_equal(vectors[code, name][-extractor.prompt_dim :], vectors.get_prompt(code))
    assert np.isnan(vectors[hash_context({}), name][-extractor.prompt_dim :]).all()
    assert PromptDirections.fit(stored.judgements, vectors).projection.shape[1] == 1  # of two prompts
