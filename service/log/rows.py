"""Rows of the log: an event, the texts that it judged, their features and their match with the prompt."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from penchant.models.encoding.features import (
    TextFeatures,
    get_embedding,
    join_vectors,
    pack_features,
    pack_match,
)
from penchant.service.store.judgements import LoggedJudgement


@dataclass(frozen=True)
class JudgedFeatures:
    """The features of the m judged texts of one event, winner first.

    Attributes:
        extractor: Identity of the extractor that computed the features.
        feature_keys: Content keys of the texts' features, m of them.
        item_keys: Item keys of the texts, m of them.
        vectors: `[m, dim]` feature vectors of the texts alone.
        tokens: `[m]` token counts.
        truncated: `[m]` flags of texts that were longer than the encoder's limit.
        windows: Embeddings of each text's windows, m arrays `[w, encoder.dim]`.
        match: `[m, w]` match features of the texts with the prompt. Without columns if the bundle does not read prompts.
        match_version: Version of the match features. Empty if the bundle does not read prompts.
        prompt_key: Content key of the prompt's features. None if the prompt is blank or unknown.
        prompt: The prompt's features. None if the prompt has no key, or if they are stored already.
        reads_prompt_embedding: Whether the bundle reads the embedding of the prompt.
    """

    extractor: str
    feature_keys: tuple[bytes, ...]
    item_keys: tuple[bytes, ...]
    vectors: NDArray[np.float16]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    windows: tuple[NDArray[np.float16], ...]
    match: NDArray[np.float16]
    match_version: str = ""
    prompt_key: bytes | None = None
    prompt: TextFeatures | None = None
    reads_prompt_embedding: bool = False

    @property
    def raw(self) -> NDArray[np.float16]:
        """Raw vectors of the texts with their match, as a reward model reads them."""
        if not self.reads_prompt_embedding or self.prompt is None:
            return join_vectors(self.vectors, self.match)
        embedding = get_embedding(self.prompt.vector)
        return join_vectors(self.vectors, self.match, np.repeat(embedding, len(self.vectors), axis=0))


def build_event_row(
    key: tuple[str, str], logged: LoggedJudgement, content_hash: bytes, payload: str
) -> dict[str, Any]:
    """Build the row of `feedback_events` for one event of a user, given by (tenant, user)."""
    return {
        "tenant": key[0],
        "user_id": key[1],
        "seq": logged.seq,
        "event_id": logged.event_id,
        "content_hash": content_hash,
        "type": logged.type,
        "value": logged.value,
        "weight": logged.weight,
        "discount": logged.discount,
        "flags": logged.flags,
        "groups": orjson.dumps(logged.groups).decode() if logged.groups else None,
        "target_event_id": logged.target,
        "source": logged.source,
        "payload": payload,
        "received_at": logged.received_at,
        "happened_at": None if logged.happened_at == logged.received_at else logged.happened_at,
        "replaced": int(logged.is_replaced),
    }


def build_item_rows(tenant: str, user: str, seq: int, features: JudgedFeatures) -> list[dict[str, Any]]:
    """Build the rows of `judged_items` for one event."""
    return [
        {
            "tenant": tenant,
            "user_id": user,
            "seq": seq,
            "extractor": features.extractor,
            "position": position,
            "feature_key": feature_key,
            "item_key": item_key,
            "match": pack_match(features.match[position]) if features.match_version else None,
            "match_version": features.match_version or None,
            "prompt_key": features.prompt_key,
        }
        for position, (feature_key, item_key) in enumerate(
            zip(features.feature_keys, features.item_keys, strict=True)
        )
    ]


def build_feature_rows(tenant: str, features: JudgedFeatures) -> list[dict[str, Any]]:
    """Build the rows of `features` for one event, that of its prompt last."""
    rows = [
        {
            "tenant": tenant,
            "extractor": features.extractor,
            "feature_key": key,
            "vector": pack_features(features.vectors[i], features.windows[i]),
            "tokens": int(features.tokens[i]),
            "truncated": int(features.truncated[i]),
        }
        for i, key in enumerate(features.feature_keys)
    ]
    return rows + build_prompt_rows(tenant, features)


def build_prompt_rows(tenant: str, features: JudgedFeatures) -> list[dict[str, Any]]:
    """Build the row of `features` for the prompt of one event, if it is known."""
    prompt = features.prompt
    if prompt is None:
        return []
    return [
        {
            "tenant": tenant,
            "extractor": features.extractor,
            "feature_key": features.prompt_key,
            "vector": pack_features(prompt.vector, prompt.windows),
            "tokens": prompt.tokens,
            "truncated": int(prompt.truncated),
        }
    ]
