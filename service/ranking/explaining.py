"""Explanations for responses: why a candidate has its utility, and how a user differs from the population."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from penchant.models.explain.reasons import (
    Explanation,
    ExplanationError,
    UserReasons,
    explain_user,
    iterate_explanations,
)
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.service.errors import InvalidRequestError
from penchant.service.log.reading import get_judged_texts, in_force
from penchant.service.store.database import Store
from penchant.service.store.events import find_payloads, find_start_of_newest
from penchant.service.store.judgements import LoggedJudgement, replay_events

MAX_JUDGED_TEXTS: Final = 200
"""Largest number of judged texts, the newest first, from which a user's reasons are computed."""

MAX_EXAMPLE_CHARS: Final = 1_000_000
"""Characters of prompts and texts after which a user's reasons name no further examples. They name at least one."""


def explain_candidates(
    reward: RewardModel,
    posterior: UserPosterior,
    vectors: NDArray[np.float16],
    item_keys: Sequence[bytes],
    *,
    rows: Sequence[int],
    personalization: float,
) -> dict[int, orjson.Fragment]:
    """Explain the utilities of some of n candidates. Return the explanations by row, as JSON.

    Args:
        reward: The model.
        posterior: Posterior of the user.
        vectors: `[n, width]` raw vectors of all candidates.
        item_keys: n item keys.
        rows: Rows of the candidates to explain.
        personalization: Strength of personalization, from 0 to 1.

    Raises:
        InvalidRequestError: If the bundle's text prior is not linear.
    """
    explanations = iterate_explanations(
        reward, posterior, vectors, item_keys, rows=rows, personalization=personalization
    )
    try:
        return {explanation.index: _write_explanation(explanation) for explanation in explanations}
    except ExplanationError as error:
        raise InvalidRequestError(("/explain", "The loaded bundle cannot be explained.")) from error


def _write_explanation(explanation: Explanation) -> orjson.Fragment:
    """Return an explanation as JSON, without the index of its text."""
    named = {field.name: getattr(explanation, field.name) for field in fields(explanation)}
    del named["index"]
    return orjson.Fragment(orjson.dumps(named))


@dataclass(frozen=True)
class _JudgedText:
    """A text that a user judged: its position in the log, and its raw vector."""

    seq: int
    event_id: str
    position: int
    key: bytes
    vector: NDArray[np.float16]


class Explainer:
    """The reasons of users, computed from the texts that they judged.

    Args:
        reward: The model.
        extractor: Identity of the features.
        match_version: Version of the match features that the model reads. Empty if it does not read prompts.
        store: Store of the log and of the features of judged texts.
    """

    def __init__(self, reward: RewardModel, extractor: str, match_version: str, store: Store) -> None:
        self._reward = reward
        self._extractor = extractor
        self._match_version = match_version
        self._store = store

    def compute_reasons(self, tenant: str, user: str, posterior: UserPosterior) -> dict[str, Any] | None:
        """Return how a user differs from the population. Return None if the bundle's text prior is not linear.

        Call it in a thread, because it queries the database.

        Cost: at most that of `explain_user` for 200 texts, whatever the length of the log.
        """
        with self._store.reading() as connection:
            since = find_start_of_newest(connection, tenant, user, MAX_JUDGED_TEXTS)
            log = list(
                replay_events(
                    connection,
                    tenant,
                    user,
                    self._extractor,
                    self._match_version,
                    reads_prompt_embedding=self._reward.gate is not None,
                    since=since,
                )
            )
            texts = _newest_texts(in_force(log))
            dim = len(self._reward.text_prior.standardiser.centre)
            vectors = np.stack([text.vector for text in texts]) if texts else np.zeros((0, dim), np.float16)
            try:
                reasons = explain_user(self._reward, posterior, vectors, [text.key for text in texts])
            except ExplanationError:
                return None
            examples = [texts[reason.index] for reason in reasons.texts]
            payloads = find_payloads(connection, tenant, user, [text.seq for text in examples])
        return _format_reasons(reasons, examples, payloads, len(texts))


def _newest_texts(log: Iterable[LoggedJudgement]) -> list[_JudgedText]:
    """Return the newest distinct judged texts, newest first."""
    texts: dict[bytes, _JudgedText] = {}
    for event in reversed(list(log)):
        for position, key in enumerate(event.item_keys):
            if event.vectors is not None and key not in texts:
                texts[key] = _JudgedText(event.seq, event.event_id, position, key, event.vectors[position])
    return list(texts.values())[:MAX_JUDGED_TEXTS]


def _format_reasons(
    reasons: UserReasons, examples: Sequence[_JudgedText], payloads: Mapping[int, str], n_texts: int
) -> dict[str, Any]:
    """Return reasons as a response contains them. `payloads` are the logged events of the examples, by `seq`."""
    return {
        "judged_texts": n_texts,
        "threshold": {
            "effect": reasons.threshold,
            "std": reasons.threshold_std,
            "probability": reasons.probability_easier,
        },
        "attributes": [asdict(attribute) for attribute in reasons.attributes],
        "named_share": reasons.named_share,
        "texts": list(_list_examples(reasons, examples, payloads)),
    }


def _list_examples(
    reasons: UserReasons, examples: Sequence[_JudgedText], payloads: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
    """Yield the examples of a user's reasons, until they are long."""
    chars = 0
    for reason, example in zip(reasons.texts, examples, strict=True):
        for prompt, text in _find_text(payloads[example.seq], example.position):
            if chars and chars + len(prompt) + len(text) > MAX_EXAMPLE_CHARS:
                return
            chars += len(prompt) + len(text)
            numbers = {"value": reason.value, "std": reason.std, "probability": reason.probability}
            yield {"event_id": example.event_id, "prompt": prompt, "text": text} | numbers


def _find_text(payload: str, position: int) -> Sequence[tuple[str, str]]:
    """Return the (prompt, text) of a judged text. Empty if the tenant keeps no texts."""
    return get_judged_texts(orjson.loads(payload))[position : position + 1]
