"""The call of the LangChain adapter. Needs langchain-core."""

from collections.abc import Sequence

from langchain_core.documents import Document

from penchant._async.client import AsyncClient

__all__ = ["arerank_documents"]


async def arerank_documents(
    client: AsyncClient,
    documents: Sequence[Document],
    query: str,
    *,
    user: str | None,
    top_n: int | None,
    personalization: float | None,
) -> list[Document]:
    """Return copies of the documents in the user's order, with the score and the ranking in their metadata."""
    if not documents:
        return []
    texts = [document.page_content for document in documents]
    ranking = await client.rerank(
        query=query, documents=texts, user=user, top_n=top_n, personalization=personalization
    )
    ranked_documents = []
    for result in ranking.results:
        document = documents[result.index]
        metadata = {
            **document.metadata,
            "relevance_score": result.relevance_score,
            "rank_id": ranking.id,
            "rank_index": result.index,
        }
        ranked_documents.append(document.model_copy(update={"metadata": metadata}))
    return ranked_documents
