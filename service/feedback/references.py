"""What the events of a request refer to: the user, and the texts that a `rank_id` stands for."""

import asyncio
from dataclasses import dataclass
from typing import Final

from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.events import ParsedEvent
from penchant.service.feedback.jobs import ReadyEvent
from penchant.service.feedback.judged import Judged, Shown, judged
from penchant.service.feedback.schemas import ChoiceEvent, EditEvent, TextEvent
from penchant.service.ranking.rankings import Ranking, Rankings
from penchant.service.settings import Settings

INLINE_EDIT_CHARS: Final = 4000
"""Edits of up to so many characters, both texts together, are compared on the event loop: half a millisecond."""


@dataclass(frozen=True)
class Resolved:
    """An event with its user and texts, before its features are known."""

    parsed: ParsedEvent
    user: str
    judged: Judged


class References:
    """Resolves events.

    Args:
        rankings: What was shown.
        settings: Limits.
    """

    def __init__(self, rankings: Rankings, settings: Settings) -> None:
        self._rankings = rankings
        self._settings = settings

    async def resolve(self, tenant: str, parsed: ParsedEvent) -> Resolved | ReadyEvent:
        """Looks up what a `rank_id` stands for.

        Returns:
            The event with its texts; or, where the ranking is gone but the caller's event id may be in the
            log, an event that can only be a duplicate.

        Raises:
            ApiError: `rank_not_found`, `user_conflict`, `validation_failed`.
        """
        if parsed.user is not None and not _needs_ranking(parsed):
            return Resolved(parsed, parsed.user, await _judged(parsed, None))
        try:
            return await self._from_ranking(tenant, parsed)
        except ApiError as error:
            if parsed.is_callers_id and error.code is Code.RANK_NOT_FOUND:
                return ReadyEvent(parsed, parsed.user or "", fault=error)
            raise

    async def _from_ranking(self, tenant: str, parsed: ParsedEvent) -> Resolved:
        at = parsed.pointer
        ranking = await self._rankings.find(tenant, parsed.event.rank_id or "")
        if ranking is None:
            raise InvalidRequestError(
                (f"{at}/rank_id", "No ranking of the last day has this id; texts may be sent instead."),
                code=Code.RANK_NOT_FOUND,
            )
        user = parsed.user if parsed.user is not None else ranking.user
        if user is None:
            fault = "The ranking was for nobody in particular: send `user`."
            raise InvalidRequestError((f"{at}/user", fault))
        if ranking.user is not None and ranking.user != user:
            fault = "The ranking was for another user."
            raise InvalidRequestError((f"{at}/user", fault), code=Code.USER_CONFLICT)
        return Resolved(parsed, user, await _judged(parsed, self._shown(parsed, ranking)))

    def _shown(self, parsed: ParsedEvent, ranking: Ranking) -> Shown | None:
        """What the event refers to; None where it sends its own texts."""
        event, at, number = parsed.event, parsed.pointer, len(ranking.texts)
        if (
            not _needs_ranking(parsed)
            or not isinstance(event, TextEvent | ChoiceEvent)
            or event.index is None
        ):
            return None
        if event.index >= number:
            raise _beyond(f"{at}/index", number)
        prompt, text = ranking.shown(event.index)
        if isinstance(event, TextEvent):
            return Shown(prompt, (text,))
        if len(ranking.prompts) > 1:
            fault = "Its candidates answer different prompts: a choice is among answers to one."
            raise InvalidRequestError((f"{at}/rank_id", fault))
        for i, index in enumerate(event.seen or ()):
            if index >= number:
                raise _beyond(f"{at}/seen/{i}", number)
        seen = range(number) if event.seen is None else event.seen
        # A text that was shown twice was one thing to choose.
        texts = tuple(dict.fromkeys([text, *(ranking.texts[index] for index in sorted(seen))]))
        if len(texts) > (limit := self._settings.max_event_texts):
            fault = f"{len(texts)} texts were shown; an event may have {limit}: name those that were `seen`."
            raise InvalidRequestError((f"{at}/seen", fault))
        return Shown(prompt, texts)


async def _judged(parsed: ParsedEvent, shown: Shown | None) -> Judged:
    """`judged`; of a long edit in a thread, so that other requests go on."""
    event = parsed.event
    if isinstance(event, EditEvent) and len(event.original) + len(event.edited) > INLINE_EDIT_CHARS:
        return await asyncio.to_thread(judged, parsed, shown)
    return judged(parsed, shown)


def _needs_ranking(parsed: ParsedEvent) -> bool:
    """Whether the event sends an index in place of texts."""
    event = parsed.event
    if isinstance(event, ChoiceEvent):
        return event.candidates is None
    return isinstance(event, TextEvent) and event.text is None


def _beyond(where: str, number: int) -> InvalidRequestError:
    return InvalidRequestError((where, f"The ranking has {number} candidates, the first being 0."))
