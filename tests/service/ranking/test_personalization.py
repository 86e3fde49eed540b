"""The field `personalization` of every ranking route, from the population's answer (0) to the user's (1)."""

import math

import pytest
from scipy.special import expit, logit

from penchant.models.ranking import personalization
from penchant.service.ranking import scoring

DOCUMENTS = ["a short one", "quite a different text about boats", "boats, boats and more boats " * 9, "x"]
RERANK = {"query": "q", "documents": DOCUMENTS, "user": "u"}
TEI = {"query": "q", "texts": DOCUMENTS, "user": "u"}
SCORE = {"text_1": "q", "text_2": DOCUMENTS, "user": "u"}
USERS = {"text_1": "q", "text_2": DOCUMENTS, "users": ["u", "new", "v"]}
BEST = {"prompt": "q", "candidates": DOCUMENTS, "user": "u"}
DIALECTS = {
    "v1": ("/v1/rerank", RERANK),
    "v2": ("/v2/rerank", RERANK),
    "short": ("/rerank", RERANK),
    "tei": ("/rerank", TEI),
    "tei raw": ("/rerank", TEI | {"raw_scores": True}),
    "score": ("/v1/score", SCORE),
    "short score": ("/score", SCORE),
    "best of n": ("/v1/best-of-n", BEST),
}
EVERY_DIALECT = pytest.mark.parametrize(("path", "body"), DIALECTS.values(), ids=DIALECTS.keys())


@pytest.fixture
def client(serve):
    return teach(serve())


def teach(client):
    """Teach the server two users: `u` likes long texts, `v` likes short ones."""
    for i in range(6):
        long, short = f"many words {i} " * 12, f"few {i}"
        for user, chosen, rejected in (("u", long, short), ("v", short, long)):
            event = {"type": "preference", "user": user, "chosen": chosen, "rejected": rejected}
            assert client.post("/v1/feedback", json=event).status_code == 200
    return client


def ask(client, path, body, strength=None, **changes):
    sent = body | changes | ({} if strength is None else {"personalization": strength})
    answer = client.post(path, json=sent)
    assert answer.status_code == 200, answer.text
    return answer.json()


def rows(answer):
    """Return the results of a response in any dialect."""
    return answer if isinstance(answer, list) else answer.get("results", answer.get("data"))


def by_index(answer, name):
    return {row["index"]: row[name] for row in rows(answer)}


@EVERY_DIALECT
def test_0_is_the_population_and_1_the_user_to_the_bit(client, path, body):
    """Equal rows in equal order: mean, standard deviation, probabilities and order."""
    user, population = rows(ask(client, path, body)), rows(ask(client, path, body, user=None))
    assert user != population
    assert rows(ask(client, path, body, 1)) == rows(ask(client, path, body, 1.0)) == user
    assert rows(ask(client, path, body, 0)) == rows(ask(client, path, body, 0.0)) == population
    assert rows(ask(client, path, body | {"personalization": None})) == user
    between = rows(ask(client, path, body, 0.5))
    assert between not in (user, population)


@EVERY_DIALECT
def test_the_population_is_the_same_at_any_strength(client, path, body):
    for user in (None, "new"):
        expected = rows(ask(client, path, body, user=user))
        for strength in (0, 0.3, 1):
            assert rows(ask(client, path, body, strength, user=user)) == expected


def test_means_and_variances_are_linear_and_probabilities_linear_in_logits(client):
    user, population = ask(client, "/score", SCORE), ask(client, "/score", SCORE, user=None)
    for strength in (0.1, 0.5, 0.9):
        blended = ask(client, "/score", SCORE, strength)
        for row, start, end in zip(blended["data"], population["data"], user["data"], strict=True):
            mean = start["score"] + strength * (end["score"] - start["score"])
            assert row["score"] == pytest.approx(mean, abs=1e-12)
            variance = start["std"] ** 2 + strength * (end["std"] ** 2 - start["std"] ** 2)
            assert row["std"] == pytest.approx(math.sqrt(variance), rel=1e-12)
            logits = (1 - strength) * logit(start["probability"]) + strength * logit(end["probability"])
            assert row["probability"] == pytest.approx(expit(logits), abs=1e-12)


def test_scores_move_monotonically_and_the_results_are_ordered_by_them(client):
    answers = [ask(client, "/v1/rerank", RERANK, step / 10) for step in range(11)]
    for answer in answers:
        relevances = [row["relevance_score"] for row in answer["results"]]
        assert relevances == sorted(relevances, reverse=True)
    for index in range(len(DOCUMENTS)):
        path = [by_index(answer, "relevance_score")[index] for answer in answers]
        assert path in (sorted(path), sorted(path, reverse=True))
        assert path[0] != path[-1]


def test_every_dialect_gives_the_same_scores(client):
    relevance = by_index(ask(client, "/v1/rerank", RERANK, 0.4), "relevance_score")
    assert by_index(ask(client, "/rerank", TEI, 0.4), "score") == relevance
    assert by_index(ask(client, "/score", SCORE, 0.4), "probability") == relevance
    utility = by_index(ask(client, "/score", SCORE, 0.4), "score")
    assert by_index(ask(client, "/rerank", TEI | {"raw_scores": True}, 0.4), "score") == utility
    assert by_index(ask(client, "/v1/best-of-n", BEST, 0.4), "score") == utility
    header = client.post(
        "/v1/rerank",
        json={k: v for k, v in RERANK.items() if k != "user"} | {"personalization": 0.4},
        headers={"X-User-Id": "u"},
    )
    in_path = client.post("/users/u/v1/rerank", json=RERANK | {"personalization": 0.4})
    for answer in (header, in_path):
        assert by_index(answer.json(), "relevance_score") == relevance


def test_best_of_n_blends_its_probabilities(client):
    user, population = ask(client, "/v1/best-of-n", BEST), ask(client, "/v1/best-of-n", BEST, user=None)
    blended = ask(client, "/v1/best-of-n", BEST, 0.5)
    best = by_index(blended, "probability_best")
    assert sum(best.values()) == pytest.approx(1, abs=1e-12)
    starts, ends = (by_index(answer, "probability_best") for answer in (population, user))
    products = {index: math.sqrt(starts[index] * ends[index]) for index in starts}
    assert best == pytest.approx(
        {index: product / sum(products.values()) for index, product in products.items()}
    )
    starts, ends = (by_index(answer, "probability_acceptable") for answer in (population, user))
    acceptable = {index: expit((logit(starts[index]) + logit(ends[index])) / 2) for index in starts}
    assert by_index(blended, "probability_acceptable") == pytest.approx(acceptable, abs=1e-12)
    # The threshold is compared with the blended probability.
    threshold = max(acceptable.values()) - 1e-9
    assert ask(client, "/v1/best-of-n", BEST, 0.5, accept_threshold=threshold)["accepted"]
    assert not ask(client, "/v1/best-of-n", BEST, 0.5, accept_threshold=threshold + 1e-6)["accepted"]


def test_several_users_are_scaled_separately(client):
    population = [
        (row["score"], row["std"], row["probability"]) for row in rows(ask(client, "/score", SCORE, 0))
    ]
    together = rows(ask(client, "/v1/score", USERS, 0))
    assert [(row["score"], row["std"], row["probability"]) for row in together] == population * 3
    assert [row["user"] for row in together] == [user for user in USERS["users"] for _ in DOCUMENTS]
    between = rows(ask(client, "/v1/score", USERS, 0.7))
    separate = [row for user in USERS["users"] for row in rows(ask(client, "/score", SCORE, 0.7, user=user))]
    for joint, other in zip(between, separate, strict=True):
        for name in ("score", "std", "probability"):
            assert joint[name] == pytest.approx(other[name], abs=1e-12)


def test_many_candidates_are_scored_off_the_event_loop_alike(client):
    texts = [f"text {i} " * (i % 7 + 1) for i in range(scoring.INLINE_SCORES // 2 + 1)]
    some = rows(ask(client, "/score", SCORE, 0.5, text_2=texts[:40]))
    everything = rows(ask(client, "/score", SCORE, 0.5, text_2=texts))
    for row, other in zip(some, everything[:40], strict=True):
        assert row["score"] == pytest.approx(other["score"], abs=1e-12)
    best = rows(ask(client, "/v1/best-of-n", BEST, 0.5, candidates=texts))
    assert sum(row["probability_best"] for row in best) == pytest.approx(1, abs=1e-9)
    assert {row["index"]: row["score"] for row in best} == by_index({"data": everything}, "score")


@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_the_answer_still_says_whose_request_it_was(client, strength):
    meta = ask(client, "/v1/rerank", RERANK, strength)["meta"]["personalization"]
    assert meta == {"user": "u", "state": "personal", "feedback_events": 6, "posterior_version": 6}


@pytest.mark.parametrize("strength", [0, 0.5])
def test_feedback_on_a_ranking_is_that_of_its_user(client, strength):
    rank_id = ask(client, "/v1/rerank", RERANK, strength)["id"]
    vote = {"type": "vote", "rank_id": rank_id, "index": 0, "value": 1}
    answer = client.post("/v1/feedback", json=vote)
    assert answer.json()["users"] == [{"user": "u", "posterior_version": 7, "feedback_events": 7}]
    logged = client.get("/v1/users/u/feedback").json()["data"]
    assert any(entry["event"].get("text") == DOCUMENTS[0] for entry in logged)


# ---------------------------------------------------------------- what it costs


@pytest.mark.parametrize(
    ("strength", "user", "is_blended"),
    [(1, "u", False), (None, "u", False), (0.5, None, False), (0.5, "new", False), (0.5, "u", True)],
)
def test_the_population_is_only_scored_if_the_answer_needs_it(
    client, monkeypatch, strength, user, is_blended
):
    calls = []
    for module in (scoring, personalization):
        monkeypatch.setattr(module, "scores", record(calls, module.scores))
        monkeypatch.setattr(module, "probability_best", record(calls, module.probability_best))
    ask(client, "/v1/rerank", RERANK, strength, user=user)
    assert len(calls) == 1 + is_blended
    ask(client, "/v1/best-of-n", BEST, strength, user=user)
    assert len(calls) == 3 * (1 + is_blended)


@pytest.mark.parametrize(("path", "body", "calls"), [("/score", SCORE, 1), ("/v1/best-of-n", BEST, 2)])
def test_the_user_is_not_scored_for_the_populations_answer(client, monkeypatch, path, body, calls):
    made = []
    for module in (scoring, personalization):
        monkeypatch.setattr(module, "scores", record(made, module.scores))
        monkeypatch.setattr(module, "probability_best", record(made, module.probability_best))
    ask(client, path, body, 0)
    assert len(made) == calls


def record(calls, function):
    def call(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return call


# ---------------------------------------------------------------- the setting


def test_the_setting_is_the_default_and_the_request_overrides_it(serve):
    client = teach(serve())
    answers = {strength: rows(ask(client, "/v1/rerank", RERANK, strength)) for strength in (0, 0.25, 0.75, 1)}
    client = serve(personalization=0.25)
    assert rows(ask(client, "/v1/rerank", RERANK)) == answers[0.25]
    assert rows(ask(client, "/v1/rerank", RERANK | {"personalization": None})) == answers[0.25]
    for strength, expected in answers.items():
        assert rows(ask(client, "/v1/rerank", RERANK, strength)) == expected
    client = serve(personalization=0.0)
    assert rows(ask(client, "/v1/rerank", RERANK)) == answers[0]


@EVERY_DIALECT
def test_the_setting_applies_to_every_dialect(serve, path, body):
    client = teach(serve())
    expected = rows(ask(client, path, body, 0.25))
    assert rows(ask(serve(personalization=0.25), path, body)) == expected


# ---------------------------------------------------------------- bad input


@EVERY_DIALECT
@pytest.mark.parametrize("value", [-0.01, 1.01, 1e300, -1, 2, "0.5", "NaN", True, False, [0.5], {"a": 1}])
def test_anything_but_a_number_from_0_to_1_is_refused(serve_module_client, path, body, value):
    answer = serve_module_client.post(path, json=body | {"personalization": value})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error == {
        "pointer": "/personalization",
        "detail": "`personalization` must be a number from 0 to 1.",
    }


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_are_refused(serve_module_client, value):
    raw = f'{{"query": "q", "documents": ["a"], "personalization": {value}}}'
    answer = serve_module_client.post("/v1/rerank", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/personalization"


@pytest.fixture(scope="module")
def serve_module_client(serve_module):
    return serve_module()


# ---------------------------------------------------------------- explanations


@pytest.mark.parametrize("strength", [0, 0.2, 0.6, 1])
@pytest.mark.parametrize(("path", "body"), [("/score", SCORE), ("/v1/best-of-n", BEST)])
def test_explanations_add_up_to_the_answered_score(client, path, body, strength):
    plain = ask(client, path, body, strength)
    for row in rows(ask(client, path, body, strength, explain=True)):
        why = row["explanation"]
        assert row["score"] == by_index(plain, "score")[row["index"]]
        assert sum(part["value"] for part in why["parts"]) == pytest.approx(row["score"], abs=1e-9)
        assert why["utility"] == pytest.approx(row["score"], abs=1e-9)
        assert sum(part["value"] for part in why["moved"]) == pytest.approx(why["shift"], abs=1e-9)
        if "std" in row:
            assert why["std"] == pytest.approx(row["std"], abs=1e-9)


def test_the_explanation_at_0_is_that_of_the_population(client):
    for path, body in (("/score", SCORE), ("/v1/rerank", RERANK), ("/v1/best-of-n", BEST)):
        expected = rows(ask(client, path, body, user=None, explain=True))
        assert rows(ask(client, path, body, 0, explain=True)) == expected
