"""The server agrees with the library, given the same stored features and a save after each `learn` call."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.ranking.selection import probability_acceptable, probability_best, relevance
from penchant.models.taste.items import item_key
from penchant.models.taste.observations import Pair, Rating, Vote
from penchant.models.taste.posterior import UserPosterior
from penchant.models.testing import tiny_bundle
from penchant.service.ranking import scoring

TEXTS = [
    f"{'many words ' * n}about {topic}"
    for n, topic in enumerate(["boats", "trees", "rain", "bread", "sleep"])
]
PROMPT = "What shall we talk about?"


@pytest.fixture
def library():
    extractor = FeatureExtractor(HashingEncoder())
    return extractor, tiny_bundle(extractor).reward


def items(library, *texts):
    extractor, reward = library
    features = extractor.extract(texts, [PROMPT] * len(texts))
    return reward.describe(features.vectors, [item_key(PROMPT, text) for text in texts])


def test_the_server_agrees_with_the_library(client, library):
    _, reward = library
    posterior = UserPosterior.at_prior(reward.population)

    def learn(observation):
        return UserPosterior.from_bytes(posterior.learn(observation).to_bytes(), reward.population)

    events = []
    for n in range(24):
        a, b = TEXTS[n % 5], TEXTS[(3 * n + 1) % 5]
        common = {"user": "u", "prompt": PROMPT}
        if n % 3 == 0 and a != b:
            pair = items(library, a, b)
            posterior = learn(Pair(pair[0], pair[1], 0.8))
            events.append(common | {"type": "preference", "chosen": a, "rejected": b, "weight": 0.8})
        elif n % 3 == 1:
            posterior = learn(Vote(items(library, a), -1 if n % 2 else 1))
            events.append(common | {"type": "vote", "text": a, "value": -1 if n % 2 else 1})
        else:
            posterior = learn(Rating(items(library, b), n % 5 / 2 - 1, reward.rating_scale("stars")))
            events.append(
                common | {"type": "rating", "text": b, "value": 1 + n % 5, "scale": [1, 5], "source": "stars"}
            )
    assert client.post("/v1/feedback", json={"events": events[:20]}).json()["accepted"] == 20
    for event in events[20:]:
        assert client.post("/v1/feedback", json=event).json()["accepted"] == 1
    candidates = [*TEXTS, "something new", "something else that nobody has judged"]
    described = items(library, *candidates)
    for n in (1, 2, len(candidates)):
        ask = {"prompt": PROMPT, "candidates": candidates[:n], "user": "u"}
        results = sorted(client.post("/v1/best-of-n", json=ask).json()["results"], key=lambda r: r["index"])
        some = described[list(range(n))]
        for field, expected in (
            ("score", posterior.utility(some).mean),
            ("probability_best", probability_best(reward, posterior, some)),
            ("probability_acceptable", probability_acceptable(reward, posterior, some)),
        ):
            np.testing.assert_allclose([result[field] for result in results], expected, atol=1e-9)
    ask = {"query": PROMPT, "documents": candidates, "user": "u"}
    results = sorted(client.post("/v1/rerank", json=ask).json()["results"], key=lambda r: r["index"])
    scores = [result["relevance_score"] for result in results]
    np.testing.assert_allclose(scores, relevance(reward, posterior, described), atol=1e-9)
    stds = [result["score_std"] for result in results]
    np.testing.assert_allclose(stds, posterior.utility(described).std, atol=1e-9)


def test_judgements_of_an_unreliable_source_count_less(serve, library):
    """The bundle knows how often the labels of each source are wrong. Unknown sources get the default rate."""
    extractor, reward = library
    careless = replace(reward, flips={"default": 0.05, "clicks": 0.4})
    bundle = tiny_bundle(extractor)
    client = serve(bundle=Bundle(careless, bundle.manifest))
    a, b = TEXTS[0], TEXTS[3]
    common = {"type": "preference", "prompt": PROMPT, "chosen": a, "rejected": b}
    margins = {}
    for source, flip in (("clicks", 0.4), ("default", 0.05), ("unheard of", 0.05), (None, 0.05)):
        user = f"by {source}"
        event = common | {"user": user, "source": source}
        assert client.post("/v1/feedback", json={"events": [event] * 3}).json()["accepted"] == 3
        ask = {"text_1": PROMPT, "text_2": [a, b], "user": user}
        utilities = [row["score"] for row in client.post("/score", json=ask).json()["data"]]
        posterior = UserPosterior.at_prior(reward.population)
        for _ in range(3):
            posterior = posterior.learn(Pair(items(library, a), items(library, b), flip=flip))
        np.testing.assert_allclose(utilities, posterior.utility(items(library, a, b)).mean, atol=1e-6)
        margins[source] = utilities[0] - utilities[1]
    assert margins["clicks"] < margins["default"] == margins["unheard of"] == margins[None]


@pytest.mark.parametrize("n", [64, 65, 1000])
def test_many_candidates_are_ranked_like_few(client, library, n):
    _, reward = library
    candidates = [f"candidate {i} {'word ' * (i % 7)}" for i in range(n)]
    results = client.post("/v1/rerank", json={"query": PROMPT, "documents": candidates}).json()["results"]
    expected = relevance(reward, UserPosterior.at_prior(reward.population), items(library, *candidates))
    assert [result["index"] for result in results[:10]] == np.argsort(-expected, kind="stable")[:10].tolist()
    best = client.post("/v1/best-of-n", json={"prompt": PROMPT, "candidates": candidates}).json()["results"]
    assert sum(result["probability_best"] for result in best) == pytest.approx(1.0)


def test_utilities_that_are_not_finite_are_refused(client, monkeypatch):
    """An infinite utility has a finite probability, so the order alone would not reveal it."""
    original = scoring.scores

    def broken(*arguments):
        table = original(*arguments)
        table.mean[0, 0] = np.inf
        return table

    monkeypatch.setattr(scoring, "scores", broken)
    answer = client.post("/score", json={"text_1": "q", "text_2": ["a", "b"]})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
