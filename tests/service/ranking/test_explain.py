"""Explanations of rankings and reasons of users, which agree with the responses without them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from penchant.models.bundle import Bundle
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.items import item_key
from penchant.models.taste.reward import ItemMemory
from penchant.models.taste.text_prior import LinearTextPrior
from penchant.models.testing import tiny_bundle
from penchant.service.api.answers.users import UserResponse
from penchant.service.api.dialects.best_of_n import BestOfNResponse
from penchant.service.api.dialects.cohere import RerankResponse
from penchant.service.api.dialects.tei import TeiResult
from penchant.service.api.dialects.vllm import ScoreResponse

DOCUMENTS = ["a short one", "quite a different text about boats", "boats, boats and more boats " * 9, "x"]
RERANK = {"query": "q", "documents": DOCUMENTS, "user": "u"}
TEI = {"query": "q", "texts": DOCUMENTS, "user": "u"}
SCORE = {"text_1": "q", "text_2": DOCUMENTS, "user": "u"}
BEST = {"prompt": "q", "candidates": DOCUMENTS, "user": "u"}
REQUESTS = [("/v1/rerank", RERANK), ("/v2/rerank", RERANK), ("/rerank", RERANK), ("/rerank", TEI)]
REQUESTS += [("/score", SCORE), ("/v1/score", SCORE), ("/v1/best-of-n", BEST)]
SHAPES = {
    "/v1/rerank": RerankResponse,
    "/v2/rerank": RerankResponse,
    "/rerank": RerankResponse | list[TeiResult],
    "/score": ScoreResponse,
    "/v1/score": ScoreResponse,
    "/v1/best-of-n": BestOfNResponse,
}


def ask(client, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def rows(answer):
    """Return the results of a response in any dialect."""
    return answer if isinstance(answer, list) else answer.get("results", answer.get("data"))


def teach(client, user="u", n=6, **more):
    for i in range(n):
        long, short = f"many words {i} " * 12, f"few {i}"
        event = {
            "type": "preference",
            "user": user,
            "chosen": long,
            "rejected": short,
            "event_id": f"{user}{i}",
        }
        answer = client.post("/v1/feedback", json=event | more)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_explanations_change_nothing_else_in_a_response(client, path, body):
    teach(client)
    plain, explained = ask(client, path, body), ask(client, path, body | {"explain": True})
    TypeAdapter(SHAPES[path]).validate_python(explained)
    assert all("explanation" not in row for row in rows(plain))
    assert len(rows(explained)) == len(DOCUMENTS)
    for row, other in zip(rows(explained), rows(plain), strict=True):
        assert row.pop("explanation")
        assert list(row.items()) == list(other.items())
    for off in (None, False):
        assert rows(ask(client, path, body | {"explain": off})) == rows(plain)


@pytest.mark.parametrize("user", ["u", None])
def test_parts_add_up_to_the_utility(client, user):
    teach(client)
    for row in ask(client, "/score", SCORE | {"user": user, "explain": True})["data"]:
        why = row["explanation"]
        assert sum(part["value"] for part in why["parts"]) == pytest.approx(row["score"], abs=1e-9)
        assert why["utility"] == pytest.approx(row["score"], abs=1e-9)
        assert why["std"] == pytest.approx(row["std"], abs=1e-9)
        shared = sum(part["value"] for part in why["parts"] if not part["personal"])
        assert shared == pytest.approx(why["population_utility"], abs=1e-9)
        assert sum(part["value"] for part in why["moved"]) == pytest.approx(why["shift"], abs=1e-9)
        assert all(part["personal"] for part in why["moved"])


def test_population_utility_and_rank_match_a_request_without_user(client):
    teach(client)
    personal = ask(client, "/score", SCORE | {"explain": True})["data"]
    population = ask(client, "/score", SCORE | {"user": None})["data"]
    ranks = [r["index"] for r in ask(client, "/v1/rerank", RERANK | {"user": None})["results"]]
    for row, other in zip(personal, population, strict=True):
        assert row["explanation"]["population_utility"] == pytest.approx(other["score"], abs=1e-9)
        assert row["explanation"]["population_rank"] == 1 + ranks.index(row["index"])


def test_shift_reflects_the_feedback_of_the_user(client):
    teach(client)
    why = {
        row["index"]: row["explanation"] for row in ask(client, "/score", SCORE | {"explain": True})["data"]
    }
    assert why[2]["shift"] > 0 > why[3]["shift"]  # the longest and the shortest
    assert why[2]["probability_up"] > 0.5 > why[3]["probability_up"]
    length = next(part for part in why[2]["moved"] if part["name"] == "length")
    assert length["value"] > 0
    assert length["std"] > 0
    assert length["label"]


def test_shift_is_zero_for_a_user_without_feedback(client):
    for row in ask(client, "/score", SCORE | {"explain": True})["data"]:
        assert row["explanation"]["shift"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("top_n", "length"), [(None, 4), (0, 4), (2, 2), (9, 4)])
def test_every_returned_result_is_explained(client, top_n, length):
    teach(client)
    results = ask(client, "/v1/rerank", RERANK | {"top_n": top_n, "explain": True})["results"]
    assert [bool(result["explanation"]) for result in results] == [True] * length
    all_of_them = ask(client, "/v1/rerank", RERANK | {"explain": True})["results"]
    assert results == all_of_them[:length]  # compared with all candidates, not only the returned ones


def test_best_is_explained_even_if_it_is_not_first(client):
    teach(client)
    chances = [r["probability_acceptable"] for r in ask(client, "/v1/best-of-n", BEST)["results"]]
    threshold = max(chances)
    answer = ask(
        client, "/v1/best-of-n", BEST | {"accept_threshold": threshold, "n_return": 1, "explain": True}
    )
    assert answer["best"]["probability_acceptable"] == threshold
    assert answer["best"]["explanation"]["parts"]
    assert len(answer["results"]) == 1


def test_explanations_do_not_encode_texts_again(client, encoder):
    ask(client, "/v1/rerank", RERANK)
    encoder.calls.clear()
    ask(client, "/v1/rerank", RERANK | {"explain": True})
    assert encoder.calls == []


def test_explanations_work_without_caches(serve):
    expected = ask(serve(), "/score", SCORE | {"explain": True})["data"]
    bare = serve(feature_cache_bytes=0, item_cache_bytes=0)
    for row, other in zip(ask(bare, "/score", SCORE | {"explain": True})["data"], expected, strict=True):
        assert row["explanation"]["utility"] == pytest.approx(other["explanation"]["utility"], abs=1e-6)


def test_each_text_is_explained_as_an_answer_to_its_own_prompt(serve):
    """The item memory is keyed by prompt and text, so the same text has a memory part for one prompt only."""
    extractor = FeatureExtractor(HashingEncoder())
    bundle = tiny_bundle(extractor)
    m = bundle.reward.text_prior.weights.shape[1]
    memory = ItemMemory({item_key("p", "t"): 0}, np.full((1, m), 3.0), np.full((1, m), 0.01))
    client = serve(bundle=Bundle(replace(bundle.reward, memory=memory), bundle.manifest))
    body = {"text_1": ["p", "q"], "text_2": ["t", "t"], "explain": True}
    remembered, unknown = (row["explanation"] for row in ask(client, "/score", body)["data"])
    assert "memory" in [part["name"] for part in remembered["parts"]]
    assert "memory" not in [part["name"] for part in unknown["parts"]]


@dataclass(frozen=True)
class Opaque:
    """A text prior that does not show that it is linear."""

    inner: LinearTextPrior

    @property
    def standardiser(self):
        return self.inner.standardiser

    def predict(self, x):
        return self.inner.predict(x)

    def arrays(self):
        return self.inner.arrays()


def test_explain_is_refused_if_the_text_prior_is_not_linear(serve):
    bundle = tiny_bundle(FeatureExtractor(HashingEncoder()))
    opaque = replace(bundle.reward, text_prior=Opaque(bundle.reward.text_prior))
    client = serve(bundle=Bundle(opaque, bundle.manifest))
    teach(client, n=1)
    assert ask(client, "/v1/rerank", RERANK)["results"]
    for path, body in REQUESTS:
        answer = client.post(path, json=body | {"explain": True})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/explain")
    assert UserResponse.model_validate(client.get("/v1/users/u").json()).reasons is None


def get_reasons(client, user="u"):
    reasons = UserResponse.model_validate(client.get(f"/v1/users/{user}").json()).reasons
    assert reasons is not None
    return reasons


def test_the_reasons_of_a_user(client):
    teach(client, n=12, prompt="p", source="tests")
    reasons = get_reasons(client)
    assert reasons.judged_texts == 24
    length = next(attribute for attribute in reasons.attributes if attribute.name == "length")
    assert length.effect > 0
    assert length.probability > 0.9
    assert length.std > 0
    assert {attribute.name for attribute in reasons.attributes} <= set(ATTRIBUTE_NAMES)
    assert 0 <= reasons.named_share <= 1
    values = [text.value for text in reasons.texts]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0 > values[-1]
    assert {text.prompt for text in reasons.texts} == {"p"}
    assert reasons.texts[0].text.startswith("many words")
    assert reasons.texts[-1].text.startswith("few")
    event = next(
        entry["event"]
        for entry in client.get("/v1/users/u/feedback", params={"limit": 100}).json()["data"]
        if entry["event_id"] == reasons.texts[0].event_id
    )
    assert reasons.texts[0].text == event["chosen"]


def test_reasons_name_no_further_texts_when_they_are_long(client, monkeypatch):
    teach(client, n=12, prompt="p", source="tests")
    first, *others = get_reasons(client).texts
    assert others
    monkeypatch.setattr("penchant.service.ranking.explaining.MAX_EXAMPLE_CHARS", 1)
    assert get_reasons(client).texts == [first]


def test_opposite_users_have_opposite_reasons(client):
    teach(client, "tall")
    for i in range(6):
        event = {
            "type": "preference",
            "user": "small",
            "chosen": f"few {i}",
            "rejected": f"many words {i} " * 12,
        }
        client.post("/v1/feedback", json=event)
    effects = [
        next(a.effect for a in get_reasons(client, user).attributes if a.name == "length")
        for user in ("tall", "small")
    ]
    assert effects[0] > 0 > effects[1]


def test_reasons_use_texts_of_every_kind_of_event(client):
    def events(n):
        long = f"many words {n} " * 9
        yield {"type": "vote", "text": f"voted {long}", "value": 1}
        yield {"type": "rating", "text": f"rated {n}", "value": 1, "scale": [1, 5]}
        yield {"type": "choice", "candidates": [f"passed {n}", f"picked {long}"], "index": 1}
        yield {"type": "ranking", "order": [[f"ranked {long}"], [f"tied {n}", f"too {n}"]]}
        yield {"type": "edit", "original": f"before {n}", "edited": f"after {long}"}

    prompts = {"voted": "p0", "rated": "p1", "passed": "p2", "picked": "p2", "ranked": "p3", "tied": "p3"}
    prompts |= {"too": "p3", "before": "p4", "after": "p4"}
    for n in range(8):
        body = {"events": [event | {"user": "u", "prompt": f"p{i}"} for i, event in enumerate(events(n))]}
        assert client.post("/v1/feedback", json=body).json()["accepted"] == 5
    reasons = get_reasons(client)
    assert reasons.judged_texts == 72
    assert reasons.texts
    assert all(prompts[text.text.split()[0]] == text.prompt for text in reasons.texts)


def test_reasons_use_only_the_newest_texts(client):
    events = [{"type": "vote", "user": "u", "text": f"{'old ' * (i % 9)}{i}", "value": 1} for i in range(150)]
    events += [
        {"type": "preference", "user": "u", "chosen": f"{'new ' * (i % 9)}{i}", "rejected": f"other {i}"}
        for i in range(150)
    ]
    for start in range(0, 300, 100):
        assert client.post("/v1/feedback", json={"events": events[start : start + 100]}).status_code == 200
    reasons = get_reasons(client)
    assert reasons.judged_texts == 200
    assert all(not text.text.startswith("old") for text in reasons.texts)


def test_retracted_texts_are_no_examples(client):
    teach(client, n=4)
    client.post(
        "/v1/feedback",
        json={"type": "vote", "user": "u", "text": "secret " * 90, "value": 1, "event_id": "s"},
    )
    assert any("secret" in text.text for text in get_reasons(client).texts)
    undo = {"type": "retract", "user": "u", "target_event_id": "s", "event_id": "r"}
    client.post("/v1/feedback", json=undo)
    assert get_reasons(client).judged_texts == 8
    assert not any("secret" in text.text for text in get_reasons(client).texts)
    client.post("/v1/feedback", json=undo | {"target_event_id": "r", "event_id": "rr"})
    assert any("secret" in text.text for text in get_reasons(client).texts)


def test_a_user_without_judgements_in_force_has_no_reasons(client):
    teach(client, n=2)
    for target in ("u0", "u1"):
        client.post("/v1/feedback", json={"type": "retract", "user": "u", "target_event_id": target})
    reasons = get_reasons(client)
    assert (reasons.judged_texts, reasons.texts) == (0, [])
    assert not any(attribute.told for attribute in reasons.attributes)
    assert all(attribute.effect == pytest.approx(0, abs=1e-12) for attribute in reasons.attributes)


def test_reasons_fade_with_forgetting(serve, clock):
    client = serve(forgetting_half_life_days=10)
    teach(client)

    def effect():
        return next(a.effect for a in get_reasons(client).attributes if a.name == "length")

    before = effect()
    clock.now += 30 * 86_400
    assert 0 < effect() < before
