"""Our own adapters: they are to their frameworks what the frameworks' other rerankers are."""

import asyncio
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import penchant.langchain
import penchant.llama_index
from penchant import AsyncClient, Client


def documents(taught: Any) -> list[Document]:
    return [Document(text, metadata={"place": i}) for i, text in enumerate(taught.documents)]


def test_langchain(taught: Any, user: str | None) -> None:
    given = documents(taught)
    with Client(base_url=taught.url) as client:
        reranker = penchant.langchain.PenchantRerank(client=client, user=user, top_n=3)
        assert isinstance(reranker, BaseDocumentCompressor)
        found = reranker.compress_documents(given, taught.query)
        assert reranker.compress_documents([], taught.query) == []
    assert [document.metadata["place"] for document in found] == taught.orders[user][:3]
    assert [document.metadata["relevance_score"] for document in found] == pytest.approx(
        [taught.scores[user][index] for index in taught.orders[user][:3]]
    )
    assert given == documents(taught)


def test_langchain_s_metadata_is_enough_for_feedback(taught: Any) -> None:
    with Client(base_url=taught.url) as client:
        reader = client.for_user("langchain-reader")
        best = penchant.langchain.PenchantRerank(client=reader).compress_documents(
            documents(taught), taught.query
        )[0]
        receipt = reader.vote(value=1, rank_id=best.metadata["rank_id"], index=best.metadata["rank_index"])
        assert receipt.accepted == 1


@pytest.mark.parametrize("own", [True, False], ids=["async client", "thread"])
def test_langchain_awaited(taught: Any, user: str | None, own: bool) -> None:
    async def places() -> list[int]:
        async with AsyncClient(base_url=taught.url) as awaited:
            with Client(base_url=taught.url) as client:
                reranker = penchant.langchain.PenchantRerank(
                    client=client, async_client=awaited if own else None, user=user
                )
                found = await reranker.acompress_documents(documents(taught), taught.query)
        return [document.metadata["place"] for document in found]

    assert asyncio.run(places()) == taught.orders[user]


def test_llama_index(taught: Any, user: str | None) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(taught.documents)]
    with Client(base_url=taught.url) as client:
        reranker = penchant.llama_index.PenchantRerank(client=client, user=user, top_n=2)
        found = reranker.postprocess_nodes(nodes, QueryBundle(taught.query))
        assert reranker.postprocess_nodes([], QueryBundle(taught.query)) == []
        with pytest.raises(ValueError, match="which query"):
            reranker.postprocess_nodes(nodes)
    assert [int(node.node_id) for node in found] == taught.orders[user][:2]
    assert [node.score for node in found] == pytest.approx(
        [taught.scores[user][index] for index in taught.orders[user][:2]]
    )
