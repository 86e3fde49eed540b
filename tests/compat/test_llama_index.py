"""LlamaIndex's TEI reranker, which sends `texts` and expects a bare list."""

from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference


def test_nodes_are_in_the_order_of_the_user(trained: Any, user: str | None) -> None:
    reranker = TextEmbeddingInference(base_url=trained.base_url(user), top_n=len(trained.documents))
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(trained.documents)]
    ranked = reranker.postprocess_nodes(nodes, QueryBundle(trained.query))
    assert [int(node.node_id) for node in ranked] == trained.orders[user]
    assert {int(n.node_id): n.score for n in ranked} == pytest.approx(trained.scores[user])
