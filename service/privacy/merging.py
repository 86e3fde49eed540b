"""Merging two users: the logs become one, in order of arrival, and the state is learned from it again.

The events of both get new places after the end of both logs, part by part. Meanwhile neither log takes feedback, and
rankings use the states that were saved. `users.pending` of the remaining user holds the plan, so that any server can
continue it; that of the other user names the remaining one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import orjson
from sqlalchemy import Connection

from penchant.service.errors import ApiError, Code, user_busy_error
from penchant.service.feedback.trust import TrustState
from penchant.service.store.long_logs.user_changes import PART_EVENTS, list_places, move_requests, move_runs
from penchant.service.store.statements import AnyRow
from penchant.service.store.users import (
    drop_states,
    drop_user,
    find_user,
    lock_users,
    put_user,
    update_user,
)


@dataclass(frozen=True)
class MergePlan:
    """A merge under way, as `users.pending` of the remaining user holds it.

    Attributes:
        source: User who is merged into the remaining one.
        offset: Greatest place in either log before the merge. Events beyond it have been moved.
        moved: Number of events that have been moved, of both users.
        merged: Number of those that were the source's.
        latest: Latest time of arrival among the moved events of the remaining user and of the source, in Unix seconds.
        cursor: Place of the last moved event of the remaining user and of the source, in their old logs.
    """

    source: str
    offset: int
    moved: int = 0
    merged: int = 0
    latest: tuple[float, float] = (0.0, 0.0)
    cursor: tuple[int, int] = (0, 0)

    def to_json(self) -> str:
        """Return the plan as JSON."""
        return orjson.dumps({"merge": asdict(self)}).decode()

    @classmethod
    def read(cls, pending: str | None) -> "MergePlan | None":
        """Return the plan that a column `pending` holds, or None if it holds no plan."""
        if pending is None or not pending.startswith("{"):
            return None
        plan = orjson.loads(pending).get("merge")
        if plan is None:
            return None
        return cls(**plan | {"latest": tuple(plan["latest"]), "cursor": tuple(plan["cursor"])})


@dataclass(frozen=True)
class MergeStep:
    """The result of one transaction.

    Attributes:
        row: Row of the remaining user.
        merged: Number of the source's events that were moved so far.
        is_done: Whether the merge is complete.
        changed: Whether this transaction changed anything.
    """

    row: AnyRow
    merged: int
    is_done: bool
    changed: bool = True


def merge_step(connection: Connection, tenant: str, user: str, source: str) -> MergeStep:
    """Begin a merge, or continue it by one part.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant of both users.
        user: User who remains.
        source: User who is merged into that one.

    Raises:
        ApiError: `user_not_found`, if neither is known.
        ApiError: `user_busy`, if another change of one of them is under way.
    """
    lock_users(connection, [(tenant, user), (tenant, source)])
    target_row, source_row = (find_user(connection, tenant, name) for name in (user, source))
    plan = MergePlan.read(target_row.pending if target_row else None)
    if plan is None or plan.source != source:
        if source_row is None:
            if target_row is None:
                raise ApiError(Code.USER_NOT_FOUND, "Neither user is known.")
            return MergeStep(target_row, 0, is_done=True, changed=False)
        plan = _begin(connection, tenant, user, target_row, source_row)
    plan, is_done = _move_part(connection, tenant, user, plan)
    if is_done and not move_requests(connection, tenant, source, user):
        return MergeStep(_finish(connection, tenant, user, plan), plan.merged, is_done=True)
    update_user(connection, tenant, user, {"pending": plan.to_json()})
    return MergeStep(_get_user(connection, tenant, user), plan.merged, is_done=False)


def _begin(
    connection: Connection, tenant: str, user: str, target_row: AnyRow | None, source_row: AnyRow
) -> MergePlan:
    """Close both logs to feedback, and return the plan."""
    for row in (target_row, source_row):
        if row is not None and row.pending is not None:
            raise user_busy_error(row.user_id)
    offset = max(row.last_seq for row in (target_row, source_row) if row is not None)
    plan = MergePlan(source_row.user_id, offset)
    if target_row is None:
        fresh = {"version": 0, "feedback_events": 0, "last_seq": 0, "updated_at": source_row.updated_at}
        trust = {"information_day": 0, "information": 0.0, "trust": None}
        put_user(connection, tenant, user, fresh | trust | {"pending": plan.to_json()})
    else:
        update_user(connection, tenant, user, {"pending": plan.to_json()})
    into = orjson.dumps({"merged_into": user}).decode()
    update_user(connection, tenant, source_row.user_id, {"pending": into})
    return plan


def _move_part(connection: Connection, tenant: str, user: str, plan: MergePlan) -> tuple[MergePlan, bool]:
    """Give the next events their new places. Return the plan after that, and whether all events have been moved."""
    names = (user, plan.source)
    logs = tuple(
        [
            (row.seq, row.received_at)
            for row in list_places(connection, tenant, name, after=cursor, until=plan.offset)
        ]
        for name, cursor in zip(names, plan.cursor, strict=True)
    )
    moved, merged, cursor, latest = plan.moved, plan.merged, list(plan.cursor), list(plan.latest)
    order = merge_order(logs, plan.latest, PART_EVENTS)
    runs: tuple[list[tuple[int, int, int]], ...] = ([], [])
    for which, places in _group_runs(order):
        runs[which].append((places[0], places[-1], plan.offset + moved + 1))
        moved += len(places)
        merged += which * len(places)
        cursor[which] = places[-1]
    for name, moves in zip(names, runs, strict=True):
        move_runs(connection, tenant, name, user, moves)
    for which, _, time in order:
        latest[which] = time
    is_done = len(order) == sum(len(log) for log in logs)
    after = MergePlan(plan.source, plan.offset, moved, merged, (latest[0], latest[1]), (cursor[0], cursor[1]))
    return after, is_done


def merge_order(
    logs: Sequence[Sequence[tuple[int, float]]], latest: tuple[float, float], limit: int
) -> list[tuple[int, int, float]]:
    """Return the order in which the events of two logs follow each other: by time of arrival.

    Each log keeps its own order even if its clock was set back, so that a judgement stays before its retraction.

    Args:
        logs: (seq, received_at) of the remaining user's next events, and of the source's. At equal times the source's
            come second. At most `limit` of them are placed, so that a log cut off beyond `limit` does no harm.
        latest: Latest time among the earlier events of each.
        limit: Largest number of events to return.

    Returns:
        For each event: 0 or 1 for its log, its seq, and the latest time of arrival in its log up to there.
    """
    order: list[tuple[int, int, float]] = []
    at, times = [0, 0], list(latest)
    while len(order) < limit and (at[0] < len(logs[0]) or at[1] < len(logs[1])):
        ahead = [
            (max(times[which], log[at[which]][1]), which)
            for which, log in enumerate(logs)
            if at[which] < len(log)
        ]
        time, which = min(ahead)
        order.append((which, logs[which][at[which]][0], time))
        times[which] = time
        at[which] += 1
    return order


def _group_runs(order: Sequence[tuple[int, int, float]]) -> Iterator[tuple[int, list[int]]]:
    """Yield the log and the places of events that follow each other in the new log as in the old one, without a gap."""
    run: list[int] = []
    of = 0
    for which, seq, _ in order:
        if run and (which != of or seq != run[-1] + 1):
            yield of, run
            run = []
        of = which
        run.append(seq)
    if run:
        yield of, run


def _finish(connection: Connection, tenant: str, user: str, plan: MergePlan) -> AnyRow:
    """Open the merged log, whose state is learned again, and delete the source."""
    target_row, source_row = (find_user(connection, tenant, name) for name in (user, plan.source))
    known = [row for row in (target_row, source_row) if row is not None]
    drop_states(connection, tenant, [user, plan.source])
    drop_user(connection, tenant, plan.source)
    with_feedback = [row for row in known if row.feedback_events] or known
    trusts = [
        TrustState.from_stored(row.information_day, row.information, row.trust) for row in with_feedback
    ]
    trust = trusts[0] if len(trusts) == 1 else trusts[0].merge_with(trusts[1])
    row = {
        "version": sum(row.version for row in known) + 1,
        "feedback_events": plan.moved,
        "last_seq": plan.offset + plan.moved,
        "information_day": trust.day,
        "information": trust.information,
        "trust": trust.to_json(),
        "updated_at": max(row.updated_at for row in known),
        "pending": None,
    }
    put_user(connection, tenant, user, row)
    return _get_user(connection, tenant, user)


def _get_user(connection: Connection, tenant: str, user: str) -> AnyRow:
    row = find_user(connection, tenant, user)
    if row is None:
        raise RuntimeError("the row of the merged user is missing")
    return row
