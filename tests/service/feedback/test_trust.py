"""How much an account's judgements count: the arithmetic, and the behaviour of a server."""

import random
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from starlette.testclient import TestClient

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.access.keyring import Scope, create_key
from penchant.service.feedback.history import HistoryRead, bring_up_to_date, read_history
from penchant.service.feedback.trust import (
    BURST_GAP_SECONDS,
    CHANGE_INCREMENT,
    UPPER_BOUNDS,
    Discount,
    TrustPolicy,
    TrustState,
    compute_discount,
    compute_information,
)
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.timestamps import format_rfc3339
from penchant.service.users.fold import Fold
from penchant.service.users.states import Forgetting
from penchant.service.users.verify import replay

START = 1_800_000_000.0  # 08:00 UTC
DAY = 86_400.0
POLICY = TrustPolicy()
Serve = Callable[..., TestClient]


def judge_at(
    times: Iterable[float], state: TrustState | None = None, policy: TrustPolicy = POLICY, weight: float = 1.0
) -> tuple[TrustState, list[Discount]]:
    state, discounts = state or TrustState(), []
    for time in times:
        state, discount = compute_discount(state, weight, (), time, policy)
        discounts.append(discount)
    return state, discounts


@pytest.mark.parametrize(
    "times",
    [
        [START + 3 * i for i in range(200)],  # a sitting of ten minutes
        [START] * 100 + [START + 1] * 100,  # an import in two batches
        [START + day * DAY + 2 * i for day in range(30) for i in range(250)],  # much, every day
    ],
)
def test_a_busy_person_is_not_punished(times: list[float]) -> None:
    state, discounts = judge_at(times)
    assert set(discounts) == {Discount(1.0)}
    assert state.trust == 1.0


def test_the_day_is_bounded_and_the_next_one_is_new() -> None:
    times = [START + 10 * i for i in range(1000)]
    state, discounts = judge_at(times, policy=TrustPolicy(max_daily_information=300), weight=0.5)
    assert sum(0.5 * discount.factor for discount in discounts) == pytest.approx(300)
    assert [discount.flags for discount in discounts[:600]] == [()] * 600
    assert {discount.flags for discount in discounts[600:]} == {("capped",)}
    assert state.information == pytest.approx(300)
    state, discounts = judge_at([START + DAY], state)
    assert discounts == [Discount(1.0)]
    assert (state.information, state.day) == (1.0, int((START + DAY) // DAY))


def test_a_ranking_is_worth_its_comparisons() -> None:
    assert compute_information(0.5, ()) == 0.5
    assert compute_information(1.0, (1, 49)) == 1.0  # a choice
    assert compute_information(1.0, (1,) * 10) == 9.0
    assert compute_information(1.0, (2, 3, 1)) == 5.0
    assert compute_information(1.0, (3,)) == 1.0
    state, discount = compute_discount(
        TrustState(), 1.0, (1,) * 50, START, TrustPolicy(max_daily_information=20)
    )
    assert discount == Discount(20 / 49, ("capped",))
    assert state.information == pytest.approx(20)


def test_no_bound_where_none_is_wanted() -> None:
    _, discounts = judge_at(
        [START + 10 * i for i in range(2000)], policy=TrustPolicy(max_daily_information=None)
    )
    assert set(discounts) == {Discount(1.0)}


def test_a_burst_is_flagged_once_and_trusted_less_with_every_judgement() -> None:
    policy = TrustPolicy(max_daily_information=None)
    state, discounts = judge_at([START] * 1000, policy=policy)
    assert [discount.begins_burst for discount in discounts].index(True) == 250
    assert sum(discount.begins_burst for discount in discounts) == 1
    assert set(discounts[:250]) == {Discount(1.0)}
    assert all("burst" in discount.flags for discount in discounts[250:])
    factors = [discount.factor for discount in discounts[250:]]
    assert factors == sorted(factors, reverse=True)
    assert state.beta == UPPER_BOUNDS[1]
    assert factors[-1] == pytest.approx(state.trust) == pytest.approx(3 / 12 * 3 / 2)
    _, later = judge_at([START + BURST_GAP_SECONDS * 3 + i / 1e3 for i in range(500)], state, policy)
    assert sum(discount.begins_burst for discount in later) == 1


def test_time_and_conduct_bring_trust_back() -> None:
    policy = TrustPolicy(max_daily_information=None)
    state, _ = judge_at([START] * 1000, policy=policy)
    low = state.trust
    after = [state.advance_to(START + days * DAY, policy).trust for days in range(8)]
    assert after[0] == low
    assert after == sorted(after)
    assert after[-1] == 1.0 or after[-1] > 0.95
    good, discounts = judge_at([START + DAY + 60 * i for i in range(100)], state, policy)
    idle = state.advance_to(START + DAY + 60 * 99, policy)
    assert good.trust > idle.trust
    assert {discount.flags for discount in discounts} == {("trust",)}


def test_good_conduct_cannot_be_saved_up() -> None:
    policy = TrustPolicy(max_daily_information=None)
    saved, _ = judge_at([START + 300 * i for i in range(5_000)], policy=policy)
    assert saved.alpha <= UPPER_BOUNDS[0]
    state, discounts = judge_at([saved.updated_at] * 2000, saved, policy)
    assert discounts[-1].factor < 0.5
    assert state.trust < 0.5


def test_an_account_that_is_always_busy_has_a_wider_bucket() -> None:
    """An app that rates 2,000 texts a day for an account: after some days this is what it does."""
    policy = TrustPolicy(max_daily_information=None)
    state = TrustState()
    for day in range(30):
        state, _ = judge_at([START + day * DAY + 30 * i for i in range(2000)], state, policy)
    assert state.mean_daily_events == pytest.approx(2000, rel=0.01)
    _, discounts = judge_at([state.updated_at + DAY] * 2000, state, policy)
    assert set(discounts) == {Discount(1.0)}


def test_a_change_of_behaviour_costs_some_trust() -> None:
    state = TrustState(updated_at=START)
    changed = state.add_change_point()
    assert changed.beta == 1 + CHANGE_INCREMENT
    assert changed.trust == pytest.approx(2 / 4 * 1.5)
    for _ in range(100):
        changed = changed.add_change_point()
    assert changed.beta == UPPER_BOUNDS[1]


def test_a_clock_that_is_set_back_changes_nothing() -> None:
    state, _ = judge_at([START] * 260)
    back = state.advance_to(START - 10 * DAY, POLICY)
    assert back == state


def test_what_is_stored_is_read() -> None:
    state, _ = judge_at([START] * 300)
    assert TrustState.from_stored(state.day, state.information, state.to_json()) == state
    assert TrustState.from_stored(0, 0.0, None) == TrustState()
    assert TrustState.from_stored(0, 0.0, '{"alpha": 3.0, "of another version": 1}').alpha == 3.0


def test_two_accounts_that_are_one_are_no_better_than_the_worse() -> None:
    good, _ = judge_at([START] * 10)
    bad, _ = judge_at([START] * 400)
    for merged in (good.merge_with(bad), bad.merge_with(good)):
        assert merged.trust == bad.trust
        assert (merged.information, merged.events_today, merged.tokens_used) == (
            good.information + bad.information,
            410,
            260.0,
        )
    next_day, _ = judge_at([START + DAY])
    assert next_day.merge_with(bad).information == 1.0


# The behaviour of a server

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
    report = replay(database, fold, now=START)
    database.close()
    assert (report.users, report.equal) == (2, 2)


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


# History: what an admin sends with timestamps of the past


def rate(user: str, number: int, seconds: Callable[[int], float], **more: Any) -> list[dict[str, Any]]:
    """So many ratings, each of which happened at `seconds(number)`."""
    return [
        {"type": "rating", "user": user, "text": CANDIDATES[n % 6], "value": n % 5, "scale": [0, 4]}
        | {"timestamp": format_rfc3339(seconds(n)), **more}
        for n in range(number)
    ]


def send_all(client: TestClient, events: list[dict[str, Any]], **headers: str) -> None:
    for start in range(0, len(events), 100):
        some = events[start : start + 100]
        answer = client.post("/v1/feedback", json={"events": some}, headers=headers).json()
        assert answer["accepted"] == len(some)


def learned_by_day(store: Any, user: str) -> dict[int, float]:
    days: dict[int, float] = {}
    for at, weight, discount in store.run(
        "SELECT coalesce(happened_at, received_at), weight, discount FROM feedback_events WHERE user_id = :user",
        user=user,
    ):
        days[int(at // DAY)] = days.get(int(at // DAY), 0.0) + weight * discount
    return days


def test_an_import_of_the_past_is_learned_whole(client: TestClient, store: Any) -> None:
    """A server without keys treats everybody as an admin. Nothing of the account's present day or trust changes."""
    send_all(client, rate("import", 1000, lambda n: START - 2 * DAY - n * 3600.0))
    rows = store.run("SELECT DISTINCT discount, flags FROM feedback_events")
    assert rows == [(1.0, "history")]
    assert store.run("SELECT information_day, information, trust FROM users") == [(0, 0.0, None)]
    assert metric(client, "penchant_bursts_total") == 0
    assert metric(client, 'penchant_events_discounted_total{reason="history"}') == 0
    judge(client, "import", 250)
    judge(client, "other", 250)
    rows = store.run("SELECT DISTINCT discount, flags FROM feedback_events WHERE flags IS NULL")
    assert rows == [(1.0, None)]
    query = "SELECT trust, information FROM users WHERE user_id = :user"
    assert store.run(query, user="import") == store.run(query, user="other")
    (event,) = client.get("/v1/users/import/export").json()["events"][:1]
    assert event["learned"]["flags"] == ["history"]
    assert event["happened_at"] == event["event"]["timestamp"] < event["received_at"]


@pytest.mark.parametrize("in_order", [True, False])
def test_history_is_bounded_by_its_own_days(serve: Serve, store: Any, in_order: bool) -> None:
    """Exactly, over several requests in any order, with events of different weights and rankings."""
    client = serve(max_daily_information=20.0)
    events = rate("u", 90, lambda n: START - (10 - n % 3) * DAY + n)
    events += rate("u", 30, lambda n: START - 300 * DAY + n, weight=0.5)
    ranking = {"type": "ranking", "user": "u", "order": [[text] for text in CANDIDATES[:4]]}
    events += [ranking | {"timestamp": format_rfc3339(START - 400 * DAY)}] * 8
    if not in_order:
        random.Random(1).shuffle(events)
    for start in range(0, len(events), 32):
        answer = client.post("/v1/feedback", json={"events": events[start : start + 32]}).json()
        assert answer["rejected"] == []
    weights = learned_by_day(store, "u")
    today = int(START // DAY)
    assert {today - day: pytest.approx(weight) for day, weight in weights.items()} == {
        10: 20.0,
        9: 20.0,
        8: 20.0,
        300: 15.0,
        400: 20.0 / 3,  # each ranking of four is worth three judgements
    }
    flags = {row[0] for row in store.run("SELECT DISTINCT flags FROM feedback_events")}
    assert flags == {"history", "history,capped"}
    # The bound is the user's, and the day's.
    send_all(client, rate("v", 5, lambda n: START - 10 * DAY + n))
    send_all(client, rate("u", 5, lambda n: START - 11 * DAY + n))
    assert learned_by_day(store, "v") == {today - 10: 5.0}
    assert learned_by_day(store, "u")[today - 11] == 5.0


def test_a_timestamp_of_a_key_without_admin_changes_no_bound(
    serve: Serve, store: Any, settings: Settings
) -> None:
    database = Store.open(settings)
    with database.writing() as connection:
        keys = {
            scopes: create_key(connection, "default", scopes, "", START)[0]
            for scopes in ((Scope.FEEDBACK,), (Scope.ADMIN,))
        }
    database.close()
    client = serve()
    for (scope,), key in keys.items():
        events = rate(str(scope), 400, lambda n: START - 30 * DAY - n * 3600.0)
        send_all(client, events, Authorization=f"Bearer {key}")
    query = "SELECT flags FROM feedback_events WHERE user_id = :user ORDER BY seq"
    assert store.run(query, user="admin") == [("history",)] * 400
    flags = [row[0] for row in store.run(query, user="feedback")]
    assert flags[:250] == [None] * 250
    assert all("burst" in some for some in flags[250:])
    assert store.run("SELECT information > 200 FROM users ORDER BY user_id") in (
        [(0,), (1,)],
        [(False,), (True,)],
    )


def test_what_just_happened_is_no_history(client: TestClient, store: Any) -> None:
    """An app may send the times of its clicks. They belong to the session that is going on."""
    send_all(client, rate("u", 300, lambda n: START - n))
    flags = [row[0] for row in store.run("SELECT flags FROM feedback_events ORDER BY seq")]
    assert flags[:250] == [None] * 250
    assert all("burst" in some for some in flags[250:])


def test_history_that_reveals_a_change_does_not_cost_trust(client: TestClient, store: Any) -> None:
    judge(client, "u", 60)
    before = store.run("SELECT trust FROM users")
    back = [
        {"type": "preference", "user": "u", "chosen": CANDIDATES[i % 5], "rejected": CANDIDATES[i % 5 + 1]}
        | {"timestamp": format_rfc3339(START - 30 * DAY)}
        for i in range(60)
    ]
    send_all(client, back)
    assert metric(client, "penchant_users_changed_total") >= 1
    assert store.run("SELECT trust FROM users") == before


@pytest.mark.parametrize("change", ["none", "more", "merged", "deleted", "again", "first"])
def test_history_that_was_read_before_a_change_is_brought_up_to_date(
    client: TestClient, clock: Any, change: str
) -> None:
    """Whatever happens to the log between the reader and the writer, the writer counts what is in it."""
    store = client.app.state.runtime.store
    day = int(START // DAY) - 10
    days = {"u": {day, day - 1, day - 5}}

    def rate_some(user: str, number: int) -> None:
        send_all(client, rate(user, number, lambda n: START - (10 + n % 3) * DAY, weight=0.5))

    def read() -> HistoryRead:
        with store.reading() as connection:
            return read_history(connection, "default", days)["u"]

    if change != "first":
        rate_some("guest", 9)
        clock.now += 60.0
        rate_some("u", 6)
    before = read()
    if change in ("more", "first"):
        rate_some("u", 7)
        judge(client, "u", 3)
    if change == "merged":
        client.post("/v1/users/u/merge", json={"from": "guest"})
    if change in ("deleted", "again"):
        client.delete("/v1/users/u")
    if change == "again":
        clock.now += 60.0
        rate_some("u", 12)
    now = read()
    with store.reading() as connection:
        stamp = (now.version, now.last_seq)
        learned = bring_up_to_date(connection, "default", "u", before, stamp)
    assert learned == pytest.approx(now.learned)
    assert (learned[day], learned[day - 1], learned[day - 5]) == {
        "none": (1.0, 1.0, 0.0),
        "more": (2.5, 2.0, 0.0),
        "merged": (2.5, 2.5, 0.0),
        "deleted": (0.0, 0.0, 0.0),
        "again": (2.0, 2.0, 0.0),
        "first": (1.5, 1.0, 0.0),
    }[change]
