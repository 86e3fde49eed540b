"""LlamaIndex's TEI rerank: the dialect with `texts`, whose answer is a bare list."""

from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference


def test_nodes_come_in_the_user_s_order(taught: Any, user: str | None) -> None:
    reranker = TextEmbeddingInference(base_url=taught.base_url(user), top_n=len(taught.documents))
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(taught.documents)]
    found = reranker.postprocess_nodes(nodes, QueryBundle(taught.query))
    assert [int(node.node_id) for node in found] == taught.orders[user]
    assert {int(n.node_id): n.score for n in found} == pytest.approx(taught.scores[user])
