"""How much an account's judgements count: the arithmetic, and what a server makes of it."""

from collections.abc import Iterable

import pytest

from penchant.service.trust import (
    CHANGED,
    EPISODE_SECONDS,
    MOST,
    TrustPolicy,
    TrustState,
    Weighed,
    information_of,
    weigh,
)

START = 1_800_000_000.0  # 08:00 UTC
DAY = 86_400.0
POLICY = TrustPolicy()


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
    assert discounts[-1] == pytest.approx(state.trust) == pytest.approx(4 / 13 * 3 / 2)
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
    assert once.trust == pytest.approx(2 / 3.5 * 1.5)
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
