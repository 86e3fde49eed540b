"""Bundles that an installation ranks with, has ranked with, or makes ready to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, and_, delete, or_, select, text, tuple_, update

from penchant.service.store import activations, feed
from penchant.service.store.activations import CHANGE, NOBODY_S
from penchant.service.store.database import Store
from penchant.service.store.statements import insert_new, insert_or_replace
from penchant.service.store.tables import bundles, feedback_events, judged_items, user_states

_FAILURES_KEPT_SECONDS: Final = 86_400.0
_STATES_AT_ONCE: Final = 500  # removed in one transaction
_PREPARING: Final = 0x70656E_7072_6570  # of PostgreSQL's advisory locks: the preparing server's
Status = Literal["preparing", "ready", "failed"]
UserKey = tuple[str, str]


@dataclass(frozen=True)
class StoredBundle:
    """A bundle in the store, without its archive.

    Attributes:
        version: Its version.
        name: Its name.
        extractor: Identity of the features that it reads.
        status: `ready`: it ranks, or did; what may become of it else.
        users_total: Users to be learned for it.
        users_done: Those that were.
        message: Why it failed.
        created_at: Unix seconds.
        updated_at: Of the last progress, Unix seconds.
    """

    version: str
    name: str
    extractor: str
    status: Status
    users_total: int
    users_done: int
    message: str
    created_at: float
    updated_at: float


def put(
    connection: Connection, version: str, name: str, extractor: str, archive: bytes, *, now: float
) -> None:
    """Has a bundle made ready in the place of whichever was being made ready; servers hear of it."""
    c = bundles.c
    connection.execute(
        update(bundles)
        .where(c.tenant == NOBODY_S, c.status == "preparing", c.bundle_version != version)
        .values(status="failed", message=f"{version} came in its place", updated_at=now)
    )
    row = _row(version, name, extractor, archive, now)
    insert_or_replace(connection, bundles, [row | {"status": "preparing"}])
    feed.append(connection, NOBODY_S, CHANGE, {"version": version}, now)


def put_first(
    connection: Connection, version: str, name: str, extractor: str, archive: bytes, *, now: float
) -> None:
    """Has a bundle rank, unless the store knows one that does: what its first server was started with."""
    row = _row(version, name, extractor, archive, now)
    insert_new(connection, bundles, [row | {"status": "ready"}])
    activations.activate_first(connection, version, now=now)


def preparing(connection: Connection) -> str | None:
    """Version of the bundle that is being made ready."""
    c = bundles.c
    statement = select(c.bundle_version).where(c.tenant == NOBODY_S, c.status == "preparing")
    return connection.scalar(statement.order_by(c.created_at.desc()).limit(1))


def find(connection: Connection, version: str) -> StoredBundle | None:
    """One bundle."""
    found = [bundle for bundle in all_bundles(connection) if bundle.version == version]
    return found[0] if found else None


def all_bundles(connection: Connection) -> list[StoredBundle]:
    """All bundles, oldest first."""
    c = bundles.c
    statement = select(
        c.bundle_version,
        c.name,
        c.extractor,
        c.status,
        c.users_total,
        c.users_done,
        c.message,
        c.created_at,
        c.updated_at,
    ).where(c.tenant == NOBODY_S)
    return [StoredBundle(*row) for row in connection.execute(statement.order_by(c.created_at))]


def archive(connection: Connection, version: str) -> bytes | None:
    """The folder of a bundle as a tar; None where it is not there any more."""
    c = bundles.c
    return connection.scalar(select(c.archive).where(c.tenant == NOBODY_S, c.bundle_version == version))


def tell_progress(connection: Connection, version: str, *, done: int, total: int, now: float) -> bool:
    """Notes how many users were learned; returns whether the bundle is still to be made ready."""
    return _change(connection, version, {"users_done": done, "users_total": total, "updated_at": now})


def fail(connection: Connection, version: str, message: str, *, now: float) -> bool:
    """Gives up a bundle that is being made ready; returns whether it was."""
    failed = _change(connection, version, {"status": "failed", "message": message, "updated_at": now})
    if failed:
        feed.append(connection, NOBODY_S, CHANGE, {"version": version}, now)
    return failed


def activate_prepared(connection: Connection, version: str, *, now: float) -> bool:
    """Has a bundle rank that was made ready; returns False, and does nothing, where it is not wanted any more."""
    wanted = _change(connection, version, {"status": "ready", "updated_at": now})
    if wanted:
        activations.activate(connection, version, now=now)
    return wanted


@contextmanager
def alone_to_prepare(store: Store) -> Iterator[bool]:
    """Whether this server is the one to make a bundle ready; if so, no other is before the block ends."""
    if not store.shared:
        yield True
        return
    with store.holding() as connection:
        free = connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _PREPARING})
        try:
            yield bool(free)
        finally:
            if free and not connection.invalidated:
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _PREPARING})


def lost_to(connection: Connection, extractor: str) -> Iterator[tuple[str, str]]:
    """(tenant, payload) of judgements that may be without texts and have no features by an extractor.

    Cost: a scan of the log.
    """
    log, items = feedback_events.c, judged_items.c
    readable = select(items.seq).where(
        items.tenant == log.tenant,
        items.user_id == log.user_id,
        items.seq == log.seq,
        items.extractor == extractor,
    )
    # A hash in the place of a prompt marks them; an app's metadata may hold the word as well.
    marked = log.payload.contains('"context":', autoescape=True)
    statement = select(log.tenant, log.payload).where(
        log.target_event_id.is_(None), marked, ~readable.exists()
    )
    for row in connection.execute(statement.execution_options(yield_per=1000)):
        yield row.tenant, row.payload


def drop_outdated(connection: Connection, keep: str, now: float, after: UserKey) -> UserKey | None:
    """Removes a bundle that neither ranks nor did so last, with its states, some of them at a time.

    Args:
        connection: A write transaction.
        keep: Version of a bundle that stays in any case.
        now: Unix seconds. A bundle that failed is shown for a day.
        after: What the call before gave; at first ("", "").

    Returns:
        What to call it with again, at once; None where nothing more is to be removed.
    """
    c, states = bundles.c, user_states.c
    ranking = (activations.active(connection), activations.previous(connection))
    kept = [version for version in (keep, *ranking) if version is not None]
    old = or_(c.status == "ready", and_(c.status == "failed", c.updated_at < now - _FAILURES_KEPT_SECONDS))
    statement = select(c.bundle_version).where(c.tenant == NOBODY_S, old, c.bundle_version.not_in(kept))
    version = connection.scalar(statement.order_by(c.bundle_version).limit(1))
    if version is None:
        return None
    beyond = or_(states.tenant > after[0], and_(states.tenant == after[0], states.user_id > after[1]))
    page = connection.execute(
        select(states.tenant, states.user_id)
        .where(states.bundle_version == version, beyond)
        .order_by(states.tenant, states.user_id)
        .limit(_STATES_AT_ONCE)
    ).all()
    if page:
        connection.execute(
            delete(user_states).where(
                states.bundle_version == version,
                tuple_(states.tenant, states.user_id).in_([tuple(row) for row in page]),
            )
        )
    if len(page) == _STATES_AT_ONCE:
        return page[-1].tenant, page[-1].user_id
    connection.execute(delete(bundles).where(c.tenant == NOBODY_S, c.bundle_version == version))
    return "", ""


def _change(connection: Connection, version: str, values: Mapping[str, Any]) -> bool:
    """Changes a bundle that is being made ready; returns whether it is."""
    c = bundles.c
    mine = and_(c.tenant == NOBODY_S, c.bundle_version == version, c.status == "preparing")
    return connection.execute(update(bundles).where(mine).values(values)).rowcount > 0


def _row(version: str, name: str, extractor: str, archive: bytes, now: float) -> dict[str, Any]:
    return {
        "tenant": NOBODY_S,
        "bundle_version": version,
        "name": name,
        "extractor": extractor,
        "archive": archive,
        "users_total": 0,
        "users_done": 0,
        "message": "",
        "created_at": now,
        "updated_at": now,
    }
