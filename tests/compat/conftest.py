"""Other projects' clients, unchanged, against this server: each must return the order of the user that it names."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from penchant import Client

QUERY = "Why does my chain squeak?"
DOCUMENTS = [
    "It is dry, so oil it.",
    "Wipe the chain with a rag, put one drop of oil on every roller, wait a few minutes, and wipe the rest off.",
    "Oil it.",
    "Oil is gone from inside the rollers: put some on, turn the pedals, wipe it off.",
]


@dataclass(frozen=True)
class TrainedServer:
    """A server that has learned two users with opposite tastes.

    Attributes:
        url: Address of the server.
        query: Query that is ranked for.
        documents: Documents that are ranked.
        orders: Indices of `documents`, best first, by user. None is the population.
        scores: Relevance score by index of the document, by user. None is the population.
    """

    url: str
    query: str
    documents: list[str]
    orders: dict[str | None, list[int]]
    scores: dict[str | None, dict[int, float]]

    def base_url(self, user: str | None) -> str:
        """Return the address with the user in its path, which every client preserves."""
        return self.url if user is None else f"{self.url}/users/{quote(user, safe='')}"


@pytest.fixture(scope="session", autouse=True)
def _disable_telemetry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LANGSMITH_TRACING", "false")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture(scope="session")
def trained(live: str) -> TrainedServer:
    orders: dict[str | None, list[int]] = {}
    scores: dict[str | None, dict[int, float]] = {}
    with Client(base_url=live) as client:
        by_length = sorted(DOCUMENTS, key=len)
        for user, best, worst in [
            ("long/ö", by_length[-1], by_length[0]),
            ("short", by_length[0], by_length[-1]),
        ]:
            event = {"type": "preference", "prompt": QUERY, "chosen": best, "rejected": worst}
            assert client.feedback(events=[event] * 30, user=user).accepted == 30
        for user in [None, "long/ö", "short"]:
            ranking = client.rerank(query=QUERY, documents=DOCUMENTS, user=user)
            orders[user] = ranking.order
            scores[user] = {r.index: r.relevance_score for r in ranking.results}
    # Three different orders, otherwise no test could tell the users apart.
    assert len({tuple(order) for order in orders.values()}) == 3
    return TrainedServer(live, QUERY, DOCUMENTS, orders, scores)


@pytest.fixture(params=[None, "long/ö", "short"], ids=["population", "long", "short"])
def user(request: pytest.FixtureRequest) -> str | None:
    return request.param
