"""Does the log say what was saved? Every state is learned again from its user's log, and compared."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from sqlalchemy import Connection

from penchant.models.taste.posterior import UserPosterior
from penchant.service.store import users
from penchant.service.store.database import Store
from penchant.service.store.users import list_users
from penchant.service.users.catching_up import LackingFeaturesError, caught_up, replayed
from penchant.service.users.fold import Fold
from penchant.service.users.states import Evidence, UserKey, UserState, state_row

TOLERANCE: Final = 1e-6
"""On the mean and the covariance of what is believed of a user, in standard deviations of the population."""

PAGE: Final = 200
Outcome = Literal["equal", "different", "lacking"]


@dataclass
class Replayed:
    """What a replay found.

    Attributes:
        users: How many were looked at.
        equal: Whose saved state is what the log says.
        behind: Whose saved state does not know the whole log, or is not there; caught up before it is compared. They
            are among `equal` and `different` too.
        different: Whose is something else.
        lacking: Whose log has texts that the bundle's encoder has not read yet: a server does that as it starts.
        repaired: Whose state was saved anew.
        largest: Largest difference.
    """

    users: int = 0
    equal: int = 0
    behind: int = 0
    different: int = 0
    lacking: int = 0
    repaired: int = 0
    largest: float = 0.0
    differing: list[UserKey] = field(default_factory=list)


def replay(
    store: Store,
    fold: Fold,
    *,
    as_of: float,
    tenant: str | None = None,
    user: str | None = None,
    repair: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Compares saved states with the log.

    Args:
        store: The store; a server may be running on it.
        fold: What a state is.
        as_of: Unix seconds at which both are compared: what is forgotten until then is forgotten in both.
        tenant: Only its users.
        user: Only this one, of that tenant.
        repair: Save what the log says where it is something else, and where nothing was saved.
        progress: Called with the number of users done.

    Cost: one fold over every user's log.
    """
    found, outcomes = Replayed(), Counter[Outcome]()
    for key in _keys(store, tenant, user):
        with store.reading() as connection:
            checked = _check(connection, key, fold, as_of)
        if checked is None:  # deleted meanwhile
            continue
        outcome, is_saved, gap = checked
        found.users += 1
        outcomes[outcome] += 1
        found.behind += not is_saved
        found.largest = max(found.largest, gap)
        if outcome == "different":
            found.differing.append(key)
        if repair and outcome != "lacking" and (outcome == "different" or not is_saved):
            found.repaired += _repair(store, key, fold)
        progress(found.users)
    return replace(
        found, equal=outcomes["equal"], different=outcomes["different"], lacking=outcomes["lacking"]
    )


def gap_between(one: UserPosterior, other: UserPosterior) -> float:
    """Largest difference between two posteriors' beliefs: of mean and covariance."""
    mean = np.abs(one.beliefs.mean - other.beliefs.mean).max()
    covariance = np.abs(one.beliefs.covariance - other.beliefs.covariance).max()
    return float(max(mean, covariance))


def _keys(store: Store, tenant: str | None, user: str | None) -> Iterator[UserKey]:
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


def _check(
    connection: Connection, key: UserKey, fold: Fold, as_of: float
) -> tuple[Outcome, bool, float] | None:
    """Outcome, whether the saved state knew the whole log, and the difference."""
    try:
        saved = caught_up(connection, key, fold)
        if saved is None:
            return None
        again = replayed(connection, key, fold, saved.state.last_seq)
    except LackingFeaturesError:
        return "lacking", False, 0.0
    gap = _gap(saved.state, again, fold, as_of)
    return ("equal" if gap <= TOLERANCE else "different"), saved.is_saved, gap


def _gap(state: UserState, again: Evidence, fold: Fold, as_of: float) -> float:
    return gap_between(fold.forgetting.aged(state.evidence, as_of), fold.forgetting.aged(again, as_of))


def _repair(store: Store, key: UserKey, fold: Fold) -> bool:
    """Saves what the log says now."""
    half_life = fold.forgetting.half_life_days
    with store.writing() as connection:
        users.lock_users(connection, [key])
        row = users.find_users(connection, key[0], [key[1]], fold.bundle_version, half_life).get(key[1])
        if row is None:
            return False
        evidence = replayed(connection, key, fold, row.last_seq)
        state = replace(UserState.from_row(row, fold.start), evidence=evidence, through_seq=row.last_seq)
        users.put_states(connection, [state_row(key, state, fold.bundle_version, half_life)])
    return True
