"""The `cohere` SDK, both versions of its API, and LangChain's CohereRerank on top of it."""

import asyncio
from typing import Any

import cohere
import pytest
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

KEY = "unused"


@pytest.mark.parametrize("make", [cohere.Client, cohere.ClientV2])
def test_rerank(taught: Any, user: str | None, make: Any) -> None:
    with make(KEY, base_url=taught.base_url(user)) as client:
        answer = client.rerank(model="rerank-v3.5", query=taught.query, documents=taught.documents)
    assert [result.index for result in answer.results] == taught.orders[user]
    found = {result.index: result.relevance_score for result in answer.results}
    assert found == pytest.approx(taught.scores[user])
    assert answer.id
    assert answer.meta.billed_units.search_units == 1


@pytest.mark.parametrize("make", [cohere.AsyncClient, cohere.AsyncClientV2])
def test_rerank_awaited(taught: Any, user: str | None, make: Any) -> None:
    async def order() -> list[int]:
        async with make(KEY, base_url=taught.base_url(user)) as client:
            answer = await client.rerank(
                model="rerank-v3.5", query=taught.query, documents=taught.documents, top_n=2
            )
        return [result.index for result in answer.results]

    assert asyncio.run(order()) == taught.orders[user][:2]


def test_version_1_sends_documents_as_mappings_and_gets_them_back(taught: Any) -> None:
    documents = [{"text": text, "other": "x"} for text in taught.documents]
    with cohere.Client(KEY, base_url=taught.base_url("short")) as client:
        answer = client.rerank(
            model="rerank-english-v3.0",
            query=taught.query,
            documents=documents,
            return_documents=True,
            top_n=3,
        )
    assert [r.index for r in answer.results] == taught.orders["short"][:3]
    assert [r.document.text for r in answer.results] == [taught.documents[r.index] for r in answer.results]


@pytest.mark.parametrize("make", [cohere.Client, cohere.ClientV2])
def test_explanations_reach_those_who_ask(taught: Any, make: Any) -> None:
    asked = {"model": "rerank-v3.5", "query": taught.query, "documents": taught.documents}
    more: Any = {"additional_body_parameters": {"explain": True}}
    with make(KEY, base_url=taught.base_url("short")) as client:
        plain, answer = client.rerank(**asked), client.rerank(**asked, request_options=more)
    assert [r.index for r in answer.results] == [r.index for r in plain.results]
    assert all(not hasattr(result, "explanation") for result in plain.results)
    why = answer.results[0].explanation
    assert sum(part["value"] for part in why["parts"]) == pytest.approx(why["utility"])
    assert why["shift"] > 0


def test_an_unknown_model_is_not_found(taught: Any) -> None:
    with cohere.ClientV2(KEY, base_url=taught.url) as client, pytest.raises(cohere.NotFoundError) as caught:
        client.rerank(model="nobody-knows", query=taught.query, documents=taught.documents)
    assert caught.value.body["code"] == "model_not_found"


def test_no_documents_are_refused(taught: Any) -> None:
    refused = cohere.UnprocessableEntityError
    with cohere.ClientV2(KEY, base_url=taught.url) as client, pytest.raises(refused) as caught:
        client.rerank(model="rerank-v3.5", query=taught.query, documents=[])
    assert caught.value.body["errors"][0]["pointer"] == "/documents"


def test_langchain(taught: Any, user: str | None) -> None:
    reranker = CohereRerank(
        cohere_api_key=KEY, base_url=taught.base_url(user), model="rerank-v3.5", top_n=len(taught.documents)
    )
    documents = [Document(text, metadata={"place": i}) for i, text in enumerate(taught.documents)]
    with reranker.client:
        found = reranker.compress_documents(documents, taught.query)
    assert [document.metadata["place"] for document in found] == taught.orders[user]
    scores = [document.metadata["relevance_score"] for document in found]
    assert scores == sorted(scores, reverse=True)
