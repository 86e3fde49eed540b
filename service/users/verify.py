"""Comparing saved states with the log. Every state is learned again from its user's log."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from sqlalchemy import Connection

from penchant.models.taste.posterior import UserPosterior
from penchant.service.store import users
from penchant.service.store.database import Store
from penchant.service.store.long_logs.checkpoints import drop_checkpoints
from penchant.service.store.users import list_users
from penchant.service.users.catching_up import catch_up, replay_log
from penchant.service.users.completion import MissingFeaturesError, Shortfall
from penchant.service.users.fold import Fold
from penchant.service.users.states import UserKey, UserState, build_state_row

TOLERANCE: Final = 1e-6
"""Largest accepted difference in the mean or covariance of a posterior, in standard deviations of the population."""

PAGE: Final = 200
Outcome = Literal["equal", "different", "lacking"]


@dataclass
class ReplayReport:
    """The outcome of a comparison.

    Attributes:
        users: Number of users compared.
        equal: Number of users whose saved state equals the replayed one.
        behind: Number of users whose saved state does not cover the whole log, or does not exist. It is caught up
            before it is compared, so these users also count as `equal` or `different`.
        different: Number of users whose saved state differs.
        lacking: Number of users whose log has texts without features. A server computes those when it starts.
        repaired: Number of users whose state was saved again.
        largest: Largest difference.
        shortfall: Numbers of events that the bundle cannot use in full.
    """

    users: int = 0
    equal: int = 0
    behind: int = 0
    different: int = 0
    lacking: int = 0
    repaired: int = 0
    largest: float = 0.0
    shortfall: Shortfall = field(default_factory=Shortfall)


def replay(
    store: Store,
    fold: Fold,
    *,
    now: float,
    tenant: str | None = None,
    user: str | None = None,
    repair: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> ReplayReport:
    """Compare saved states with the log.

    Args:
        store: The store. A server may be running on it.
        fold: Fold that computes states.
        now: Time in Unix seconds up to which both states are decayed before they are compared.
        tenant: Tenant whose users are compared. None for all tenants.
        user: User of that tenant to compare. None for all users.
        repair: Whether to save the replayed state if the saved one is different, behind or missing.
        progress: Function that receives the number of users done.

    Cost: one fold over every user's log.
    """
    report, outcomes = ReplayReport(), Counter[Outcome]()
    for key in _list_keys(store, tenant, user):
        with store.reading() as connection:
            comparison = _compare(connection, key, fold, now)
        if comparison is None:  # deleted in the meantime
            continue
        outcome, is_saved, difference, shortfall = comparison
        report.users += 1
        outcomes[outcome] += 1
        report.behind += not is_saved
        report.largest = max(report.largest, difference)
        report.shortfall += shortfall
        if repair and outcome != "lacking" and (outcome == "different" or not is_saved):
            report.repaired += _repair(store, key, fold)
        progress(report.users)
    return replace(
        report, equal=outcomes["equal"], different=outcomes["different"], lacking=outcomes["lacking"]
    )


def _compute_difference(first: UserPosterior, second: UserPosterior) -> float:
    """Return the largest difference between two posteriors' means and covariances."""
    mean = np.abs(first.beliefs.mean - second.beliefs.mean).max()
    covariance = np.abs(first.beliefs.covariance - second.beliefs.covariance).max()
    return float(max(mean, covariance))


def _list_keys(store: Store, tenant: str | None, user: str | None) -> Iterator[UserKey]:
    if tenant is not None and user is not None:
        yield tenant, user
        return
    after = ("", "")
    while True:
        with store.reading() as connection:
            page = list_users(connection, tenant, after, PAGE)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1]


def _compare(
    connection: Connection, key: UserKey, fold: Fold, now: float
) -> tuple[Outcome, bool, float, Shortfall] | None:
    """Return the outcome, whether the saved state covered the whole log, the difference, and what cannot be used."""
    try:
        saved = catch_up(connection, key, fold)
        if saved is None:
            return None
        replayed, shortfall = replay_log(connection, key, fold, saved.state.last_seq)
    except MissingFeaturesError:
        return "lacking", False, 0.0, Shortfall()
    decay = fold.forgetting.decay
    difference = _compute_difference(decay(saved.state.evidence, now), decay(replayed, now))
    return ("equal" if difference <= TOLERANCE else "different"), saved.is_saved, difference, shortfall


def _repair(store: Store, key: UserKey, fold: Fold) -> bool:
    """Save the state replayed from the log. Return False if the log has changed in the meantime, or is being changed.

    The log is replayed before the transaction begins, so that a server's writer does not wait for it.
    """
    tenant, user = key
    bundle, half_life = fold.bundle_version, fold.forgetting.half_life_days
    with store.reading() as connection:
        row = users.find_users(connection, tenant, [user], bundle, half_life).get(user)
        if row is None or row.pending is not None:
            return False
        evidence, _ = replay_log(connection, key, fold, row.last_seq)
    state = replace(UserState.from_row(row, fold.start), evidence=evidence, through_seq=row.last_seq)
    with store.writing() as connection:
        users.lock_users(connection, [key])
        if users.find_version(connection, tenant, user) != state.stamp:
            return False
        drop_checkpoints(connection, tenant, user, bundle, since=0)  # they may be as wrong as the state was
        users.put_states(connection, [build_state_row(key, state, bundle, half_life)])
    return True
