"""Why: what moved a candidate for a user, and how a user differs from the population; as answers tell it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from penchant.models.explain.reasons import ExplanationError, UserReasons, explain_items, explain_user
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.service.errors import InvalidRequestError
from penchant.service.log.reading import get_judged_texts, in_force
from penchant.service.store.database import Store
from penchant.service.store.events import LoggedJudgement, find_payloads, find_start_of_newest, replay_events

MAX_JUDGED_TEXTS: Final = 200
"""So many of a user's texts, the newest, are looked at for reasons."""


def explanations(
    reward: RewardModel,
    posterior: UserPosterior,
    vectors: NDArray[np.float16],
    item_keys: Sequence[bytes],
    rows: Sequence[int],
) -> dict[int, dict[str, Any]]:
    """What makes the utility of some of n candidates (`vectors` `[n, dim]`), by row.

    Raises:
        InvalidRequestError: The bundle's text prior has no linear form.
    """
    try:
        found = explain_items(reward, posterior, vectors, item_keys, rows=rows)
    except ExplanationError as error:
        raise InvalidRequestError(("/explain", "The loaded bundle cannot be explained.")) from error
    told = (asdict(explanation) for explanation in found)
    return {explanation.pop("index"): explanation for explanation in told}


@dataclass(frozen=True)
class _Text:
    """A text that a user judged: its place in the log, and its features `[dim]`."""

    seq: int
    event_id: str
    position: int
    key: bytes
    vector: NDArray[np.float16]


class Explainer:
    """Reasons of users, from what they judged.

    Args:
        reward: The model.
        extractor: Identity of the features.
        store: Holds the log and the features of judged texts.
    """

    def __init__(self, reward: RewardModel, extractor: str, store: Store) -> None:
        self._reward = reward
        self._extractor = extractor
        self._store = store

    def reasons(self, tenant: str, user: str, posterior: UserPosterior) -> dict[str, Any] | None:
        """How a user differs from the population; None where the bundle's text prior has no linear form.

        To be called in a thread: it asks the database. Cost: as `explain_user` of 200 texts, whatever the log's length.
        """
        with self._store.reading() as connection:
            since = find_start_of_newest(connection, tenant, user, MAX_JUDGED_TEXTS)
            log = list(replay_events(connection, tenant, user, self._extractor, since=since))
            texts = _newest_texts(in_force(log))
            dim = len(self._reward.text_prior.standardiser.centre)
            vectors = np.stack([text.vector for text in texts]) if texts else np.zeros((0, dim), np.float16)
            try:
                found = explain_user(self._reward, posterior, vectors, [text.key for text in texts])
            except ExplanationError:
                return None
            examples = [texts[reason.index] for reason in found.texts]
            sent = find_payloads(connection, tenant, user, [text.seq for text in examples])
        return _told(found, examples, sent, len(texts))


def _newest_texts(log: Iterable[LoggedJudgement]) -> list[_Text]:
    """Distinct judged texts, newest first."""
    found: dict[bytes, _Text] = {}
    for event in reversed(list(log)):
        for position, key in enumerate(event.item_keys):
            if event.vectors is not None and key not in found:
                found[key] = _Text(event.seq, event.event_id, position, key, event.vectors[position])
    return list(found.values())[:MAX_JUDGED_TEXTS]


def _told(found: UserReasons, texts: Sequence[_Text], sent: Mapping[int, str], judged: int) -> dict[str, Any]:
    """Reasons as answered; `texts` are the examples, `sent` their events as logged, by seq."""
    return {
        "judged_texts": judged,
        "threshold": {
            "effect": found.threshold,
            "std": found.threshold_std,
            "probability": found.probability_easier,
        },
        "attributes": [asdict(attribute) for attribute in found.attributes],
        "named_share": found.named_share,
        "texts": [
            {"event_id": text.event_id, "prompt": prompt, "text": words}
            | {"value": reason.value, "std": reason.std, "probability": reason.probability}
            for reason, text in zip(found.texts, texts, strict=True)
            for prompt, words in _words(sent[text.seq], text.position)
        ],
    }


def _words(payload: str, position: int) -> Sequence[tuple[str, str]]:
    """Return the (prompt, text) of a judged text. Empty if the tenant keeps no texts."""
    return get_judged_texts(orjson.loads(payload))[position : position + 1]
