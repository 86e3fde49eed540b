"""Everything that is stored about a user, as one JSON document that is written piece by piece."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final

import numpy as np
import orjson
from sqlalchemy import Connection

from penchant.models.encoding.features import unpack_match
from penchant.models.encoding.match import MATCH_NAMES
from penchant.models.taste.posterior import PosteriorError, UserPosterior, read_stored_posterior
from penchant.service.feedback.trust import TrustState
from penchant.service.store.long_logs.user_log import (
    find_states,
    iterate_answers,
    iterate_events,
    iterate_rankings,
)
from penchant.service.store.statements import AnyRow
from penchant.service.store.users import find_user
from penchant.service.timestamps import format_rfc3339
from penchant.service.users.fold import Fold

FORMAT: Final = 1


def write_export(
    connection: Connection, tenant: str, user: str, file: IO[bytes], *, fold: Fold, now: float
) -> bool:
    """Write everything that is stored about a user as one JSON object, and return whether anything is.

    Args:
        connection: Connection with one consistent view of the store.
        tenant: Tenant of the user.
        user: Id of the user.
        file: File to write to.
        fold: Fold of the active bundle. Its state is also exported as beliefs.
        now: Unix seconds.

    Cost: linear. Memory does not grow with what is stored.
    """
    row = find_user(connection, tenant, user)
    head = {
        "format": FORMAT,
        "user": user,
        "exported_at": format_rfc3339(now),
        "standing": None if row is None else _export_user_row(row),
    }
    lists: tuple[tuple[bytes, Iterator[dict[str, Any]]], ...] = (
        (b"events", _iterate_events(connection, tenant, user)),
        (b"states", _iterate_states(connection, tenant, user, fold)),
        (
            b"rankings",
            (_export_ranking(own) for part in iterate_rankings(connection, tenant, user) for own in part),
        ),
        (
            b"stored_answers",
            (_export_answer(own, user) for part in iterate_answers(connection, tenant, user) for own in part),
        ),
    )
    file.write(orjson.dumps(head)[:-1])
    written = {name: _write_list(name, entries, file) for name, entries in lists}
    file.write(b"}")
    return row is not None or bool(written[b"rankings"] or written[b"stored_answers"])


def _write_list(name: bytes, entries: Iterator[dict[str, Any]], file: IO[bytes]) -> int:
    """Write a list as a member of an object that has others, and return the number of its entries."""
    number = 0
    file.write(b',"%b":[' % name)
    for number, entry in enumerate(entries, start=1):
        file.write(orjson.dumps(entry) if number == 1 else b"," + orjson.dumps(entry))
    file.write(b"]")
    return number


def _iterate_events(connection: Connection, tenant: str, user: str) -> Iterator[dict[str, Any]]:
    for events, texts in iterate_events(connection, tenant, user):
        for event in events:
            yield _export_event(event, [_export_text(text) for text in texts.get(event.seq, ())])


def _iterate_states(connection: Connection, tenant: str, user: str, fold: Fold) -> Iterator[dict[str, Any]]:
    for row in find_states(connection, tenant, user):
        state = _export_state(row, fold)
        if state is not None:
            yield state


def _export_text(row: AnyRow) -> dict[str, Any]:
    return {
        "extractor": row.extractor,
        "position": row.position,
        "feature_key": row.feature_key.hex(),
        "item_key": row.item_key.hex(),
        "match": _export_match(row.match),
        "match_version": row.match_version,
        "prompt_key": None if row.prompt_key is None else row.prompt_key.hex(),
    }


def _export_user_row(row: AnyRow) -> dict[str, Any]:
    trust = TrustState.from_stored(row.information_day, row.information, row.trust)
    return {
        "posterior_version": row.version,
        "feedback_events": row.feedback_events,
        "last_seq": row.last_seq,
        "updated_at": format_rfc3339(row.updated_at),
        "information": {
            "day": format_rfc3339(row.information_day * 86_400.0)[:10],
            "judgements": row.information,
        },
        "trust": {
            "share": trust.trust,
            "alpha": trust.alpha,
            "beta": trust.beta,
            "judgements_today": trust.events_today,
            "judgements_on_a_usual_day": trust.mean_daily_events,
            "as_of": format_rfc3339(trust.updated_at) if trust.updated_at else None,
            "last_burst_at": None if trust.last_burst_at is None else format_rfc3339(trust.last_burst_at),
        },
    }


def _export_event(row: AnyRow, texts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "event_id": row.event_id,
        "received_at": format_rfc3339(row.received_at),
        "happened_at": format_rfc3339(row.received_at if row.happened_at is None else row.happened_at),
        "is_replaced": bool(row.replaced),
        "event": orjson.Fragment(row.payload),  # as it was stored, however deeply it is nested
        "learned": {
            "type": row.type,
            "value": row.value,
            "weight": row.weight,
            "discount": row.discount,
            "flags": row.flags.split(",") if row.flags else [],
            "groups": orjson.loads(row.groups) if row.groups else None,
            "target_event_id": row.target_event_id,
            "source": row.source,
        },
        "content_hash": row.content_hash.hex(),
        "texts": list(texts),
    }


def _export_match(content: bytes | None) -> dict[str, float | None] | None:
    """Return the match features by name. Unknown ones are null."""
    if content is None:
        return None
    values = unpack_match(content).tolist()
    return {
        name: None if math.isnan(value) else value for name, value in zip(MATCH_NAMES, values, strict=False)
    }


def _export_state(row: AnyRow, fold: Fold) -> dict[str, Any] | None:
    """Return a state as plain data, or None if it is unreadable and will be learned again."""
    try:
        numbers = read_stored_posterior(row.state)
    except PosteriorError:
        return None
    beliefs: dict[str, Any] | None = None
    if row.bundle_version == fold.bundle_version:
        posterior = UserPosterior.from_bytes(row.state, fold.reward.population).beliefs
        beliefs = {
            "mean": posterior.mean.tolist(),
            "std": np.sqrt(np.diagonal(posterior.covariance)).tolist(),
            "archetype_weights": posterior.weights.tolist(),
        }
    return {
        "bundle": row.bundle_version,
        "half_life_days": row.half_life_days,
        "through_seq": row.through_seq,
        "as_of": format_rfc3339(row.as_of),
        "judgements": numbers.judgements,
        "changes": numbers.changes,
        "surprise": numbers.change_statistic,
        "evidence": {"linear": numbers.linear.tolist(), "precision": numbers.precision.tolist()},
        "beliefs": beliefs,
    }


def _export_ranking(row: AnyRow) -> dict[str, Any]:
    shown = orjson.loads(row.shown)
    return {
        "rank_id": row.rank_id,
        "created_at": format_rfc3339(row.created_at),
        "prompts": shown["prompts"],
        "texts": shown["texts"],
    }


def _export_answer(row: AnyRow, user: str) -> dict[str, Any]:
    """Return what a stored answer says about this user, without what it says about others."""
    entries = [entry for entry in orjson.loads(row.answer).get("users", ()) if entry.get("user") == user]
    return {"idempotency_key": row.key, "created_at": format_rfc3339(row.created_at), "users": entries}
