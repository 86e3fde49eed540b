"""How much an account's judgements count: the arithmetic, and what a server makes of it."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from starlette.testclient import TestClient

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.feedback.trust import (
    CHANGED,
    EPISODE_SECONDS,
    MOST,
    TrustPolicy,
    TrustState,
    Weighed,
    information_of,
    weigh,
)
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.users.fold import Fold
from penchant.service.users.states import Forgetting
from penchant.service.users.verify import replay

START = 1_800_000_000.0  # 08:00 UTC
DAY = 86_400.0
POLICY = TrustPolicy()
Serve = Callable[..., TestClient]


def weighed(
    times: Iterable[float], state: TrustState | None = None, policy: TrustPolicy = POLICY, weight: float = 1.0
) -> tuple[TrustState, list[Weighed]]:
    state, found = state or TrustState(), []
    for at in times:
        state, one = weigh(state, weight, (), at, policy)
        found.append(one)
    return state, found


@pytest.mark.parametrize(
    "times",
    [
        [START + 3 * i for i in range(200)],  # a sitting of ten minutes
        [START] * 100 + [START + 1] * 100,  # an import in two batches
        [START + day * DAY + 2 * i for day in range(30) for i in range(250)],  # much, every day
    ],
)
def test_a_busy_person_is_not_punished(times: list[float]) -> None:
    state, found = weighed(times)
    assert set(found) == {Weighed(1.0)}
    assert state.trust == 1.0


def test_the_day_is_bounded_and_the_next_one_is_new() -> None:
    times = [START + 10 * i for i in range(1000)]
    state, found = weighed(times, policy=TrustPolicy(max_daily_information=300), weight=0.5)
    assert sum(0.5 * one.discount for one in found) == pytest.approx(300)
    assert [one.flags for one in found[:600]] == [()] * 600
    assert {one.flags for one in found[600:]} == {("capped",)}
    assert state.information == pytest.approx(300)
    state, found = weighed([START + DAY], state)
    assert found == [Weighed(1.0)]
    assert (state.information, state.day) == (1.0, int((START + DAY) // DAY))


def test_a_ranking_is_worth_its_comparisons() -> None:
    assert information_of(0.5, ()) == 0.5
    assert information_of(1.0, (1, 49)) == 1.0  # a choice
    assert information_of(1.0, (1,) * 10) == 9.0
    assert information_of(1.0, (2, 3, 1)) == 5.0
    assert information_of(1.0, (3,)) == 1.0
    state, one = weigh(TrustState(), 1.0, (1,) * 50, START, TrustPolicy(max_daily_information=20))
    assert one == Weighed(20 / 49, ("capped",))
    assert state.information == pytest.approx(20)


def test_no_bound_where_none_is_wanted() -> None:
    _, found = weighed([START + 10 * i for i in range(2000)], policy=TrustPolicy(max_daily_information=None))
    assert set(found) == {Weighed(1.0)}


def test_a_burst_is_flagged_once_and_believed_less_with_every_judgement() -> None:
    policy = TrustPolicy(max_daily_information=None)
    state, found = weighed([START] * 1000, policy=policy)
    assert [one.begins_burst for one in found].index(True) == 250
    assert sum(one.begins_burst for one in found) == 1
    assert set(found[:250]) == {Weighed(1.0)}
    assert all("burst" in one.flags for one in found[250:])
    discounts = [one.discount for one in found[250:]]
    assert discounts == sorted(discounts, reverse=True)
    assert state.beta == MOST[1]
    assert discounts[-1] == pytest.approx(state.trust) == pytest.approx(3 / 12 * 3 / 2)
    _, later = weighed([START + EPISODE_SECONDS * 3 + i / 1e3 for i in range(500)], state, policy)
    assert sum(one.begins_burst for one in later) == 1


def test_time_and_conduct_bring_trust_back() -> None:
    policy = TrustPolicy(max_daily_information=None)
    state, _ = weighed([START] * 1000, policy=policy)
    low = state.trust
    after = [state.at(START + days * DAY, policy).trust for days in range(8)]
    assert after[0] == low
    assert after == sorted(after)
    assert after[-1] == 1.0 or after[-1] > 0.95
    good, found = weighed([START + DAY + 60 * i for i in range(100)], state, policy)
    idle = state.at(START + DAY + 60 * 99, policy)
    assert good.trust > idle.trust
    assert {one.flags for one in found} == {("trust",)}


def test_good_conduct_cannot_be_saved_up() -> None:
    policy = TrustPolicy(max_daily_information=None)
    saved, _ = weighed([START + 300 * i for i in range(5_000)], policy=policy)
    assert saved.alpha <= MOST[0]
    state, found = weighed([saved.as_of] * 2000, saved, policy)
    assert found[-1].discount < 0.5
    assert state.trust < 0.5


def test_an_account_that_is_always_busy_has_a_wider_bucket() -> None:
    """An app that rates 2,000 texts a day for an account: after some days this is what it does."""
    policy = TrustPolicy(max_daily_information=None)
    state = TrustState()
    for day in range(30):
        state, _ = weighed([START + day * DAY + 30 * i for i in range(2000)], state, policy)
    assert state.usual == pytest.approx(2000, rel=0.01)
    _, found = weighed([state.as_of + DAY] * 2000, state, policy)
    assert set(found) == {Weighed(1.0)}


def test_a_change_of_behaviour_costs_some_trust() -> None:
    state = TrustState(as_of=START)
    once = state.changed()
    assert once.beta == 1 + CHANGED
    assert once.trust == pytest.approx(2 / 4 * 1.5)
    for _ in range(100):
        once = once.changed()
    assert once.beta == MOST[1]


def test_a_clock_that_is_set_back_changes_nothing() -> None:
    state, _ = weighed([START] * 260)
    back = state.at(START - 10 * DAY, POLICY)
    assert back == state


def test_what_is_stored_is_read() -> None:
    state, _ = weighed([START] * 300)
    assert TrustState.read(state.day, state.information, state.to_json()) == state
    assert TrustState.read(0, 0.0, None) == TrustState()
    assert TrustState.read(0, 0.0, '{"alpha": 3.0, "of another version": 1}').alpha == 3.0


def test_two_accounts_that_are_one_are_no_better_than_the_worse() -> None:
    good, _ = weighed([START] * 10)
    bad, _ = weighed([START] * 400)
    for joined in (good.joined(bad), bad.joined(good)):
        assert joined.trust == bad.trust
        assert (joined.information, joined.today, joined.spent) == (
            good.information + bad.information,
            410,
            260.0,
        )
    next_day, _ = weighed([START + DAY])
    assert next_day.joined(bad).information == 1.0


# What a server makes of it

CANDIDATES = [f"candidate {number} " + "word " * number for number in range(6)]


def judge(client: TestClient, user: str, number: int, *, batch: int = 100) -> None:
    """So many judgements at one moment: the longer text of every pair is better."""
    for start in range(0, number, batch):
        events = [
            {
                "type": "preference",
                "user": user,
                "chosen": CANDIDATES[5 - i % 5],
                "rejected": CANDIDATES[4 - i % 5],
            }
            for i in range(start, min(start + batch, number))
        ]
        answer = client.post("/v1/feedback", json={"events": events}).json()
        assert answer["accepted"] == len(events)


def metric(client: TestClient, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.M)
    return float(found.group(1)) if found else 0.0


def ranked(client: TestClient, user: str) -> Any:
    body = {"query": "which?", "documents": CANDIDATES, "user": user}
    return client.post("/v1/rerank", json=body).json()["results"]


def test_nothing_an_account_does_changes_anothers_ranking(client: TestClient) -> None:
    judge(client, "good", 20)
    before = {user: ranked(client, user) for user in ("good", "nobody yet")}
    judge(client, "bad", 1000)
    assert {user: ranked(client, user) for user in before} == before
    assert ranked(client, "bad") != before["nobody yet"]


def test_an_import_is_learned_whole_and_a_flood_is_not(
    client: TestClient, store: Any, settings: Settings
) -> None:
    judge(client, "busy", 200)
    rows = store.run("SELECT discount, flags FROM feedback_events WHERE user_id = 'busy'")
    assert rows == [(1.0, None)] * 200
    assert metric(client, "penchant_bursts_total") == 0
    judge(client, "flood", 1000)
    rows = store.run(
        "SELECT weight, discount, flags FROM feedback_events WHERE user_id = 'flood' ORDER BY seq"
    )
    assert len(rows) == 1000
    assert sum(weight * discount for weight, discount, _ in rows) <= 300 + 1e-9
    assert [flags for *_, flags in rows[:250]] == [None] * 250
    assert all("burst" in flags for *_, flags in rows[250:])
    assert rows[-1][2] == "burst,trust,capped"
    assert metric(client, "penchant_bursts_total") == 1
    assert metric(client, 'penchant_events_discounted_total{reason="burst"}') == 750
    assert client.get("/v1/users/flood").json()["feedback_events"] == 1000
    extractor = FeatureExtractor(HashingEncoder())
    bundle = tiny_bundle(extractor)
    database = Store.open(settings, exclusive=False)
    fold = Fold(bundle.reward, Forgetting(None), bundle.version, extractor.identity)
    found = replay(database, fold, as_of=START)
    database.close()
    assert (found.users, found.equal) == (2, 2)


def test_a_change_of_behaviour_lowers_what_comes_after(serve: Serve, clock: Any, store: Any) -> None:
    client = serve()
    judge(client, "u", 60)
    back = [
        {"type": "preference", "user": "u", "chosen": CANDIDATES[i % 5], "rejected": CANDIDATES[i % 5 + 1]}
        for i in range(60)
    ]
    for start in range(0, 60, 10):
        client.post("/v1/feedback", json={"events": back[start : start + 10]})
    assert metric(client, "penchant_users_changed_total") >= 1
    rows = store.run("SELECT discount, flags FROM feedback_events WHERE user_id = 'u' ORDER BY seq")
    assert rows[59] == (1.0, None)
    assert rows[-1][1] == "trust"
    assert 0.5 < rows[-1][0] < 1.0
    clock.now += 10 * DAY
    client.post("/v1/feedback", json=back[0])
    (last,) = store.run("SELECT discount, flags FROM feedback_events WHERE user_id = 'u' AND seq = 121")
    assert last == (1.0, None) or last[0] > 0.999
