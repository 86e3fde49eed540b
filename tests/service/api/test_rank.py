"""Ranking routes: the answers of every dialect, and the rules that real clients force."""

import math
import threading

import pytest
from pydantic import TypeAdapter

from penchant.models.encoding.hashing import HashingEncoder
from penchant.service.api.dialects.best_of_n import BestOfNResponse
from penchant.service.api.dialects.cohere import RerankResponse
from penchant.service.api.dialects.tei import TeiResult
from penchant.service.api.dialects.vllm import ScoreResponse

DOCUMENTS = [
    "a short one",
    "quite a different text about boats",
    "boats, boats and more boats on the sea",
    "x",
]
RERANKS = ("/v1/rerank", "/v2/rerank", "/rerank")


def ranked(client, **body):
    answer = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("path", RERANKS)
def test_rerank_answers_in_cohere_shape(client, path):
    answer = client.post(path, json={"query": "q", "documents": DOCUMENTS})
    body = RerankResponse.model_validate(answer.json())
    scores = [result.relevance_score for result in body.results]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result.index for result in body.results) == [0, 1, 2, 3]
    assert body.id.startswith("rank_")
    assert body.meta.api_version.version == ("1" if path == "/v1/rerank" else "2")
    assert body.meta.personalization.state == "population"
    assert body.usage.total_tokens == body.meta.tokens.input_tokens > 0
    stages = [part.split(";dur=") for part in answer.headers["server-timing"].split(", ")]
    assert [name for name, _ in stages] == ["queue", "encode", "posterior", "rank"]
    assert all(float(ms) >= 0 for _, ms in stages)


def test_document_is_absent_unless_asked_for(client):
    assert all("document" not in result for result in ranked(client)["results"])
    assert all("document" not in result for result in ranked(client, return_documents=None)["results"])
    for result in ranked(client, return_documents=True)["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}


@pytest.mark.parametrize(("top_n", "length"), [(None, 4), (0, 4), (1, 1), (3, 3), (99, 4)])
def test_top_n(client, top_n, length):
    assert len(ranked(client, top_n=top_n)["results"]) == length


def test_ties_keep_the_order_of_the_request(client):
    results = ranked(client, documents=["same", "same", "same"])["results"]
    assert [result["index"] for result in results] == [0, 1, 2]
    assert len({result["relevance_score"] for result in results}) == 1


def test_documents_may_be_objects(client):
    plain = ranked(client)["results"]
    objects = [{"text": text, "other": 1} for text in DOCUMENTS]
    assert ranked(client, documents=objects)["results"] == plain
    named = [{"title": text, "text": "not this"} for text in DOCUMENTS]
    assert ranked(client, documents=named, rank_fields=["title", "missing"])["results"] == plain
    joined = ranked(
        client, documents=[{"a": "one", "b": "two"}], rank_fields=["a", "b"], return_documents=True
    )
    assert joined["results"][0]["document"] == {"text": "one\ntwo"}


def test_every_optional_field_may_be_null_and_unknown_ones_are_ignored(client):
    nulls = dict.fromkeys(
        ("model", "top_n", "max_tokens_per_doc", "return_documents", "rank_fields", "priority", "user")
    )
    assert (
        ranked(client, **nulls, max_chunks_per_doc=3, something={"new": True})["results"]
        == ranked(client)["results"]
    )
    scored = client.post(
        "/score",
        json={"text_1": "q", "text_2": "a", "queries": None, "documents": None, "user": None, "new": 1},
    )
    assert scored.status_code == 200
    tei = {"query": "q", "texts": ["a"], "truncate": None, "raw_scores": None, "return_text": None, "new": 1}
    assert client.post("/rerank", json=tei).status_code == 200
    best = {"prompt": None, "candidates": ["a"], "user": None, "strategy": None, "accept_threshold": None}
    assert client.post("/v1/best-of-n", json=best | {"n_return": None}).status_code == 200


def test_long_texts_are_truncated_with_a_warning(client):
    body = ranked(client, documents=["short", "word " * 300, "also short", "word " * 400])
    assert body["meta"]["warnings"] == ["2 of 4 documents truncated to 256 tokens: 1, 3"]
    assert ranked(client)["meta"]["warnings"] == []


def test_long_texts_are_read_in_windows_before_they_are_truncated(serve):
    client = serve(using=HashingEncoder(max_windows=2))
    body = ranked(client, documents=["short", "word " * 300, "other " * 512, "word " * 513])
    assert body["meta"]["warnings"] == ["1 of 4 documents truncated to 512 tokens: 3"]
    assert body["usage"]["total_tokens"] == 1 + 300 + 512 + 512


@pytest.mark.parametrize("path", RERANKS)
def test_documents_are_cut_to_max_tokens_per_doc(client, path):
    """A cut document ranks as the text that remains of it. The response holds the documents that were sent."""
    documents = ["one two three four", "boats and sea", "x", "boats, boats and more"]
    body = {"query": "q", "max_tokens_per_doc": 2, "return_documents": True}
    cut = client.post(path, json=body | {"documents": documents}).json()
    sent = ["one two", "boats and", "x", "boats, boats"]
    plain = client.post(path, json={"query": "q", "documents": sent}).json()
    assert [(r["index"], r["relevance_score"]) for r in cut["results"]] == [
        (r["index"], r["relevance_score"]) for r in plain["results"]
    ]
    assert cut["usage"] == plain["usage"]
    assert all(result["document"]["text"] == documents[result["index"]] for result in cut["results"])
    assert cut["meta"]["warnings"] == ["3 of 4 documents cut to 2 tokens: 0, 1, 3"]
    assert plain["meta"]["warnings"] == []


def test_a_cut_document_is_a_text_of_its_own(client, encoder):
    """It is encoded and cached as any other text, and feedback on it is feedback on what remained of it."""
    documents = ["tree house " * 900, "lake"]
    body = ranked(client, documents=documents, max_tokens_per_doc=2, user="u")
    assert sorted(encoder.texts) == ["lake", "tree house"]
    assert body["meta"]["warnings"] == ["1 of 2 documents cut to 2 tokens: 0"]
    assert body["usage"]["total_tokens"] == 3
    vote = {"type": "vote", "rank_id": body["id"], "index": 0, "value": 1, "user": "u"}
    assert client.post("/v1/feedback", json=vote).json()["accepted"] == 1
    logged = client.get("/v1/users/u/feedback").json()["data"]
    assert [entry["event"]["text"] for entry in logged] == ["tree house"]
    ranked(client, documents=["tree house"])
    assert len(encoder.texts) == 2


def test_documents_within_max_tokens_per_doc_are_unchanged(client, encoder):
    plain = ranked(client)
    for limit in (20, 4096, 10**12):
        body = ranked(client, max_tokens_per_doc=limit)
        assert (body["results"], body["meta"]["warnings"]) == (plain["results"], [])
    assert len(encoder.texts) == 4


def test_only_requests_that_limit_their_documents_pay_for_it(client, encoder, monkeypatch):
    threads = []

    def cut(texts, max_tokens):
        threads.append(threading.current_thread().name)
        return HashingEncoder.cut(encoder, texts, max_tokens)

    monkeypatch.setattr(encoder, "cut", cut)
    ranked(client)
    assert threads == []
    ranked(client, max_tokens_per_doc=3)
    ranked(client, max_tokens_per_doc=3, documents=["word " * 1000])
    on_loop, on_thread = threads
    assert on_loop != on_thread  # long documents do not block the event loop


@pytest.mark.parametrize("query", ["", "q", "a much longer query " * 50])
def test_the_query_may_be_anything(client, query):
    assert len(ranked(client, query=query)["results"]) == 4


def test_tei_dialect(client):
    answer = client.post("/rerank", json={"query": "q", "texts": DOCUMENTS})
    results = TypeAdapter(list[TeiResult]).validate_python(answer.json())
    reranked = ranked(client)["results"]
    assert [(r.index, r.score) for r in results] == [(r["index"], r["relevance_score"]) for r in reranked]
    assert all("text" not in result for result in answer.json())
    raw = client.post(
        "/rerank", json={"query": "q", "texts": DOCUMENTS, "raw_scores": True, "return_text": True}
    )
    utilities = [result["score"] for result in raw.json()]
    assert utilities == sorted(utilities, reverse=True)
    assert any(not 0 <= utility <= 1 for utility in utilities)
    assert all(result["text"] == DOCUMENTS[result["index"]] for result in raw.json())


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_score_one_prompt_for_all(client, path):
    answer = client.post(path, json={"text_1": "q", "text_2": DOCUMENTS})
    body = ScoreResponse.model_validate(answer.json())
    assert [row.index for row in body.data] == [0, 1, 2, 3]
    assert body.created == 1_800_000_000
    relevance = {result["index"]: result["relevance_score"] for result in ranked(client)["results"]}
    assert {row.index: row.probability for row in body.data} == relevance
    assert all(row.std > 0 for row in body.data)
    again = client.post(path, json={"queries": ["q"], "documents": DOCUMENTS}).json()["data"]
    assert again == answer.json()["data"]
    one = client.post(path, json={"text_1": "q", "text_2": DOCUMENTS[0]}).json()["data"]
    assert one == answer.json()["data"][:1]


def test_score_a_prompt_for_each(client):
    pairs = client.post("/score", json={"text_1": ["q", "r"], "text_2": ["a", "b"]}).json()["data"]
    singly = [
        client.post("/score", json={"text_1": q, "text_2": t}).json()["data"][0]
        for q, t in (("q", "a"), ("r", "b"))
    ]
    assert [row["score"] for row in pairs] == [row["score"] for row in singly]


def choose(client, **body):
    answer = client.post("/v1/best-of-n", json={"prompt": "p", "candidates": DOCUMENTS, **body})
    assert answer.status_code == 200, answer.text
    return BestOfNResponse.model_validate(answer.json())


def test_best_of_n(client):
    body = choose(client)
    assert body.accepted
    assert body.best == body.results[0]
    scores = [result.score for result in body.results]
    assert scores == sorted(scores, reverse=True)
    assert math.isclose(sum(result.probability_best for result in body.results), 1.0, abs_tol=1e-9)
    assert len(choose(client, n_return=2).results) == 2
    assert len(choose(client, n_return=0).results) == 4
    assert choose(client, strategy="mean").results == body.results


def test_best_of_two_is_a_comparison(client):
    forth = choose(client, candidates=["a", "b"])
    back = choose(client, candidates=["b", "a"])
    chances = {result.index: result.probability_best for result in forth.results}
    assert math.isclose(chances[0] + chances[1], 1.0)
    assert {1 - r.index: r.probability_best for r in back.results} == pytest.approx(chances)


def test_nothing_is_accepted_where_nothing_is_good_enough(client):
    chance = choose(client).best.probability_acceptable
    assert choose(client, accept_threshold=chance).accepted
    refused = choose(client, accept_threshold=1.0)
    assert refused.best is None
    assert not refused.accepted
    assert len(refused.results) == 4


def test_equal_requests_get_equal_answers(client):
    first, second = choose(client), choose(client)
    assert first.id != second.id
    assert first.results == second.results
    assert ranked(client)["results"] == ranked(client)["results"]


@pytest.mark.parametrize(
    "model", [None, "penchant", "rerank-v3.5", "jina-reranker-v2-base-multilingual", "tiny"]
)
def test_any_alias_means_the_loaded_bundle(client, model):
    assert ranked(client, model=model)["model"] == "tiny"


@pytest.mark.parametrize("model", ["gpt-4", "", "gpt-4:u1", ":u1"])
def test_other_models_are_not_found(client, model):
    answer = client.post("/v1/rerank", json={"model": model, "query": "q", "documents": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert answer.json()["errors"][0]["pointer"] == "/model"
