"""The match of judged texts with their prompt is logged, replayed bit for bit, and deleted with its judgement."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from penchant.models.bundle import Bundle
from penchant.models.encoding.extract import extract_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.match import COSINE, COVERAGE, MATCH_NAMES, MATCH_VERSION
from penchant.models.fitting.relevance import CrossTable, fit_relevance
from penchant.models.judgements.judgement import Judgement
from penchant.models.testing import tiny_bundle
from penchant.service.access.limits import TenantSettings, put_settings
from penchant.service.log.judgements import StoredJudgements, read_judgements
from penchant.service.log.reading import hash_context
from penchant.service.store.features import find_features
from penchant.service.store.judged_items import find_judged_items
from penchant.service.store.judgements import replay_events
from penchant.service.users.catching_up import catch_up, replay_log
from penchant.service.users.completion import Shortfall
from penchant.service.users.fold import Fold
from penchant.service.users.states import Forgetting
from penchant.service.users.verify import replay

from ..conftest import Store, WatchedEncoder

Serve = Callable[..., TestClient]

PROMPT, TEXTS = "which boat sails the sea", ("a boat sails the sea", "trees grow in the garden", "bread")
KEY = ("default", "u")


@pytest.fixture
def extractor(encoder: WatchedEncoder) -> FeatureExtractor:
    return FeatureExtractor(encoder)


@pytest.fixture
def bundle(extractor: FeatureExtractor) -> Bundle:
    return tiny_bundle(extractor, match=True)


@pytest.fixture
def fold(bundle: Bundle, extractor: FeatureExtractor) -> Fold:
    return Fold(bundle.reward, Forgetting(None), bundle.version, extractor.identity, MATCH_VERSION)


def make_events(user: str = "u", prompt: str = PROMPT) -> list[dict[str, Any]]:
    first, second, third = TEXTS
    return [
        {"user": user, "prompt": prompt, "type": "preference", "chosen": first, "rejected": second},
        {"user": user, "prompt": prompt, "type": "ranking", "order": [[third], [first, second]]},
        {
            "user": user,
            "prompt": prompt,
            "type": "vote",
            "text": third,
            "value": -1,
            "event_id": f"{user}-vote",
        },
        {"user": user, "type": "vote", "text": second, "value": 1},
    ]


def send(client: TestClient, *events: dict[str, Any], key: str | None = None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = client.post("/v1/feedback", json={"events": list(events)}, headers=headers).json()
    assert answer["rejected"] == [], answer


def keep_no_texts(client: TestClient) -> None:
    runtime = client.app.state.runtime  # type: ignore[attr-defined]
    with runtime.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(keep_texts=False), 0.0)
    runtime.feed.poll()


def get_evidence(client: TestClient) -> Any:
    _, state = client.app.state.runtime.models.current.cache.find(KEY)  # type: ignore[attr-defined]
    return state.evidence.posterior


def assert_same(first: Any, second: Any) -> None:
    np.testing.assert_array_equal(first.beliefs.mean, second.beliefs.mean)
    np.testing.assert_array_equal(first.beliefs.covariance, second.beliefs.covariance)


@pytest.mark.parametrize("keeps_texts", [True, False])
def test_a_replay_learns_the_same_bits(serve: Serve, bundle: Bundle, fold: Fold, keeps_texts: bool) -> None:
    client = serve(bundle)
    if not keeps_texts:
        keep_no_texts(client)
    send(client, *make_events())
    learned = get_evidence(client)
    store = client.app.state.runtime.store  # type: ignore[attr-defined]
    with store.reading() as connection:
        replayed, shortfall = replay_log(connection, KEY, fold, 4)
        unmatched = fold.replay(replay_events(connection, *KEY, fold.extractor, ""))
    assert_same(learned, replayed.posterior)
    assert not shortfall
    assert (unmatched.posterior.beliefs.mean != learned.beliefs.mean).any()
    report = replay(store, fold, now=store.clock())
    assert (report.equal, report.largest, report.shortfall) == (1, 0.0, Shortfall())


def test_a_retraction_replays_the_stored_match(serve: Serve, bundle: Bundle, fold: Fold) -> None:
    client = serve(bundle)
    events = make_events()
    send(client, *events, {"user": "u", "type": "retract", "target_event_id": "u-vote"})
    retracted = get_evidence(client)
    others = serve(bundle)
    send(others, *[event | {"user": "v"} for event in events if event.get("event_id") is None])
    _, state = others.app.state.runtime.models.current.cache.find(("default", "v"))  # type: ignore[attr-defined]
    assert_same(retracted, state.evidence.posterior)


def test_the_log_holds_match_and_prompt(
    serve: Serve, bundle: Bundle, extractor: FeatureExtractor, encoder: WatchedEncoder
) -> None:
    client = serve(bundle)
    send(client, *make_events())
    assert sorted(encoder.texts) == sorted([*TEXTS, PROMPT])  # every text once
    with client.app.state.runtime.store.reading() as connection:  # type: ignore[attr-defined]
        rows = find_judged_items(connection, *KEY, extractor.identity, [1, 2, 3, 4])
        stored = find_features(connection, "default", extractor.identity, [extractor.key(PROMPT)])
        events = list(replay_events(connection, *KEY, extractor.identity, MATCH_VERSION))
    np.testing.assert_array_equal(
        stored[extractor.key(PROMPT)].vector, extractor.extract([PROMPT]).vectors[0]
    )
    assert {row.match_version for own in rows.values() for row in own} == {MATCH_VERSION}
    assert {row.prompt_key for seq in (1, 2, 3) for row in rows[seq]} == {extractor.key(PROMPT)}
    assert [row.prompt_key for row in rows[4]] == [None]  # it has no prompt
    texts = extractor.extract(TEXTS[:2])
    prompts = extractor.extract([PROMPT] * 2).vectors
    expected = extractor.add_match(texts.vectors, [PROMPT] * 2, TEXTS[:2], prompts, texts.windows)
    assert events[0].vectors is not None
    assert events[0].vectors.shape == (2, extractor.width)
    np.testing.assert_array_equal(events[0].vectors, expected)
    assert events[3].vectors is not None
    assert np.isnan(events[3].vectors[:, -len(MATCH_NAMES) :]).all()
    assert all(event.is_matched for event in events)


def test_a_bundle_without_match_logs_none(serve: Serve, store: Store, encoder: WatchedEncoder) -> None:
    client = serve()
    send(client, *make_events())
    assert sorted(encoder.texts) == sorted(TEXTS)
    rows = store.run("SELECT match, match_version, prompt_key FROM judged_items")
    assert set(rows) == {(None, None, None)}


def test_features_of_a_prompt_stay_while_a_judgement_needs_them(
    serve: Serve, bundle: Bundle, store: Store, extractor: FeatureExtractor
) -> None:
    client = serve(bundle)
    send(client, *make_events("u"), *make_events("v"))
    other = {"user": "u", "prompt": "only u asks this", "type": "vote", "text": TEXTS[0], "value": 1}
    send(client, other)

    def list_keys() -> set[bytes]:
        return {bytes(key) for (key,) in store.run("SELECT feature_key FROM features")}

    texts = {extractor.key(text) for text in TEXTS}
    shared, own = extractor.key(PROMPT), extractor.key("only u asks this")
    assert list_keys() == {*texts, shared, own}
    cache = client.app.state.runtime.models.current.source.cache  # type: ignore[attr-defined]
    assert cache.get("default", own) is not None
    assert client.delete("/v1/users/u").status_code == 204
    assert list_keys() == {*texts, shared}
    client.portal.call(_pause)  # type: ignore[union-attr]
    assert cache.get("default", own) is None
    assert client.delete("/v1/users/v").status_code == 204
    assert list_keys() == set()


async def _pause() -> None:
    """Let the event loop do what is scheduled."""


def test_prompts_of_rankings_leave_the_cache_with_their_user(
    serve: Serve, bundle: Bundle, extractor: Any
) -> None:
    client = serve(bundle)
    assert client.post("/v1/rerank", json={"query": PROMPT, "documents": list(TEXTS), "user": "u"}).is_success
    cache = client.app.state.runtime.models.current.source.cache  # type: ignore[attr-defined]
    assert cache.get("default", extractor.key(PROMPT)) is not None
    assert client.delete("/v1/users/u").status_code == 204
    client.portal.call(_pause)  # type: ignore[union-attr]
    assert cache.get("default", extractor.key(PROMPT)) is None


def test_expired_judgements_take_their_prompts_along(
    serve: Serve, bundle: Bundle, store: Store, clock: Any, extractor: FeatureExtractor
) -> None:
    client = serve(bundle, expiry_grace_hours=1000.0)
    runtime = client.app.state.runtime  # type: ignore[attr-defined]
    send(client, *make_events("old"))
    with runtime.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(retention_days=30), 0.0)
    runtime.feed.poll()
    clock.now += 31 * 86_400
    send(client, {"user": "u", "prompt": "new", "type": "vote", "text": "newer", "value": 1})
    serve(bundle, expiry_grace_hours=1000.0)
    client = serve(bundle, expiry_grace_hours=1000.0)
    send(client, {"user": "u", "prompt": "new", "type": "vote", "text": "newer", "value": 1})
    expected = {extractor.key("new"), extractor.key("newer")}
    assert {bytes(key) for (key,) in store.run("SELECT feature_key FROM features")} == expected


def test_merged_and_exported_users_keep_their_match(
    serve: Serve, bundle: Bundle, fold: Fold, extractor: FeatureExtractor
) -> None:
    client = serve(bundle)
    send(client, *make_events("v"))
    answer = client.post("/v1/users/u/merge", json={"from": "v"})
    assert answer.status_code == 200, answer.text
    texts = client.get("/v1/users/u/export").json()["events"][0]["texts"]
    assert [set(text["match"]) for text in texts] == [set(MATCH_NAMES)] * 2
    assert texts[0]["match"]["relevance"] is None
    assert texts[0]["match"]["cosine"] > 0.5 > texts[1]["match"]["cosine"]
    assert {text["prompt_key"] for text in texts} == {extractor.key(PROMPT).hex()}
    store = client.app.state.runtime.store  # type: ignore[attr-defined]
    with store.reading() as connection:
        result = catch_up(connection, KEY, fold, extractor)
    assert result is not None
    assert (result.new_features, result.new_matches, bool(result.shortfall)) == ({}, {}, False)


def test_tenants_do_not_share_stored_prompts(
    serve: Serve, bundle: Bundle, store: Store, encoder: WatchedEncoder
) -> None:
    client = serve(bundle, api_keys={"a": SecretStr("ka"), "b": SecretStr("kb")})
    for key in ("ka", "kb"):
        encoder.calls.clear()
        send(client, *make_events(), key=key)
        assert sorted(encoder.texts) == sorted([*TEXTS, PROMPT])
    client = serve(bundle, api_keys={"a": SecretStr("ka"), "b": SecretStr("kb")})
    headers = {"Authorization": "Bearer ka"}
    assert client.delete("/v1/users/u", headers=headers).status_code == 204
    assert {tenant for (tenant,) in store.run("SELECT tenant FROM features")} == {"b"}


def test_reasons_of_a_user_use_the_match(serve: Serve, bundle: Bundle) -> None:
    client = serve(bundle)
    send(
        client, *make_events(), *[event | {"event_id": f"again {i}"} for i, event in enumerate(make_events())]
    )
    answer = client.get("/v1/users/u", params={"explain": True})
    assert answer.status_code == 200, answer.text


def test_coverage_is_stored_for_logs_without_texts(
    serve: Serve, bundle: Bundle, extractor: FeatureExtractor
) -> None:
    client = serve(bundle)
    keep_no_texts(client)
    send(client, *make_events())
    with client.app.state.runtime.store.reading() as connection:  # type: ignore[attr-defined]
        (event, *_) = replay_events(connection, *KEY, extractor.identity, MATCH_VERSION)
    assert event.vectors is not None
    coverage = event.vectors[:, extractor.dim + COVERAGE]
    assert coverage[0] == 1.0
    assert coverage[1] == 0.0


def read(
    client: TestClient, extractor: FeatureExtractor, match_version: str = MATCH_VERSION
) -> StoredJudgements:
    with client.app.state.runtime.store.reading() as connection:  # type: ignore[attr-defined]
        return read_judgements(connection, ["default"], extractor.identity, match_version)


@pytest.mark.parametrize("keeps_texts", [True, False])
def test_a_fit_reads_the_stored_match(
    serve: Serve, bundle: Bundle, extractor: FeatureExtractor, keeps_texts: bool
) -> None:
    """Judged pairs have their stored match; other pairs are computed from what is stored."""
    client = serve(bundle)
    if not keeps_texts:
        keep_no_texts(client)
    other = "what grows in the garden"
    send(client, *make_events(), *make_events("v", other))
    client.app.state.runtime.models.current.source.cache.clear()  # type: ignore[attr-defined]
    stored = read(client, extractor).vectors
    assert isinstance(stored, CrossTable)
    judgements = [Judgement("u", prompt, "ranking", TEXTS) for prompt in (PROMPT, other)]
    table = extract_features(judgements, extractor)
    names = {text: extractor.key(text).hex() for text in TEXTS}
    contexts = {prompt: hash_context({"prompt": prompt}) for prompt in (PROMPT, other, "")}
    for prompt in (PROMPT, other):
        np.testing.assert_array_equal(stored.get_prompt(contexts[prompt]), table.get_prompt(prompt))
        for text in TEXTS:
            np.testing.assert_array_equal(stored[contexts[prompt], names[text]], table[prompt, text])
    assert not stored.has_prompt(contexts[""])
    assert np.isnan(stored[contexts[""], names[TEXTS[1]]][-len(MATCH_NAMES) :]).all()
    send(client, {"user": "w", "prompt": other, "type": "vote", "text": "only here", "value": 1})
    stored = read(client, extractor).vectors
    item = (PROMPT, "only here")
    crossed = stored.cross([(contexts[PROMPT], extractor.key("only here").hex())])[0]
    expected = extract_features([Judgement("w", *item[:1], "vote", item[1:], value=1.0)], extractor)[item]
    if not keeps_texts:
        expected = expected.copy()
        expected[extractor.dim + COVERAGE] = np.nan
    np.testing.assert_array_equal(crossed, expected)


def test_a_fit_without_match_reads_features_alone(
    serve: Serve, bundle: Bundle, extractor: FeatureExtractor
) -> None:
    client = serve(bundle)
    send(client, *make_events())
    read_alone = read(client, extractor, "")
    assert {len(vector) for vector in read_alone.vectors.values()} == {extractor.dim}
    assert not read_alone.vectors.reads_prompts
    assert fit_relevance(read_alone.judgements, read_alone.vectors) is None
    assert read_alone.sha256 != read(client, extractor).sha256


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("keeps_texts", [True, False])
def test_relevance_is_fitted_from_a_store(
    serve: Serve, bundle: Bundle, extractor: FeatureExtractor, keeps_texts: bool
) -> None:
    client = serve(bundle)
    if not keeps_texts:
        keep_no_texts(client)
    for number in range(20):
        prompt = f"topic{number} subject{number} matter{number}"
        texts = [f"{prompt} {style} {number}" for style in ("please", "sharply")]
        send(
            client,
            {
                "user": f"u{number}",
                "prompt": prompt,
                "type": "preference",
                "chosen": texts[0],
                "rejected": texts[1],
            },
        )
    with_match = read(client, extractor)
    relevance = fit_relevance(with_match.judgements, with_match.vectors)
    assert relevance is not None
    cosine = relevance.weights[relevance.basis.column == COSINE]
    assert cosine.max() > 1
    assert with_match.unmatched == 0
    serve(bundle)


def test_judgements_without_match_are_counted_and_left_out_of_cross_pairs(
    serve: Serve, bundle: Bundle, extractor: FeatureExtractor
) -> None:
    client = serve()  # a bundle that does not read prompts
    send(client, *make_events(), *make_events("v", "what grows in the garden"))
    unknown = read(client, extractor)
    assert unknown.unmatched == len(unknown.judgements) == 8
    relevance = fit_relevance(unknown.judgements, unknown.vectors)
    assert relevance is not None
    assert not relevance.weights.any()
    assert all(np.isnan(vector[-len(MATCH_NAMES) :]).all() for vector in unknown.vectors.values())
