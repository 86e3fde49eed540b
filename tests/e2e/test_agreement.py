"""What the server has learned through HTTP is what the library learns from the same judgements."""

import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from penchant.models.encoder import HashingEncoder
from penchant.models.features import FeatureExtractor
from penchant.models.likelihood import Pair, Rating, Vote
from penchant.models.posterior import UserPosterior
from penchant.models.reward import item_key
from penchant.models.selection import probability_acceptable, probability_best
from penchant.models.testing import tiny_bundle

PROMPT = "Say something."
WORDS = [
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "inlet",
    "knoll",
    "ledge",
    "marsh",
]


def texts(rng: random.Random, n: int) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, 20))) for _ in range(n)]


def events(rng: random.Random, n: int) -> list[dict]:
    made = []
    for _ in range(n):
        a, b = texts(rng, 2)
        kind = rng.choice(["preference", "vote", "rating"])
        common = {"type": kind, "prompt": PROMPT, "weight": rng.choice([1.0, 0.5])}
        if kind == "preference":
            made.append(common | {"chosen": a, "rejected": b})
        elif kind == "vote":
            made.append(common | {"text": a, "value": rng.choice([1, -1])})
        else:
            made.append(common | {"text": a, "value": rng.randint(1, 5), "scale": [1, 5]})
    return made


@pytest.mark.parametrize("n_events", [3, 40])
def test_best_of_n_agrees_with_the_library(server, tmp_path: Path, n_events: int):
    rng = random.Random(n_events)
    said = events(rng, n_events)
    pairs = [texts(rng, 2) for _ in range(10)]
    with server.client() as client:
        answer = client.post("/v1/feedback", json={"events": [event | {"user": "ana"} for event in said]})
        assert answer.json()["accepted"] == n_events
        served = [
            client.post("/v1/best-of-n", json={"user": "ana", "prompt": PROMPT, "candidates": pair}).json()[
                "results"
            ]
            for pair in pairs
        ]

    extractor = FeatureExtractor(HashingEncoder())
    reward = tiny_bundle(extractor).reward
    with sqlite3.connect(f"file:{tmp_path / 'data' / 'penchant.sqlite3'}?mode=ro", uri=True) as connection:
        stored = {
            key: np.frombuffer(vector, "<f2")
            for key, vector in connection.execute("SELECT feature_key, vector FROM features")
        }
    connection.close()

    def items(judged: list[str]):
        vectors = np.stack([stored[extractor.key(text, PROMPT)] for text in judged])
        return reward.describe(vectors, [item_key(PROMPT, text) for text in judged])

    user = UserPosterior.at_prior(reward.population)
    for event in said:
        match event["type"]:
            case "preference":
                both = items([event["chosen"], event["rejected"]])
                user = user.learn(Pair(both[0], both[1], event["weight"]))
            case "vote":
                user = user.learn(Vote(items([event["text"]]), event["value"], event["weight"]))
            case _:
                value = (event["value"] - 3) / 2
                user = user.learn(
                    Rating(items([event["text"]]), value, reward.rating_scale(), event["weight"])
                )

    for pair, results in zip(pairs, served, strict=True):
        candidates = reward.describe(
            extractor.extract(pair).vectors, [item_key(PROMPT, text) for text in pair]
        )
        by_index = sorted(results, key=lambda result: result["index"])
        best = [result["probability_best"] for result in by_index]
        acceptable = [result["probability_acceptable"] for result in by_index]
        np.testing.assert_allclose(best, probability_best(reward, user, candidates), atol=1e-6, rtol=0)
        np.testing.assert_allclose(
            acceptable, probability_acceptable(reward, user, candidates), atol=1e-6, rtol=0
        )
