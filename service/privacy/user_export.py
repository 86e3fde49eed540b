"""Everything that is stored about a user, as plain data. This module does no I/O."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from penchant.models.encoding.features import unpack_match
from penchant.models.encoding.match import MATCH_NAMES
from penchant.models.taste.posterior import UserPosterior, read_stored_posterior
from penchant.service.feedback.trust import TrustState
from penchant.service.store.statements import AnyRow
from penchant.service.store.user_data import UserRows
from penchant.service.timestamps import format_rfc3339
from penchant.service.users.fold import Fold

FORMAT: Final = 1


def export_user(user: str, rows: UserRows, fold: Fold, now: float) -> dict[str, Any]:
    """Return everything that is stored about a user.

    Args:
        user: Id of the user.
        rows: The user's rows in the store.
        fold: Fold of the active bundle. Its state is also exported as beliefs.
        now: Unix seconds.
    """
    texts: dict[int, list[dict[str, Any]]] = {}
    for row in rows.items:
        texts.setdefault(row.seq, []).append(
            {
                "extractor": row.extractor,
                "position": row.position,
                "feature_key": row.feature_key.hex(),
                "item_key": row.item_key.hex(),
                "match": _export_match(row.match),
                "match_version": row.match_version,
                "prompt_key": None if row.prompt_key is None else row.prompt_key.hex(),
            }
        )
    return {
        "format": FORMAT,
        "user": user,
        "exported_at": format_rfc3339(now),
        "standing": None if rows.user is None else _export_user_row(rows.user),
        "events": [_export_event(row, texts.get(row.seq, ())) for row in rows.events],
        "states": [_export_state(row, fold) for row in rows.states],
        "rankings": [_export_ranking(row) for row in rows.rankings],
        "stored_answers": [_export_answer(row, user) for row in rows.answers],
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
        "event": orjson.loads(row.payload),
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


def _export_state(row: AnyRow, fold: Fold) -> dict[str, Any]:
    numbers = read_stored_posterior(row.state)
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
