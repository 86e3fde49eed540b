"""LiteLLM's rerank: its `cohere/` provider keeps the path, its `jina_ai/` provider only the model's name."""

from typing import Any

import litellm
import pytest


def test_cohere_provider(taught: Any, user: str | None) -> None:
    answer = litellm.rerank(
        model="cohere/rerank-v3.5",
        query=taught.query,
        documents=taught.documents,
        top_n=3,
        api_base=f"{taught.base_url(user)}/v2/rerank",
        api_key="unused",
    )
    assert [result["index"] for result in answer.results] == taught.orders[user][:3]


def test_jina_provider_names_the_user_in_the_model(taught: Any, user: str | None) -> None:
    answer = litellm.rerank(
        model="jina_ai/penchant" if user is None else f"jina_ai/penchant:{user}",
        query=taught.query,
        documents=taught.documents,
        return_documents=True,
        api_base=f"{taught.url}/v1/rerank",
        api_key="unused",
    )
    assert [result["index"] for result in answer.results] == taught.orders[user]
    found = {result["index"]: result["relevance_score"] for result in answer.results}
    assert found == pytest.approx(taught.scores[user])
    assert answer.results[0]["document"]["text"] == taught.documents[taught.orders[user][0]]
