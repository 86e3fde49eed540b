"""Clients written by others, unchanged, pointed at our base URL: they must find two users' two orders."""

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
class Taught:
    """A server that knows two users.

    Attributes:
        url: Its address.
        query: What is ranked for,
        documents: and what.
        orders: By user (None is the population), indices of `DOCUMENTS`, best first.
        scores: Likewise, relevance by index.
    """

    url: str
    query: str
    documents: list[str]
    orders: dict[str | None, list[int]]
    scores: dict[str | None, dict[int, float]]

    def base_url(self, user: str | None) -> str:
        """Address with the user in its path, the one channel that every client keeps."""
        return self.url if user is None else f"{self.url}/users/{quote(user, safe='')}"


@pytest.fixture(scope="session", autouse=True)
def _nobody_calls_home() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LANGSMITH_TRACING", "false")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture(scope="session")
def taught(live: str) -> Taught:
    orders: dict[str | None, list[int]] = {}
    scores: dict[str | None, dict[int, float]] = {}
    with Client(base_url=live) as client:
        ranked = sorted(DOCUMENTS, key=len)
        for user, best, worst in [("long/ö", ranked[-1], ranked[0]), ("short", ranked[0], ranked[-1])]:
            event = {"type": "preference", "prompt": QUERY, "chosen": best, "rejected": worst}
            assert client.feedback(events=[event] * 30, user=user).accepted == 30
        for who in [None, "long/ö", "short"]:
            ranking = client.rerank(query=QUERY, documents=DOCUMENTS, user=who)
            orders[who] = ranking.order
            scores[who] = {r.index: r.relevance_score for r in ranking.results}
    assert len({tuple(order) for order in orders.values()}) == 3  # or no test below could tell who was meant
    return Taught(live, QUERY, DOCUMENTS, orders, scores)


@pytest.fixture(params=[None, "long/ö", "short"], ids=["nobody", "long", "short"])
def user(request: pytest.FixtureRequest) -> str | None:
    return request.param
