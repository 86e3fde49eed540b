"""LiteLLM's rerank: the `cohere/` provider preserves the path, the `jina_ai/` provider only the model name."""

from typing import Any

import litellm
import pytest


def test_cohere_provider(trained: Any, user: str | None) -> None:
    response = litellm.rerank(
        model="cohere/rerank-v3.5",
        query=trained.query,
        documents=trained.documents,
        top_n=3,
        api_base=f"{trained.base_url(user)}/v2/rerank",
        api_key="unused",
    )
    assert [result["index"] for result in response.results] == trained.orders[user][:3]


def test_jina_provider_names_the_user_in_the_model(trained: Any, user: str | None) -> None:
    response = litellm.rerank(
        model="jina_ai/penchant" if user is None else f"jina_ai/penchant:{user}",
        query=trained.query,
        documents=trained.documents,
        return_documents=True,
        api_base=f"{trained.url}/v1/rerank",
        api_key="unused",
    )
    assert [result["index"] for result in response.results] == trained.orders[user]
    scores_by_index = {result["index"]: result["relevance_score"] for result in response.results}
    assert scores_by_index == pytest.approx(trained.scores[user])
    assert response.results[0]["document"]["text"] == trained.documents[trained.orders[user][0]]
