"""Rankings by a bundle that reads prompts: the match of a text with its prompt counts, and costs one encoder call."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from penchant.models.bundle import Bundle, BundleError
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.match import LATER_WINDOW, MATCH_NAMES, compute_match
from penchant.models.testing import tiny_bundle
from penchant.service.encoding import featurizer as featurizer_module
from penchant.service.telemetry.metrics import Timings

from ..conftest import WatchedEncoder

Serve = Callable[..., TestClient]

QUERY = "which boat sails the sea"
DOCUMENTS = ["a boat sails the sea", "trees grow in the garden", "bread rises in the oven"]


@pytest.fixture
def matching(encoder: WatchedEncoder) -> Bundle:
    return tiny_bundle(FeatureExtractor(encoder), match=True)


def rank(client: TestClient, query: str = QUERY, **fields: Any) -> list[float]:
    answer = client.post("/v1/rerank", json={"query": query, "documents": DOCUMENTS, **fields})
    assert answer.status_code == 200, answer.text
    scores = {result["index"]: result["relevance_score"] for result in answer.json()["results"]}
    return [scores[i] for i in range(len(DOCUMENTS))]


def test_the_text_that_answers_the_query_comes_first(serve: Serve, matching: Bundle) -> None:
    client = serve(matching)
    assert int(np.argmax(rank(client))) == 0
    assert int(np.argmax(rank(client, "what grows in the garden"))) == 1
    assert int(np.argmax(rank(client, "how does bread rise in an oven"))) == 2


def test_texts_and_prompt_are_encoded_in_one_call(
    serve: Serve, matching: Bundle, encoder: WatchedEncoder
) -> None:
    client = serve(matching)
    first = rank(client)
    assert list(map(sorted, encoder.calls)) == [sorted([*DOCUMENTS, QUERY])]
    assert rank(client) == first
    rank(client, "another query")
    assert encoder.calls[1:] == [["another query"]]  # the texts are in memory


def test_a_prompt_counts_no_tokens(serve: Serve, matching: Bundle) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS}
    with_match = serve(matching).post("/v1/rerank", json=body).json()["usage"]
    assert serve().post("/v1/rerank", json=body).json()["usage"] == with_match


def test_a_bundle_without_match_does_not_read_prompts(serve: Serve, encoder: WatchedEncoder) -> None:
    client = serve()
    scores = rank(client)
    assert rank(client, "another query") == scores
    assert list(map(sorted, encoder.calls)) == [sorted(DOCUMENTS)]


def test_scores_are_those_of_the_model(serve: Serve, matching: Bundle, encoder: WatchedEncoder) -> None:
    """Features that come from the cache, the store and the encoder give the scores of the library."""
    client = serve(matching)
    extractor = FeatureExtractor(encoder)
    texts, prompt = extractor.extract(DOCUMENTS), extractor.extract([QUERY] * len(DOCUMENTS))
    raw = extractor.add_match(
        texts.vectors, [QUERY] * len(DOCUMENTS), DOCUMENTS, prompt.vectors, texts.windows
    )
    expected = matching.reward.describe(raw).base
    order = np.argsort(-expected)
    scores = np.array(rank(client))
    assert list(np.argsort(-scores)) == list(order)


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_a_blank_prompt_is_exactly_neutral(
    serve: Serve, matching: Bundle, encoder: WatchedEncoder, blank: str
) -> None:
    client = serve(matching)
    model = client.app.state.runtime.models.current  # type: ignore[attr-defined]

    async def describe(prompts: list[str]) -> Any:
        return (await model.describer.describe("default", DOCUMENTS, prompts, Timings())).items.rows

    def run(prompt: str) -> Any:
        return client.portal.call(describe, [prompt] * len(DOCUMENTS))  # type: ignore[union-attr]

    vectors = FeatureExtractor(encoder).extract(DOCUMENTS).vectors
    encoder.calls.clear()
    neutral = matching.reward.describe(vectors).rows
    np.testing.assert_array_equal(run(blank), neutral)
    assert sorted(encoder.texts) == sorted(DOCUMENTS)
    assert (run(QUERY) != neutral).any()


def test_many_texts_are_matched_in_a_thread(
    serve: Serve, matching: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, threads = serve(matching), []
    run_in_thread = asyncio.to_thread

    async def watch(function: Any, *arguments: Any) -> Any:
        threads.append(function)
        return await run_in_thread(function, *arguments)

    monkeypatch.setattr(featurizer_module.asyncio, "to_thread", watch)
    few = [f"text {i}" for i in range(featurizer_module.INLINE_PAIRS)]
    client.post("/v1/rerank", json={"query": QUERY, "documents": few})
    matched = [call for call in threads if "compute_match" in repr(call)]
    assert matched == []
    many = [f"text {i}" for i in range(featurizer_module.INLINE_PAIRS + 1)]
    client.post("/v1/rerank", json={"query": "all are new for this query", "documents": many})
    client.post("/v1/rerank", json={"query": QUERY, "documents": ["word " * 5000]})
    matched = [call for call in threads if "compute_match" in repr(call)]
    assert len(matched) == 2


def test_the_windows_of_a_long_text_are_matched(serve: Serve) -> None:
    """The best window counts: an answer in the middle of a long text is found."""
    windowed = WatchedEncoder(max_tokens=5, max_windows=4)
    bundle = tiny_bundle(FeatureExtractor(windowed), match=True)
    client = serve(bundle, using=windowed)
    filler = "one two three four five six seven eight nine ten"
    model = client.app.state.runtime.models.current  # type: ignore[attr-defined]

    async def find() -> Any:
        texts = [f"{filler} {QUERY}", filler]
        return await model.featurizer.get_features("default", texts, [QUERY] * 2, Timings())

    batch = client.portal.call(find)  # type: ignore[union-attr]
    assert [len(windows) for windows in batch.windows] == [3, 2]
    assert batch.match[0, 0] == pytest.approx(1.0 - LATER_WINDOW, abs=1e-3)
    prompts = np.stack([features.vector for features in batch.prompts.values()] * 2)[:, : windowed.dim]
    expected = compute_match([QUERY] * 2, [f"{filler} {QUERY}", filler], prompts, batch.windows)
    np.testing.assert_array_equal(batch.match, expected)
    assert batch.raw.shape[1] == FeatureExtractor(windowed).dim + len(MATCH_NAMES)


def test_tenants_do_not_share_prompts(serve: Serve, matching: Bundle, encoder: WatchedEncoder) -> None:
    client = serve(matching, api_keys={"a": SecretStr("ka"), "b": SecretStr("kb")})
    for key in ("ka", "kb"):
        encoder.calls.clear()
        answer = client.post(
            "/v1/rerank",
            json={"query": QUERY, "documents": DOCUMENTS},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 200
        assert sorted(encoder.texts) == sorted([*DOCUMENTS, QUERY])


def test_explanations_use_the_match(serve: Serve, matching: Bundle) -> None:
    client = serve(matching)
    answer = client.post(
        "/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "explain": True, "user": "u"}
    ).json()
    other = client.post(
        "/v1/rerank",
        json={"query": "a different query", "documents": DOCUMENTS, "explain": True, "user": "u"},
    ).json()
    utilities = [
        {row["index"]: row["explanation"]["utility"] for row in body["results"]} for body in (answer, other)
    ]
    assert utilities[0] != utilities[1]


def test_match_features_of_another_version_are_refused(matching: Bundle, tmp_path: Any) -> None:
    manifest = replace(matching.manifest, encoder=replace(matching.manifest.encoder, match="99"))
    Bundle(matching.reward, manifest).save(tmp_path)
    with pytest.raises(BundleError, match="match features of version '99'"):
        Bundle.load(tmp_path)
