"""A LlamaIndex node postprocessor that puts nodes into a user's order of preference.

Needs llama-index-core, which ``import penchant`` does not load.
"""

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import ConfigDict

from penchant._sync.client import Client

__all__ = ["PenchantRerank"]


class PenchantRerank(BaseNodePostprocessor):
    """Ranks nodes for one user. The score of each node becomes its relevance score.

        reranker = PenchantRerank(client=Client(), user="ana", top_n=5)
        engine = index.as_query_engine(node_postprocessors=[reranker])

    Attributes:
        client: Client that sends the requests.
        user: User whose taste counts. Defaults to the client's user (`Client.for_user`), else to the population.
        top_n: Number of nodes to keep. Defaults to all.
        personalization: How far the order departs from the population's towards the user's, from 0 to 1. Defaults to the
            server's setting.
    """

    client: Client
    user: str | None = None
    top_n: int | None = None
    personalization: float | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises the class."""
        return "PenchantRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("PenchantRerank needs a query. Pass `query_bundle` or `query_str`.")
        if not nodes:
            return []
        texts = [node.node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        ranking = self.client.rerank(
            query=query_bundle.query_str,
            documents=texts,
            user=self.user,
            top_n=self.top_n,
            personalization=self.personalization,
        )
        return [
            NodeWithScore(node=nodes[result.index].node, score=result.relevance_score)
            for result in ranking.results
        ]
