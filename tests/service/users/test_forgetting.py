"""Forgetting: judgements lose weight with time, the same online and from the log, until the population is left."""

import numpy as np
import pytest
from pydantic import ValidationError

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.items import item_key
from penchant.models.taste.observations import Vote
from penchant.models.taste.posterior import UserPosterior
from penchant.models.testing import tiny_bundle
from penchant.service.settings import Settings
from penchant.service.timestamps import format_rfc3339
from penchant.service.users.states import Evidence, Forgetting

DAY = 86_400.0
TEXTS = ["boats", "trees and many other plants", "rain, rain and then more rain"]
REWARD = tiny_bundle(FeatureExtractor(HashingEncoder())).reward


def item(text):
    features = FeatureExtractor(HashingEncoder()).extract([text], [""])
    return REWARD.describe(features.vectors, [item_key("", text)])


def vote(client, text, **more):
    event = {"type": "vote", "user": "u", "text": text, "value": 1, **more}
    answer = client.post("/v1/feedback", json=event)
    assert answer.status_code == 200, answer.text


def scores(client, user="u"):
    rows = client.post("/score", json={"text_1": "", "text_2": TEXTS, "user": user}).json()["data"]
    return np.array([(row["score"], row["std"], row["probability"]) for row in rows])


def expected(posterior):
    utility = posterior.utility(REWARD.describe(*described(TEXTS)))
    return np.stack([utility.mean, utility.std], axis=1)


def described(texts):
    features = FeatureExtractor(HashingEncoder()).extract(texts, [""] * len(texts))
    return features.vectors, [item_key("", text) for text in texts]


def test_nothing_is_forgotten_unless_told(client, clock):
    vote(client, TEXTS[0])
    before = scores(client)
    clock.now += 10_000 * DAY
    np.testing.assert_array_equal(scores(client), before)


def test_a_ranking_is_read_as_of_now(serve, clock):
    client = serve(forgetting_half_life_days=10)
    vote(client, TEXTS[0])
    posterior = UserPosterior.at_prior(REWARD.population).learn(Vote(item(TEXTS[0]), 1))
    for days in (0, 1, 10, 25):
        clock.now += days * DAY
        posterior = posterior.forget(days * DAY, 10 * DAY) if days else posterior
        np.testing.assert_allclose(scores(client)[:, :2], expected(posterior), atol=1e-6)
    told = client.get("/v1/users/u").json()
    assert (told["feedback_events"], told["posterior_version"]) == (1, 1)  # reading changes nothing


def test_half_is_left_after_a_half_life(serve, clock):
    """The precision of an old judgement counts like that of one with half the weight."""
    client = serve(forgetting_half_life_days=30)
    vote(client, TEXTS[0])
    clock.now += 30 * DAY
    aged = UserPosterior.at_prior(REWARD.population).learn(Vote(item(TEXTS[0]), 1))
    half = UserPosterior(REWARD.population, aged.precision / 2, aged.linear / 2, 1)
    np.testing.assert_allclose(scores(client)[:, :2], expected(half), atol=1e-6)


def test_an_idle_user_returns_to_the_population(serve, clock):
    client = serve(forgetting_half_life_days=1)
    for n in range(12):
        vote(client, f"text {n}", value=1 if n % 3 else -1)
    away = np.abs(scores(client) - scores(client, None)).max()
    shares = [client.get("/v1/users/u").json()["uncertainty"]["share_of_prior_std"]]
    for _ in range(4):
        clock.now += 2 * DAY
        now = np.abs(scores(client) - scores(client, None)).max()
        assert now < away
        away = now
        shares.append(client.get("/v1/users/u").json()["uncertainty"]["share_of_prior_std"])
    assert shares == sorted(shares)
    clock.now += 2000 * DAY
    np.testing.assert_array_equal(scores(client), scores(client, None))
    assert client.get("/v1/users/u").json()["uncertainty"]["share_of_prior_std"] == 1.0
    # And learns again from there, as a new user does.
    vote(client, TEXTS[1])
    vote(client, TEXTS[1], user="new")
    np.testing.assert_allclose(scores(client), scores(client, "new"), atol=1e-6)


def test_a_judgement_is_learned_on_what_is_left(serve, clock):
    client = serve(forgetting_half_life_days=10)
    posterior = UserPosterior.at_prior(REWARD.population)
    for text, days in zip(TEXTS, (0, 4, 17), strict=True):
        clock.now += days * DAY
        vote(client, text)
        posterior = posterior.forget(days * DAY, 10 * DAY).learn(Vote(item(text), 1))
    np.testing.assert_allclose(scores(client)[:, :2], expected(posterior), atol=1e-6)


def states(store):
    return store.run("SELECT user_id, half_life_days, state, as_of FROM user_states")


def feed(client, clock):
    """Events at irregular times, some of which say nothing or are taken back."""
    for n, days in enumerate((0, 3, 3, 0.25, 40, 1, 0, 9)):
        clock.now += days * DAY
        vote(client, f"text {n}", event_id=f"e{n}", value=1 if n % 3 else -1)
        if n == 3:
            same = {"type": "edit", "user": "u", "original": "a", "edited": "a"}
            clock.now += DAY
            assert client.post("/v1/feedback", json=same).status_code == 200


def undo(client, target):
    event = {"type": "retract", "user": "u", "target_event_id": target}
    assert client.post("/v1/feedback", json=event).status_code == 200


def test_the_log_leads_to_the_same_state(serve, clock, store):
    client = serve(forgetting_half_life_days=10)
    feed(client, clock)
    online = scores(client)
    serve(forgetting_half_life_days=10)
    saved = states(store)
    store.run("DELETE FROM user_states")
    client = serve(forgetting_half_life_days=10)
    assert states(store) == saved
    np.testing.assert_allclose(scores(client), online, atol=1e-6)


def test_taking_back_is_exact_with_forgetting(serve, clock, fresh):
    """What was aged in two steps, across the event that was taken back, is aged as if in one."""
    start = clock.now
    client = serve(forgetting_half_life_days=10)
    feed(client, clock)
    clock.now += DAY
    undo(client, "e4")
    undo(client, "e7")
    after = scores(client)
    end, clock.now = clock.now, start
    client = serve(forgetting_half_life_days=10, **fresh.place)
    for n, days in enumerate((0, 3, 3, 0.25, 41, 1, 0)):
        clock.now += days * DAY
        if n != 4:
            vote(client, f"text {n}", value=1 if n % 3 else -1)
    clock.now = end
    np.testing.assert_array_equal(scores(client), after)


def test_other_forgetting_is_learned_again_from_the_log(logs, serve, clock, store, fresh):
    start = clock.now
    feed(serve(), clock)
    end = clock.now
    seen = []
    for half_life in (10, 10, 20, None, None):
        logs.clear()
        client = serve(forgetting_half_life_days=half_life)
        seen.append((sum(line["event"] == "rebuild_finished" for line in logs), states(store)[0][1]))
    assert seen == [(1, 10.0), (0, 10.0), (1, 20.0), (1, None), (0, None)]
    client = serve(forgetting_half_life_days=10)
    replayed = scores(client)
    clock.now = start
    client = serve(forgetting_half_life_days=10, **fresh.place)
    feed(client, clock)
    assert clock.now == end
    np.testing.assert_allclose(scores(client), replayed, atol=1e-6)


def test_a_clock_that_is_set_back_makes_nothing_younger(serve, clock):
    client = serve(forgetting_half_life_days=10)
    vote(client, TEXTS[0])
    before = scores(client)
    clock.now -= 100 * DAY
    np.testing.assert_array_equal(scores(client), before)
    vote(client, TEXTS[1])
    clock.now += 100 * DAY
    posterior = UserPosterior.at_prior(REWARD.population)
    for text in TEXTS[:2]:
        posterior = posterior.learn(Vote(item(text), 1))
    np.testing.assert_allclose(scores(client)[:, :2], expected(posterior), atol=1e-6)


def ago(clock, days):
    return format_rfc3339(clock.now - days * DAY)


def test_the_age_of_a_judgement_counts_from_its_timestamp(serve, clock):
    """It is never in the future, and nothing else than a half-life depends on it."""
    client = serve(forgetting_half_life_days=10)
    vote(client, TEXTS[0], timestamp=ago(clock, 30))
    aged = UserPosterior.at_prior(REWARD.population).learn(Vote(item(TEXTS[0]), 1)).forget(30 * DAY, 10 * DAY)
    np.testing.assert_allclose(scores(client)[:, :2], expected(aged), atol=1e-6)
    vote(client, TEXTS[0], user="new")
    vote(client, TEXTS[0], user="soon", timestamp=ago(clock, -5))
    np.testing.assert_array_equal(scores(client, "soon"), scores(client, "new"))
    clock.now += 10 * DAY
    np.testing.assert_array_equal(scores(client, "soon"), scores(client, "new"))
    client = serve()
    np.testing.assert_array_equal(scores(client), scores(client, "new"))


def test_an_older_judgement_has_the_weight_that_is_left_of_it(serve, clock):
    """What is learned later but happened earlier is learned with its own age; what is known already stays."""
    client = serve(forgetting_half_life_days=10)
    vote(client, TEXTS[0])
    vote(client, TEXTS[1], timestamp=ago(clock, 20), weight=0.8)
    posterior = UserPosterior.at_prior(REWARD.population).learn(Vote(item(TEXTS[0]), 1))
    posterior = posterior.learn(Vote(item(TEXTS[1]), 1, weight=0.2))
    np.testing.assert_allclose(scores(client)[:, :2], expected(posterior), atol=1e-6)


def test_the_order_of_an_import_does_not_matter(serve, clock):
    """Up to the approximation of each judgement, which depends on what is known before it."""
    client = serve(forgetting_half_life_days=30)
    imported = [
        (f"text {n % 4} " + "word " * (n % 7), 1 if n % 3 else -1, 13 * n % 90 + 1) for n in range(24)
    ]
    oldest_first = sorted(imported, key=lambda one: -one[2])
    orders = {"oldest": oldest_first, "newest": oldest_first[::-1], "any": imported}
    for user, order in orders.items():
        events = [
            {"type": "vote", "user": user, "text": text, "value": value, "timestamp": ago(clock, days)}
            for text, value, days in order
        ]
        assert client.post("/v1/feedback", json={"events": events}).json()["accepted"] == 24
    away = np.abs(scores(client, "oldest") - scores(client, None)).max()
    assert away > 0.1
    for user in ("newest", "any"):
        assert np.abs(scores(client, user) - scores(client, "oldest")).max() < 0.05 * away


def test_a_timestamp_before_all_time_is_understood(serve, clock, store):
    client = serve(forgetting_half_life_days=10)
    for n, year in enumerate(("0001", "1969", "1970")):
        vote(client, TEXTS[n], timestamp=f"{year}-01-01T00:00:00+14:00")
    np.testing.assert_allclose(scores(client), scores(client, None), atol=1e-9)
    events = client.get("/v1/users/u/export").json()["events"]
    assert [event["happened_at"] for event in events] == [
        "0001-01-01T00:00:00Z",
        "1968-12-31T10:00:00Z",
        "1969-12-31T10:00:00Z",
    ]
    vote(client, TEXTS[1])
    vote(client, TEXTS[1], user="new")
    np.testing.assert_allclose(scores(client), scores(client, "new"), atol=1e-6)


def test_forgetting_composes():
    posterior = UserPosterior.at_prior(REWARD.population)
    for text in TEXTS:
        posterior = posterior.learn(Vote(item(text), 1))
    forgetting = Forgetting(2.0)
    at_once = forgetting.decay(Evidence(posterior, 0.0), 5 * DAY)
    halfway = forgetting.decay(Evidence(posterior, 0.0), 2 * DAY)
    in_two = forgetting.decay(Evidence(halfway, 2 * DAY), 5 * DAY)
    np.testing.assert_allclose(at_once.precision, in_two.precision, rtol=1e-6)
    np.testing.assert_allclose(at_once.linear, in_two.linear, rtol=1e-6)
    assert forgetting.decay(Evidence(posterior, 5 * DAY), 5 * DAY) is posterior
    assert Forgetting().decay(Evidence(posterior, 0.0), 1e12) is posterior


@pytest.mark.parametrize("days", ["0", "-1", "nan", "often"])
def test_half_lives_that_make_no_sense(monkeypatch, days):
    monkeypatch.setenv("PENCHANT_FORGETTING_HALF_LIFE_DAYS", days)
    with pytest.raises(ValidationError):
        Settings()
