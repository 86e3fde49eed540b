"""Bundles that an installation ranks with, has ranked with, or prepares."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, or_, select, text, tuple_, update

from penchant.service.store import activations, feed
from penchant.service.store.activations import CHANGE, NO_TENANT
from penchant.service.store.database import Store
from penchant.service.store.statements import insert_new, insert_or_replace
from penchant.service.store.tables import (
    bundles,
    checkpoints,
    features,
    feedback_events,
    judged_items,
    user_states,
)

_FAILURES_KEPT_SECONDS: Final = 86_400.0
_STATES_AT_ONCE: Final = 500  # deleted in one transaction
_LOCK: Final = 0x70656E_7072_6570  # PostgreSQL advisory lock held by the server that prepares a bundle
Status = Literal["preparing", "ready", "failed"]
UserKey = tuple[str, str]


@dataclass(frozen=True)
class StoredBundle:
    """A bundle in the store, without its archive.

    Attributes:
        version: Version of the bundle.
        name: Name of the bundle.
        extractor: Identity of the features that it reads.
        status: `preparing` while users are learned for it, `ready` if it ranks or has ranked, or `failed`.
        users_total: Number of users to be learned for it.
        users_done: Number of users learned so far.
        events_unmatched: Number of events that were learned for it without their match, because the prompt is unknown.
        events_partly_matched: Number of events that were learned with the similarity to the prompt only.
        events_left_out: Number of events that were not learned, because their texts were not kept.
        message: Reason of a failure.
        created_at: Unix seconds.
        updated_at: Time of the last progress, in Unix seconds.
    """

    version: str
    name: str
    extractor: str
    status: Status
    users_total: int
    users_done: int
    events_unmatched: int
    events_partly_matched: int
    events_left_out: int
    message: str
    created_at: float
    updated_at: float


def put_preparing(
    connection: Connection, version: str, name: str, extractor: str, archive: bytes, *, now: float
) -> None:
    """Store a bundle that servers are to prepare, in place of any other one in preparation, and notify them."""
    c = bundles.c
    connection.execute(
        update(bundles)
        .where(c.tenant == NO_TENANT, c.status == "preparing", c.bundle_version != version)
        .values(status="failed", message=f"replaced by {version}", updated_at=now)
    )
    row = _row(version, name, extractor, archive, now)
    insert_or_replace(connection, bundles, [row | {"status": "preparing"}])
    feed.append(connection, NO_TENANT, CHANGE, {"version": version}, now)


def put_first(
    connection: Connection, version: str, name: str, extractor: str, archive: bytes, *, now: float
) -> None:
    """Store and activate the bundle that the store's first server starts with, unless a bundle is active."""
    row = _row(version, name, extractor, archive, now)
    insert_new(connection, bundles, [row | {"status": "ready"}])
    activations.activate_first(connection, version, now=now)


def find_preparing(connection: Connection) -> str | None:
    """Return the version of the bundle in preparation, or None."""
    c = bundles.c
    statement = select(c.bundle_version).where(c.tenant == NO_TENANT, c.status == "preparing")
    return connection.scalar(statement.order_by(c.created_at.desc()).limit(1))


def find_bundle(connection: Connection, version: str) -> StoredBundle | None:
    """Return a bundle by its version, or None if the store does not hold it."""
    return next((bundle for bundle in list_bundles(connection) if bundle.version == version), None)


def list_bundles(connection: Connection) -> list[StoredBundle]:
    """Return all bundles, oldest first."""
    c = bundles.c
    columns: tuple[ColumnElement[Any], ...] = (
        c.bundle_version,
        c.name,
        c.extractor,
        c.status,
        c.users_total,
        c.users_done,
        c.events_unmatched,
        c.events_partly_matched,
        c.events_left_out,
        c.message,
        c.created_at,
        c.updated_at,
    )
    statement = select(*columns).where(c.tenant == NO_TENANT)
    return [StoredBundle(*row) for row in connection.execute(statement.order_by(c.created_at))]


def find_archive(connection: Connection, version: str) -> bytes | None:
    """Return the folder of a bundle as a tar, or None if the store does not hold it."""
    c = bundles.c
    return connection.scalar(select(c.archive).where(c.tenant == NO_TENANT, c.bundle_version == version))


def record_progress(connection: Connection, version: str, *, done: int, total: int, now: float) -> bool:
    """Record how many users were learned, and return whether the bundle is still in preparation."""
    return _update_preparing(
        connection, version, {"users_done": done, "users_total": total, "updated_at": now}
    )


def add_shortfall(
    connection: Connection, version: str, *, unmatched: int, partly_matched: int, left_out: int
) -> None:
    """Add to the numbers of events that a bundle cannot use in full; see `StoredBundle`."""
    c = bundles.c
    values = {
        c.events_unmatched: c.events_unmatched + unmatched,
        c.events_partly_matched: c.events_partly_matched + partly_matched,
        c.events_left_out: c.events_left_out + left_out,
    }
    connection.execute(
        update(bundles).where(c.tenant == NO_TENANT, c.bundle_version == version).values(values)
    )


def mark_failed(connection: Connection, version: str, message: str, *, now: float) -> bool:
    """Mark a bundle in preparation as failed, notify the servers, and return whether it was in preparation."""
    values = {"status": "failed", "message": message, "updated_at": now}
    failed = _update_preparing(connection, version, values)
    if failed:
        feed.append(connection, NO_TENANT, CHANGE, {"version": version}, now)
    return failed


def activate_prepared(connection: Connection, version: str, *, now: float) -> bool:
    """Activate a prepared bundle. Return False, and do nothing, if it is no longer in preparation."""
    is_wanted = _update_preparing(connection, version, {"status": "ready", "updated_at": now})
    if is_wanted:
        activations.activate(connection, version, now=now)
    return is_wanted


@contextmanager
def preparation_lock(store: Store) -> Iterator[bool]:
    """Try to reserve the preparation of bundles for this server until the block ends, and yield whether that worked."""
    if not store.shared:
        yield True
        return
    with store.holding() as connection:
        is_free = connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK})
        try:
            yield bool(is_free)
        finally:
            if is_free and not connection.invalidated:
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})


def find_unreadable(
    connection: Connection, extractor: str, window_extractor: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield (tenant, payload) of judgements without features by an extractor that may have no texts to compute them.

    Args:
        connection: Connection to read from.
        extractor: Identity of the extractor.
        window_extractor: Identity of the features by the same encoder when it reads a single window of each text. If all
            texts of a judgement fitted one window, these features can be used as they are.

    Cost: a scan of the log.
    """
    log, items = feedback_events.c, judged_items.c
    of_event = (items.tenant == log.tenant, items.user_id == log.user_id, items.seq == log.seq)
    with_features = select(items.seq).where(*of_event, items.extractor == extractor)
    in_one_window = select(items.seq).where(*of_event, items.extractor == window_extractor)
    is_whole = and_(
        features.c.tenant == items.tenant,
        features.c.extractor == items.extractor,
        features.c.feature_key == items.feature_key,
        features.c.truncated == 0,
    )
    not_whole = in_one_window.where(~select(features.c.feature_key).where(is_whole).exists())
    # A payload without texts has a hash in place of a prompt. Metadata of an app may contain the word as well.
    may_lack_texts = log.payload.contains('"context":', autoescape=True)
    statement = select(log.tenant, log.payload).where(
        log.target_event_id.is_(None),
        may_lack_texts,
        ~with_features.exists(),
        or_(~in_one_window.exists(), not_whole.exists()),
    )
    for row in connection.execute(statement.execution_options(yield_per=1000)):
        yield row.tenant, row.payload


def drop_outdated(connection: Connection, keep: str, now: float, after: UserKey) -> UserKey | None:
    """Delete a bundle that is neither active nor the previous one, together with its states, a page at a time.

    Args:
        connection: Connection in a write transaction.
        keep: Version of a bundle that always stays.
        now: Unix seconds. A failed bundle stays for a day, so that its message can be read.
        after: Result of the previous call, or ("", "") at first.

    Returns:
        Value of `after` for the next call, or None if nothing more is to be deleted.
    """
    c, states = bundles.c, user_states.c
    in_use = (activations.find_active(connection), activations.find_previous(connection))
    kept = [version for version in (keep, *in_use) if version is not None]
    is_old = or_(c.status == "ready", and_(c.status == "failed", c.updated_at < now - _FAILURES_KEPT_SECONDS))
    statement = select(c.bundle_version).where(c.tenant == NO_TENANT, is_old, c.bundle_version.not_in(kept))
    version = connection.scalar(statement.order_by(c.bundle_version).limit(1))
    if version is None:
        return None
    beyond = or_(states.tenant > after[0], and_(states.tenant == after[0], states.user_id > after[1]))
    page = connection.execute(
        select(states.tenant, states.user_id)
        .where(_is_of_bundle(user_states, version), beyond)
        .distinct()
        .order_by(states.tenant, states.user_id)
        .limit(_STATES_AT_ONCE)
    ).all()
    if page:
        keys = [tuple(row) for row in page]
        for table in (user_states, checkpoints):
            connection.execute(
                delete(table).where(
                    _is_of_bundle(table, version), tuple_(table.c.tenant, table.c.user_id).in_(keys)
                )
            )
    if len(page) == _STATES_AT_ONCE:
        return page[-1].tenant, page[-1].user_id
    connection.execute(delete(bundles).where(c.tenant == NO_TENANT, c.bundle_version == version))
    return "", ""


def _is_of_bundle(table: Table, version: str) -> ColumnElement[bool]:
    """Return the condition that a state was learned for a bundle, with a declared signal or without."""
    # With a declared signal, a state's version is the bundle's, a plus sign and a mark of the signal.
    stored = table.c.bundle_version
    return or_(stored == version, stored.startswith(f"{version}+", autoescape=True))


def _update_preparing(connection: Connection, version: str, values: Mapping[str, Any]) -> bool:
    """Update a bundle if it is in preparation, and return whether it is."""
    c = bundles.c
    is_preparing = and_(c.tenant == NO_TENANT, c.bundle_version == version, c.status == "preparing")
    return connection.execute(update(bundles).where(is_preparing).values(values)).rowcount > 0


def _row(version: str, name: str, extractor: str, archive: bytes, now: float) -> dict[str, Any]:
    return {
        "tenant": NO_TENANT,
        "bundle_version": version,
        "name": name,
        "extractor": extractor,
        "archive": archive,
        "users_total": 0,
        "users_done": 0,
        "events_unmatched": 0,
        "events_partly_matched": 0,
        "events_left_out": 0,
        "message": "",
        "created_at": now,
        "updated_at": now,
    }
