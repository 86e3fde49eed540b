"""The SDK's LangChain and LlamaIndex adapters, used as those frameworks use their own rerankers."""

import asyncio
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import penchant.langchain
import penchant.llama_index
from penchant import AsyncClient, Client


def documents(trained: Any) -> list[Document]:
    return [Document(text, metadata={"place": i}) for i, text in enumerate(trained.documents)]


def test_langchain(trained: Any, user: str | None) -> None:
    originals = documents(trained)
    with Client(base_url=trained.url) as client:
        reranker = penchant.langchain.PenchantRerank(client=client, user=user, top_n=3)
        assert isinstance(reranker, BaseDocumentCompressor)
        ranked = reranker.compress_documents(originals, trained.query)
        assert reranker.compress_documents([], trained.query) == []
    assert [document.metadata["place"] for document in ranked] == trained.orders[user][:3]
    assert [document.metadata["relevance_score"] for document in ranked] == pytest.approx(
        [trained.scores[user][index] for index in trained.orders[user][:3]]
    )
    assert originals == documents(trained)


def test_adapters_pass_the_strength_of_personalization(trained: Any) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(trained.documents)]

    async def compress(client: Client) -> list[int]:
        async with AsyncClient(base_url=trained.url) as async_client:
            reranker = penchant.langchain.PenchantRerank(
                client=client, async_client=async_client, user="short", personalization=0
            )
            ranked = await reranker.acompress_documents(documents(trained), trained.query)
        return [document.metadata["place"] for document in ranked]

    with Client(base_url=trained.url) as client:
        langchain = penchant.langchain.PenchantRerank(client=client, user="short", personalization=0)
        compressed = langchain.compress_documents(documents(trained), trained.query)
        llama_index = penchant.llama_index.PenchantRerank(client=client, user="short", personalization=0)
        ranked = llama_index.postprocess_nodes(nodes, QueryBundle(trained.query))
        in_tasks = asyncio.run(compress(client))
    assert [document.metadata["place"] for document in compressed] == trained.orders[None]
    assert in_tasks == trained.orders[None]
    assert [int(node.node_id) for node in ranked] == trained.orders[None]


def test_langchain_metadata_identifies_a_document_in_feedback(trained: Any) -> None:
    with Client(base_url=trained.url) as client:
        reader = client.for_user("langchain-reader")
        best = penchant.langchain.PenchantRerank(client=reader).compress_documents(
            documents(trained), trained.query
        )[0]
        receipt = reader.vote(value=1, rank_id=best.metadata["rank_id"], index=best.metadata["rank_index"])
        assert receipt.accepted == 1


@pytest.mark.parametrize("with_async_client", [True, False], ids=["async client", "thread"])
def test_langchain_async(trained: Any, user: str | None, with_async_client: bool) -> None:
    async def places() -> list[int]:
        async with AsyncClient(base_url=trained.url) as async_client:
            with Client(base_url=trained.url) as client:
                reranker = penchant.langchain.PenchantRerank(
                    client=client, async_client=async_client if with_async_client else None, user=user
                )
                ranked = await reranker.acompress_documents(documents(trained), trained.query)
        return [document.metadata["place"] for document in ranked]

    assert asyncio.run(places()) == trained.orders[user]


def test_llama_index(trained: Any, user: str | None) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(trained.documents)]
    with Client(base_url=trained.url) as client:
        reranker = penchant.llama_index.PenchantRerank(client=client, user=user, top_n=2)
        ranked = reranker.postprocess_nodes(nodes, QueryBundle(trained.query))
        assert reranker.postprocess_nodes([], QueryBundle(trained.query)) == []
        with pytest.raises(ValueError, match="needs a query"):
            reranker.postprocess_nodes(nodes)
    assert [int(node.node_id) for node in ranked] == trained.orders[user][:2]
    assert [node.score for node in ranked] == pytest.approx(
        [trained.scores[user][index] for index in trained.orders[user][:2]]
    )
