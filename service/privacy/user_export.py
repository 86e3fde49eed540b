"""All that is held on a user, as plain data that can be read without this program. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from penchant.models.taste.posterior import UserPosterior, stored_numbers
from penchant.service.feedback.trust import TrustState
from penchant.service.store.statements import AnyRow
from penchant.service.store.user_data import UserRows
from penchant.service.timestamps import format_rfc3339
from penchant.service.users.fold import Fold

FORMAT: Final = 1


def exported(user: str, held: UserRows, fold: Fold, now: float) -> dict[str, Any]:
    """The answer to "what do you know of me?".

    Args:
        user: Who.
        held: What the store holds.
        fold: The bundle in use: its states are told as beliefs too.
        now: Unix seconds.
    """
    judged: dict[int, list[dict[str, Any]]] = {}
    for row in held.items:
        judged.setdefault(row.seq, []).append(
            {
                "extractor": row.extractor,
                "position": row.position,
                "feature_key": row.feature_key.hex(),
                "item_key": row.item_key.hex(),
            }
        )
    return {
        "format": FORMAT,
        "user": user,
        "exported_at": format_rfc3339(now),
        "standing": None if held.user is None else _standing(held.user),
        "events": [_event(row, judged.get(row.seq, ())) for row in held.events],
        "states": [_state(row, fold) for row in held.states],
        "rankings": [_ranking(row) for row in held.rankings],
        "stored_answers": [_answer(row, user) for row in held.answers],
    }


def _standing(row: AnyRow) -> dict[str, Any]:
    trust = TrustState.read(row.information_day, row.information, row.trust)
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
            "judgements_today": trust.today,
            "judgements_on_a_usual_day": trust.usual,
            "as_of": format_rfc3339(trust.as_of) if trust.as_of else None,
            "last_burst_at": None if trust.hasty_at is None else format_rfc3339(trust.hasty_at),
        },
    }


def _event(row: AnyRow, judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "event_id": row.event_id,
        "received_at": format_rfc3339(row.received_at),
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
        "texts": list(judged),
    }


def _state(row: AnyRow, fold: Fold) -> dict[str, Any]:
    told = stored_numbers(row.state)
    beliefs: dict[str, Any] | None = None
    if row.bundle_version == fold.bundle_version:
        found = UserPosterior.from_bytes(row.state, fold.reward.population).beliefs
        beliefs = {
            "mean": found.mean.tolist(),
            "std": np.sqrt(np.diagonal(found.covariance)).tolist(),
            "archetype_weights": found.weights.tolist(),
        }
    return {
        "bundle": row.bundle_version,
        "half_life_days": row.half_life_days,
        "through_seq": row.through_seq,
        "as_of": format_rfc3339(row.as_of),
        "judgements": told.judgements,
        "changes": told.changes,
        "surprise": told.surprise,
        "evidence": {"linear": told.linear.tolist(), "precision": told.precision.tolist()},
        "beliefs": beliefs,
    }


def _ranking(row: AnyRow) -> dict[str, Any]:
    shown = orjson.loads(row.shown)
    return {
        "rank_id": row.rank_id,
        "created_at": format_rfc3339(row.created_at),
        "prompts": shown["prompts"],
        "texts": shown["texts"],
    }


def _answer(row: AnyRow, user: str) -> dict[str, Any]:
    """What an answer that is kept says of this user; what it says of others is theirs."""
    mine = [one for one in orjson.loads(row.answer).get("users", ()) if one.get("user") == user]
    return {"idempotency_key": row.key, "created_at": format_rfc3339(row.created_at), "users": mine}
