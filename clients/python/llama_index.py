"""LlamaIndex: a node postprocessor that puts a user's nodes in that user's order.

Needs llama-index-core, which ``import penchant`` does not load.
"""

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import ConfigDict

from penchant._client import Client

__all__ = ["PenchantRerank"]


class PenchantRerank(BaseNodePostprocessor):
    """Ranks nodes for one user; a node's score becomes its relevance score.

    Attributes:
        client: The penchant client.
        user: Whose taste; without one the client's own (`Client.for_user`), else the population's.
        top_n: How many to keep; all unless given.
    """

    client: Client
    user: str | None = None
    top_n: int | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex stores."""
        return "PenchantRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("which query? PenchantRerank needs a query bundle")
        if not nodes:
            return []
        texts = [node.node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        ranking = self.client.rerank(
            query=query_bundle.query_str, documents=texts, user=self.user, top_n=self.top_n
        )
        return [
            NodeWithScore(node=nodes[result.index].node, score=result.relevance_score)
            for result in ranking.results
        ]
