"""LangChain: a document compressor that puts a user's documents in that user's order.

Needs langchain-core, which ``import penchant`` does not load.
"""

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from penchant._async_client import AsyncClient
from penchant._client import Client
from penchant._responses import Ranking

__all__ = ["PenchantRerank"]


class PenchantRerank(BaseDocumentCompressor):
    """Ranks documents for one user; the score joins each document's metadata as ``relevance_score``.

    Attributes:
        client: For `compress_documents`.
        async_client: For `acompress_documents`; without one, that runs the other in a thread.
        user: Whose taste; without one the clients' own (`Client.for_user`), else the population's.
        top_n: How many to keep; all unless given.
    """

    client: Client
    async_client: AsyncClient | None = None
    user: str | None = None
    top_n: int | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks = None,  # noqa: ARG002 (LangChain's signature)
    ) -> Sequence[Document]:
        """The documents in the user's order, best first."""
        if not documents:
            return []
        texts = [document.page_content for document in documents]
        ranking = self.client.rerank(query=query, documents=texts, user=self.user, top_n=self.top_n)
        return _reordered(documents, ranking)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> Sequence[Document]:
        """As `compress_documents`."""
        if self.async_client is None or not documents:
            return await super().acompress_documents(documents, query, callbacks)
        texts = [document.page_content for document in documents]
        ranking = await self.async_client.rerank(
            query=query, documents=texts, user=self.user, top_n=self.top_n
        )
        return _reordered(documents, ranking)


def _reordered(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    """Copies, so that a cache's documents keep their metadata; ``rank_id`` is for feedback."""
    found = []
    for result in ranking.results:
        document = documents[result.index]
        scored = {
            "relevance_score": result.relevance_score,
            "rank_id": ranking.id,
            "rank_index": result.index,
        }
        found.append(document.model_copy(update={"metadata": {**document.metadata, **scored}}))
    return found
