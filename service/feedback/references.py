"""What an event refers to: its user, and the texts that a `rank_id` stands for."""

import asyncio
from dataclasses import dataclass
from typing import Final

import orjson

from penchant.models.judgements.base import JudgementKind
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.events import ReceivedEvent
from penchant.service.feedback.jobs import ReadyEvent
from penchant.service.feedback.schemas import RetractEvent
from penchant.service.ranking.rankings import Ranking, Rankings
from penchant.service.settings import Settings

INLINE_EDIT_CHARS: Final = 4000
"""Edits of up to so many characters, both texts together, are compared on the event loop: half a millisecond."""


@dataclass(frozen=True)
class References:
    """Resolves events.

    Attributes:
        rankings: Rankings that events may refer to.
        settings: Limits.
    """

    rankings: Rankings
    settings: Settings

    async def resolve(self, tenant: str, received: ReceivedEvent) -> ReadyEvent:
        """Return an event with its user, its texts and what it states about them.

        If its ranking has expired but the caller chose the event's id, the event may already be in the log: it is
        returned with a `fault`, so that the ledger can tell.

        Raises:
            ApiError: `rank_not_found`, `user_conflict` or `validation_failed`.
        """
        event = received.event
        refers = isinstance(event, JudgementKind) and event.refers_to_ranking
        if received.user is not None and not refers:
            return await _ready(received, received.user)
        try:
            return await self._from_ranking(tenant, received)
        except ApiError as error:
            if received.is_callers_id and error.code is Code.RANK_NOT_FOUND:
                return ReadyEvent(received, received.user or "", fault=error)
            raise

    async def _from_ranking(self, tenant: str, received: ReceivedEvent) -> ReadyEvent:
        at, event = received.pointer, received.event
        ranking = await self.rankings.find(tenant, event.rank_id or "")
        if ranking is None:
            fault = "No ranking of the last day has this id. You can send the texts instead."
            raise InvalidRequestError((f"{at}/rank_id", fault), code=Code.RANK_NOT_FOUND)
        user = received.user if received.user is not None else ranking.user
        if user is None:
            raise InvalidRequestError((f"{at}/user", "The ranking was made for no user: send `user`."))
        if ranking.user is not None and ranking.user != user:
            fault = "The ranking was made for another user."
            raise InvalidRequestError((f"{at}/user", fault), code=Code.USER_CONFLICT)
        if isinstance(event, JudgementKind) and event.refers_to_ranking:
            prompt, texts = self._judged_candidates(at, event, ranking)
            return await _ready(received, user, {"prompt": prompt} | event.with_texts(texts))
        return await _ready(received, user)

    def _judged_candidates(
        self, at: str, event: JudgementKind, ranking: Ranking
    ) -> tuple[str, tuple[str, ...]]:
        """Return the prompt and the texts, winner first, that the event's indices stand for."""
        number = len(ranking.texts)
        candidates = event.candidates_of(number)
        for pointer, index in candidates:
            if index >= number:
                fault = f"The ranking has {number} candidates; the first has index 0."
                raise InvalidRequestError((at + pointer, fault))
        (_, first), *others = candidates
        if event.form == "comparison" and len(ranking.prompts) > 1:
            fault = "Its candidates answer different prompts; a choice is among answers to one prompt."
            raise InvalidRequestError((f"{at}/rank_id", fault))
        prompt, text = ranking.get_candidate(first)
        # A text that was shown twice was one thing to choose.
        texts = tuple(dict.fromkeys([text, *(ranking.texts[i] for i in sorted(i for _, i in others))]))
        if len(texts) > (limit := self.settings.max_event_texts):
            fault = (
                f"The ranking showed {len(texts)} texts; the limit for one event is {limit}. "
                "List those that the user saw in `seen`."
            )
            raise InvalidRequestError((f"{at}/seen", fault))
        return prompt, texts


async def _ready(
    received: ReceivedEvent, user: str, from_ranking: dict[str, object] | None = None
) -> ReadyEvent:
    """Return an event with what it states. Long edits are compared in a thread, so that other requests go on."""
    event = received.event
    is_slow = (
        isinstance(event, JudgementKind)
        and event.measures_change
        and sum(len(text) for _, text in event.sent_texts()) > INLINE_EDIT_CHARS
    )
    if is_slow:
        return await asyncio.to_thread(_with_statement, received, user, from_ranking)
    return _with_statement(received, user, from_ranking)


def _with_statement(received: ReceivedEvent, user: str, from_ranking: dict[str, object] | None) -> ReadyEvent:
    event, payload = received.event, dict(received.payload) | (from_ranking or {})
    prompt = payload.get("prompt", "")
    logged = orjson.dumps(payload).decode()
    if isinstance(event, RetractEvent):
        return ReadyEvent(received, user, prompt, payload=logged, target=event.target_event_id)
    if not isinstance(event, JudgementKind):
        raise TypeError(f"{type(event).__name__} is neither a judgement nor a retraction")
    statement = event.statement(payload)
    statement = statement._replace(weight=(event.weight or 1.0) * statement.weight)
    return ReadyEvent(received, user, prompt, statement, logged)
