"""Choices, rankings, edits and strengths: what they mean, what they refer to, and what the log keeps of them."""

import numpy as np
import pytest

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.judgements.base import edit_weight
from penchant.models.taste.items import item_key
from penchant.models.taste.observations import Pair, Ranking
from penchant.models.taste.posterior import UserPosterior
from penchant.models.testing import tiny_bundle

PROMPT = "What shall we talk about?"
TEXTS = [
    "boats",
    "trees and many other plants",
    "rain, rain and then more rain",
    "bread",
    "sleep is long " * 9,
]


def send(client, *events, status=200, **arguments):
    body = events[0] if len(events) == 1 else {"events": list(events)}
    answer = client.post("/v1/feedback", json=body, **arguments)
    assert answer.status_code == status, answer.text
    return answer.json()


def utilities(client, user, texts=TEXTS):
    body = {"text_1": PROMPT, "text_2": texts, "user": user}
    return [row["score"] for row in client.post("/score", json=body).json()["data"]]


def logged(client, user):
    return client.get(f"/v1/users/{user}/feedback").json()["data"][-1]["event"]


def show(client, user=None, texts=TEXTS, **more):
    body = {"query": PROMPT, "documents": texts, "user": user} | more
    return client.post("/v1/rerank", json=body).json()["id"]


@pytest.fixture(scope="module")
def reward():
    return tiny_bundle(FeatureExtractor(HashingEncoder())).reward


@pytest.fixture(scope="module")
def items(reward):
    def described(*texts, prompt=PROMPT):
        features = FeatureExtractor(HashingEncoder()).extract(texts, [prompt] * len(texts))
        return reward.describe(features.vectors, [item_key(prompt, text) for text in texts])

    return described


def learned(reward, items, *observations):
    """Utilities of `TEXTS` after these observations, by the library alone."""
    posterior = UserPosterior.at_prior(reward.population)
    for observation in observations:
        posterior = posterior.learn(observation)
    return posterior.utility(items(*TEXTS)).mean


CHOICE = {"type": "choice", "user": "u", "prompt": PROMPT, "candidates": TEXTS, "index": 2}
RANKING = {
    "type": "ranking",
    "user": "u",
    "prompt": PROMPT,
    "order": [[TEXTS[3]], [TEXTS[0], TEXTS[4]], [TEXTS[1]]],
}
EDIT = {"type": "edit", "user": "u", "prompt": PROMPT, "original": TEXTS[4], "edited": "sleep is short"}


def test_a_choice_is_the_likelihood_s_choice(client, reward, items):
    send(client, CHOICE)
    chosen_first = items(TEXTS[2], TEXTS[0], TEXTS[1], TEXTS[3], TEXTS[4])
    expected = learned(reward, items, Ranking(chosen_first, (1, 4)))
    np.testing.assert_allclose(utilities(client, "u"), expected, atol=1e-6)
    after, before = utilities(client, "u"), utilities(client, None)
    assert after[2] - np.mean(after) > before[2] - np.mean(before)


def test_a_choice_of_two_says_what_a_preference_says(client):
    pair = TEXTS[:2]
    send(client, CHOICE | {"candidates": pair, "index": 1})
    send(
        client, {"type": "preference", "user": "v", "prompt": PROMPT, "chosen": pair[1], "rejected": pair[0]}
    )
    np.testing.assert_allclose(utilities(client, "u"), utilities(client, "v"), atol=1e-6)


def test_a_ranking_with_ties_is_the_likelihood_s_ranking(client, reward, items):
    send(client, RANKING)
    expected = learned(reward, items, Ranking(items(TEXTS[3], TEXTS[0], TEXTS[4], TEXTS[1]), (1, 2, 1)))
    np.testing.assert_allclose(utilities(client, "u"), expected, atol=1e-6)


def test_a_ranking_of_two_says_what_a_preference_says(client):
    send(client, RANKING | {"order": [[TEXTS[1]], [TEXTS[0]]]})
    chosen = {"chosen": TEXTS[1], "rejected": TEXTS[0]}
    send(client, {"type": "preference", "user": "v", "prompt": PROMPT, **chosen})
    np.testing.assert_allclose(utilities(client, "u"), utilities(client, "v"), atol=1e-6)


def test_texts_that_are_all_tied_say_nothing(client):
    body = send(client, RANKING | {"order": [TEXTS]})
    assert body["users"] == [{"user": "u", "posterior_version": 1, "feedback_events": 1}]
    assert utilities(client, "u") == utilities(client, None)


def test_an_edit_counts_by_how_much_it_changed(client, reward, items):
    send(client, EDIT)
    weight = edit_weight(EDIT["original"], EDIT["edited"])
    edited, original = items(EDIT["edited"]), items(EDIT["original"])
    np.testing.assert_allclose(
        utilities(client, "u"), learned(reward, items, Pair(edited, original, weight)), atol=1e-6
    )
    send(client, EDIT | {"user": "half", "weight": 0.5})
    np.testing.assert_allclose(
        utilities(client, "half"), learned(reward, items, Pair(edited, original, weight / 2)), atol=1e-6
    )


def test_an_edit_s_prompt_is_its_context(client, encoder):
    send(client, EDIT)
    send(client, EDIT | {"user": "v", "prompt": None})
    assert logged(client, "u")["prompt"] == PROMPT
    assert "prompt" not in logged(client, "v")


def test_an_edit_that_changes_nothing_teaches_nothing(client):
    body = send(client, EDIT | {"edited": EDIT["original"], "event_id": "e"})
    assert (body["accepted"], body["rejected"]) == (1, [])
    assert utilities(client, "u") == utilities(client, None)
    user = client.get("/v1/users/u").json()
    assert (user["feedback_events"], user["posterior_version"], user["state"]) == (1, 1, "population")
    assert logged(client, "u")["edited"] == EDIT["original"]
    assert send(client, EDIT | {"edited": EDIT["original"], "event_id": "e"})["duplicates"] == 1


def test_a_long_edit_is_compared_too(client):
    """Off the event loop, with the same result."""
    words = "word " * 2000
    send(client, EDIT | {"original": words, "edited": words[:2000]})
    send(client, EDIT | {"user": "v", "original": words, "edited": words})
    assert utilities(client, "u") != utilities(client, None) == utilities(client, "v")


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_the_strength_of_a_preference_scales_it(client, reward, items, strength):
    event = {"type": "preference", "user": "u", "prompt": PROMPT, "chosen": TEXTS[0], "rejected": TEXTS[4]}
    send(client, event | {"strength": strength, "weight": 0.5})
    pair = Pair(items(TEXTS[0]), items(TEXTS[4]), 0.5 * strength)
    np.testing.assert_allclose(utilities(client, "u"), learned(reward, items, pair), atol=1e-6)
    assert logged(client, "u")["strength"] == strength


def test_a_choice_from_a_ranking_says_what_its_candidates_say(client, encoder):
    rank_id = show(client, "u")
    encoder.calls.clear()
    send(client, {"type": "choice", "rank_id": rank_id, "index": 2})
    send(client, CHOICE | {"user": "v"})
    assert utilities(client, "u") == utilities(client, "v")
    assert encoder.calls == []
    event = logged(client, "u")
    assert (event["prompt"], event["chosen"], event["index"]) == (PROMPT, TEXTS[2], 2)
    assert event["others"] == [TEXTS[0], TEXTS[1], TEXTS[3], TEXTS[4]]


@pytest.mark.parametrize("seen", [[0, 2], [2, 0], [0]])
def test_a_choice_is_among_those_that_were_seen(client, seen):
    send(client, {"type": "choice", "rank_id": show(client, "u"), "index": 2, "seen": seen})
    send(client, CHOICE | {"user": "v", "candidates": [TEXTS[2], TEXTS[0]], "index": 0})
    assert utilities(client, "u") == utilities(client, "v")
    assert logged(client, "u")["others"] == [TEXTS[0]]


@pytest.mark.parametrize("choice", [{"seen": []}, {"seen": [1]}, {"rank": ["alone"], "index": 0}])
def test_a_choice_among_one_teaches_nothing(client, choice):
    choice = {"index": 1} | choice
    rank_id = show(client, "u", choice.pop("rank", TEXTS))
    body = send(client, {"type": "choice", "rank_id": rank_id, **choice})
    assert body["users"][0]["feedback_events"] == 1
    assert utilities(client, "u") == utilities(client, None)


def test_a_text_that_was_shown_twice_was_one_thing_to_choose(client):
    rank_id = show(client, "u", [TEXTS[0], TEXTS[2], TEXTS[0], TEXTS[2]])
    send(client, {"type": "choice", "rank_id": rank_id, "index": 3})
    send(client, CHOICE | {"user": "v", "candidates": [TEXTS[0], TEXTS[2]], "index": 1})
    assert utilities(client, "u") == utilities(client, "v")


def test_candidates_may_be_sent_beside_a_ranking_s_id(client):
    send(client, CHOICE | {"rank_id": "rank_of_long_ago"})
    assert logged(client, "u")["rank_id"] == "rank_of_long_ago"


def refused(client, event, pointer, code="validation_failed", status=422):
    problem = send(client, event, status=status)
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer), problem
    return problem["detail"]


def test_what_a_ranking_cannot_tell_of_a_choice(client):
    rank_id = show(client, "u")
    choice = {"type": "choice", "rank_id": rank_id, "index": 2}
    refused(client, choice | {"index": 5}, "/index")
    refused(client, choice | {"seen": [0, 5]}, "/seen/1")
    refused(client, choice | {"user": "v"}, "/user", "user_conflict", 400)
    refused(client, choice | {"rank_id": "rank_nothing", "user": "u"}, "/rank_id", "rank_not_found", 404)
    asked = {"text_1": ["p", "q"], "text_2": ["a", "b"], "user": "u"}
    pairs = client.post("/score", json=asked).json()["id"]
    assert "different prompts" in refused(client, choice | {"rank_id": pairs, "index": 0}, "/rank_id")
    assert client.get("/v1/users/u").status_code == 404


def test_limits_name_the_field_and_the_limit(serve):
    client = serve(max_event_texts=3, max_text_chars=40, max_edit_chars=30)
    assert "5 texts; the limit is 3" in refused(client, CHOICE | {"candidates": list("abcde")}, "/candidates")
    five = {"order": [["a"], ["b", "c", "d"], ["e"]]}
    assert "5 texts; the limit is 3" in refused(client, RANKING | five, "/order")
    rank_id = show(client, "u", list("abcde"))
    choice = {"type": "choice", "rank_id": rank_id, "index": 0}
    assert "showed 5 texts; the limit for one event is 3" in refused(client, choice, "/seen")
    assert send(client, choice | {"seen": [1, 2]})["accepted"] == 1
    assert "41 characters; the limit is 40" in refused(
        client, CHOICE | {"candidates": ["a", "b" * 41]}, "/candidates/1"
    )
    assert "41 characters; the limit is 40" in refused(
        client, RANKING | {"order": [["a"], ["b", "c" * 41]]}, "/order/1/1"
    )
    assert "31 characters; the limit is 30" in refused(
        client, EDIT | {"original": "a", "edited": "b" * 31}, "/edited"
    )
    limits = client.get("/v1/models").json()["data"][0]["limits"]
    assert limits["max_event_texts"] == 3


def test_a_request_can_judge_so_many_texts(serve):
    client = serve(max_feedback_texts=9)
    two = CHOICE | {"candidates": TEXTS[:4], "index": 0}, RANKING | {"order": [TEXTS]}
    assert send(client, *two)["accepted"] == 2
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    problem = send(client, *two, vote, status=422)
    assert "10 texts; the limit for one request is 9" in problem["detail"]
    assert problem["errors"][0]["pointer"] == "/events"
    assert client.get("/v1/users/u").json()["feedback_events"] == 2


def test_everything_is_known_after_a_restart_and_counted_once(serve):
    client = serve()
    events = [
        CHOICE | {"event_id": "c"},
        RANKING | {"event_id": "r"},
        EDIT | {"event_id": "e"},
        {"type": "retract", "user": "u", "target_event_id": "r", "event_id": "t"},
    ]
    assert send(client, *events)["accepted"] == 4
    before = utilities(client, "u")
    client = serve()
    assert utilities(client, "u") == before
    assert send(client, events[0], events[2], events[3])["duplicates"] == 3
    assert client.get("/v1/users/u").json()["feedback_events"] == 4
    page = client.get("/v1/users/u/feedback").json()["data"]
    assert [entry["event"]["type"] for entry in page] == ["choice", "ranking", "edit", "retract"]
    kept = [{k: v for k, v in event.items() if k not in ("user", "event_id")} for event in events]
    assert [entry["event"] for entry in page] == kept
    # The ranking was retracted, so it counts when it is sent again, until its retraction is sent again, too.
    body = send(client, *events)
    assert (body["duplicates"], body["accepted"]) == (2, 2)
    assert utilities(client, "u") == before


@pytest.mark.parametrize(
    ("event", "change"),
    [(CHOICE, {"index": 1}), (RANKING, {"order": [["a"], ["b"]]}), (EDIT, {"edited": "x"})],
)
def test_an_event_id_with_other_content_is_a_conflict(client, event, change):
    send(client, event | {"event_id": "e"})
    refused(client, event | {"event_id": "e"} | change, "/event_id", "event_id_conflict")
