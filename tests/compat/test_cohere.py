"""The `cohere` SDK with both versions of its API, and LangChain's CohereRerank, which uses it."""

import asyncio
from typing import Any

import cohere
import pytest
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

KEY = "unused"


@pytest.mark.parametrize("client_class", [cohere.Client, cohere.ClientV2])
def test_rerank(trained: Any, user: str | None, client_class: Any) -> None:
    with client_class(KEY, base_url=trained.base_url(user)) as client:
        response = client.rerank(model="rerank-v3.5", query=trained.query, documents=trained.documents)
    assert [result.index for result in response.results] == trained.orders[user]
    scores_by_index = {result.index: result.relevance_score for result in response.results}
    assert scores_by_index == pytest.approx(trained.scores[user])
    assert response.id
    assert response.meta.billed_units.search_units == 1


@pytest.mark.parametrize("client_class", [cohere.AsyncClient, cohere.AsyncClientV2])
def test_rerank_async(trained: Any, user: str | None, client_class: Any) -> None:
    async def order() -> list[int]:
        async with client_class(KEY, base_url=trained.base_url(user)) as client:
            response = await client.rerank(
                model="rerank-v3.5", query=trained.query, documents=trained.documents, top_n=2
            )
        return [result.index for result in response.results]

    assert asyncio.run(order()) == trained.orders[user][:2]


def test_version_1_sends_and_receives_documents_as_mappings(trained: Any) -> None:
    documents = [{"text": text, "other": "x"} for text in trained.documents]
    with cohere.Client(KEY, base_url=trained.base_url("short")) as client:
        response = client.rerank(
            model="rerank-english-v3.0",
            query=trained.query,
            documents=documents,
            return_documents=True,
            top_n=3,
        )
    assert [r.index for r in response.results] == trained.orders["short"][:3]
    assert [r.document.text for r in response.results] == [
        trained.documents[r.index] for r in response.results
    ]


@pytest.mark.parametrize("client_class", [cohere.Client, cohere.ClientV2])
def test_explanations_are_returned_on_request(trained: Any, client_class: Any) -> None:
    arguments = {"model": "rerank-v3.5", "query": trained.query, "documents": trained.documents}
    options: Any = {"additional_body_parameters": {"explain": True}}
    with client_class(KEY, base_url=trained.base_url("short")) as client:
        plain, response = client.rerank(**arguments), client.rerank(**arguments, request_options=options)
    assert [r.index for r in response.results] == [r.index for r in plain.results]
    assert all(not hasattr(result, "explanation") for result in plain.results)
    explanation = response.results[0].explanation
    assert sum(part["value"] for part in explanation["parts"]) == pytest.approx(explanation["utility"])
    assert explanation["shift"] > 0


def test_an_unknown_model_is_not_found(trained: Any) -> None:
    with cohere.ClientV2(KEY, base_url=trained.url) as client, pytest.raises(cohere.NotFoundError) as caught:
        client.rerank(model="unknown", query=trained.query, documents=trained.documents)
    assert caught.value.body["code"] == "model_not_found"


def test_no_documents_are_refused(trained: Any) -> None:
    error = cohere.UnprocessableEntityError
    with cohere.ClientV2(KEY, base_url=trained.url) as client, pytest.raises(error) as caught:
        client.rerank(model="rerank-v3.5", query=trained.query, documents=[])
    assert caught.value.body["errors"][0]["pointer"] == "/documents"


def test_langchain(trained: Any, user: str | None) -> None:
    reranker = CohereRerank(
        cohere_api_key=KEY, base_url=trained.base_url(user), model="rerank-v3.5", top_n=len(trained.documents)
    )
    documents = [Document(text, metadata={"place": i}) for i, text in enumerate(trained.documents)]
    with reranker.client:
        ranked = reranker.compress_documents(documents, trained.query)
    assert [document.metadata["place"] for document in ranked] == trained.orders[user]
    scores = [document.metadata["relevance_score"] for document in ranked]
    assert scores == sorted(scores, reverse=True)
