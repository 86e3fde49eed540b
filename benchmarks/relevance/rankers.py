"""Who ranks and learns: a server through HTTP, or a model in this process."""

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.relevance.baselines import Order, order_by
from benchmarks.relevance.styles import Preference
from penchant.models.evaluation.few_shot import Catalogue, observe
from penchant.models.judgements.judgement import Judgement
from penchant.models.ranking.selection import relevance
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

RERANK: Final = "/v1/rerank"
FEEDBACK: Final = "/v1/feedback"
_TIMEOUT_SECONDS: Final = 120.0
_OK: Final = 200


class RequestFailedError(RuntimeError):
    """An error for a request that was not answered with 200, or for feedback that was not accepted."""


class Ranker(Protocol):
    """A source of rankings.

    Attributes:
        has_personalization: Whether `rank` can scale the user's departure from the population.
    """

    has_personalization: bool

    def rank(
        self,
        query: str,
        texts: Sequence[str],
        user: str | None = None,
        personalization: float | None = None,
    ) -> Order:
        """Return the order of texts, `[n]` indices with the best first.

        Args:
            query: The question. An empty string for none.
            texts: n texts.
            user: User id. None for the population.
            personalization: Share of the user's departure from the population. None for the default.
        """
        ...

    def learn(self, user: str, preferences: Sequence[Preference]) -> None:
        """Learn the judgements of a user."""
        ...


class ServedRanker:
    """A server on loopback, through one persistent connection.

    Args:
        port: Port of the server.

    Attributes:
        has_personalization: Whether the server's rerank route has the field `personalization`.
    """

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
        self.has_personalization = "personalization" in _rerank_fields(self._call("GET", "/openapi.json"))

    def rank(
        self,
        query: str,
        texts: Sequence[str],
        user: str | None = None,
        personalization: float | None = None,
    ) -> Order:
        """Return the order of texts, `[n]` indices with the best first.

        Raises:
            RequestFailedError: If the answer has another status than 200, or is not a ranking of all texts.
        """
        body: dict[str, Any] = {"query": query, "documents": list(texts)}
        if user is not None:
            body["user"] = user
        if personalization is not None:
            body["personalization"] = personalization
        order = [result["index"] for result in self._call("POST", RERANK, body)["results"]]
        if sorted(order) != list(range(len(texts))):
            raise RequestFailedError(f"{RERANK} ranked {len(order)} of {len(texts)} texts")
        return np.array(order, np.int64)

    def learn(self, user: str, preferences: Sequence[Preference]) -> None:
        """Send the judgements of a user in one request.

        Raises:
            RequestFailedError: If a judgement is not accepted.
        """
        events = []
        for number, preference in enumerate(preferences):
            event = {
                "event_id": f"{user}-{number}",
                "type": "preference",
                "user": user,
                "chosen": preference.chosen,
                "rejected": preference.rejected,
            }
            events.append(event | ({"prompt": preference.prompt} if preference.prompt else {}))
        answer = self._call("POST", FEEDBACK, {"events": events})
        if answer["accepted"] != len(events):
            raise RequestFailedError(f"{FEEDBACK} accepted {answer['accepted']} of {len(events)}: {answer}")

    def send(self, body: bytes) -> bytes:
        """Send a rerank request that is already serialised, and return the answer as it is.

        Raises:
            RequestFailedError: If the answer has another status than 200.
        """
        return self._send("POST", RERANK, body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content = self._send(method, path, None if body is None else json.dumps(body).encode())
        answer: dict[str, Any] = json.loads(content)
        return answer

    def _send(self, method: str, path: str, body: bytes | None) -> bytes:
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        content = response.read()
        if response.status != _OK:
            raise RequestFailedError(f"{method} {path}: {response.status} {content[:500]!r}")
        return content


def _rerank_fields(document: Mapping[str, Any]) -> set[str]:
    """Return the names of all fields of the rerank route's requests in an OpenAPI document."""
    schemas = document.get("components", {}).get("schemas", {})
    content = document["paths"][RERANK]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields: set[str] = set()
    waiting: list[Mapping[str, Any]] = [content]
    while waiting:
        schema = waiting.pop()
        fields |= set(schema.get("properties", {}))
        waiting += [part for key in ("anyOf", "oneOf", "allOf") for part in schema.get(key, [])]
        if "$ref" in schema:
            waiting.append(schemas[schema["$ref"].rpartition("/")[2]])
    return fields


class ModelRanker:
    """A reward model in this process, which ranks as the service does. It knows only the items that it was given.

    Args:
        reward: Reward model.
        vectors: Feature vector `[dim]` of every (prompt, text) that is ranked or judged.

    Attributes:
        has_personalization: False: the curve is measured through HTTP.
    """

    has_personalization = False

    def __init__(self, reward: RewardModel, vectors: Mapping[tuple[str, str], NDArray[np.float16]]) -> None:
        self._reward = reward
        self._catalogue = Catalogue(reward, vectors)
        self._population = UserPosterior.at_prior(reward.population)
        self._users: dict[str, UserPosterior] = {}

    def rank(
        self,
        query: str,
        texts: Sequence[str],
        user: str | None = None,
        personalization: float | None = None,
    ) -> Order:
        """Return the order of texts, `[n]` indices with the best first.

        Raises:
            KeyError: If an item has no vector.
            ValueError: If `personalization` is given.
        """
        if personalization is not None:
            raise ValueError("the model in this process ranks at the default personalization only")
        posterior = self._population if user is None else self._users.get(user, self._population)
        items = self._catalogue.select([(query, text) for text in texts])
        return order_by(relevance(self._reward, posterior, items))

    def learn(self, user: str, preferences: Sequence[Preference]) -> None:
        """Learn the judgements of a user.

        Raises:
            KeyError: If an item has no vector.
        """
        posterior = self._users.get(user, self._population)
        for preference in preferences:
            judgement = Judgement(user, preference.prompt, "pair", (preference.chosen, preference.rejected))
            observation = observe(judgement, self._reward, self._catalogue)
            if observation is not None:
                posterior = posterior.learn(observation)
        self._users[user] = posterior
