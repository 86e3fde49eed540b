"""A LangChain document compressor that puts documents into a user's order of preference.

Needs langchain-core, which ``import penchant`` does not load.
"""

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from penchant._async.client import AsyncClient
from penchant._async.langchain import arerank_documents
from penchant._sync.client import Client
from penchant._sync.langchain import rerank_documents

__all__ = ["PenchantRerank"]


class PenchantRerank(BaseDocumentCompressor):
    """Ranks documents for one user.

        compressor = PenchantRerank(client=Client(), user="ana", top_n=5)
        documents = compressor.compress_documents(retriever.invoke(question), question)

    Each returned document is a copy whose metadata also holds ``relevance_score``, and ``rank_id`` and ``rank_index``
    for feedback on it.

    Attributes:
        client: Client that `compress_documents` calls.
        async_client: Client that `acompress_documents` calls. If None, `compress_documents` runs in a thread instead.
        user: User whose taste counts. Defaults to the client's user (`Client.for_user`), else to the population.
        top_n: Number of documents to keep. Defaults to all.
        personalization: How far the order departs from the population's towards the user's, from 0 to 1. Defaults to the
            server's setting.
    """

    client: Client
    async_client: AsyncClient | None = None
    user: str | None = None
    top_n: int | None = None
    personalization: float | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks = None,  # noqa: ARG002 (LangChain's signature)
    ) -> Sequence[Document]:
        """Return the documents in the user's order, best first."""
        return rerank_documents(
            self.client,
            documents,
            query,
            user=self.user,
            top_n=self.top_n,
            personalization=self.personalization,
        )

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> Sequence[Document]:
        """Return the documents in the user's order, best first."""
        if self.async_client is None:
            return await super().acompress_documents(documents, query, callbacks)
        return await arerank_documents(
            self.async_client,
            documents,
            query,
            user=self.user,
            top_n=self.top_n,
            personalization=self.personalization,
        )
