"""The methods of a client that send feedback, one for each type of event."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from penchant import _calls as calls
from penchant import _responses as responses
from penchant._async.base import AsyncBaseClient
from penchant._events import (
    build_choice,
    build_edit,
    build_preference,
    build_ranking,
    build_rating,
    build_retraction,
    build_vote,
)

__all__ = ["AsyncFeedbackClient"]


class AsyncFeedbackClient(AsyncBaseClient):
    """The part of `AsyncClient` that sends feedback."""

    async def feedback(
        self,
        *,
        events: Sequence[Mapping[str, Any]],
        user: str | None = None,
        idempotency_key: str | None = None,
    ) -> responses.FeedbackReceipt:
        """Send up to 100 events. Valid events are learned, invalid ones are listed in ``rejected``.

            receipt = await client.feedback(
                user="ana",
                events=[
                    {"type": "vote", "value": 1, "text": "Yes."},
                    {"type": "preference", "prompt": "Tea?", "chosen": "Yes.", "rejected": "No."},
                ],
            )
            assert not receipt.rejected

        Args:
            events: Events, each with its ``type`` and the fields of that type.
            user: User of the events that name none. Defaults to the client's user.
            idempotency_key: Key that makes the request idempotent. Defaults to a random one. Events without an
                ``event_id`` get one that derives from the key.
        """
        return await self._run(calls.send_events(events, self._resolve_user(user), idempotency_key))

    async def prefer(
        self,
        *,
        chosen: str,
        rejected: str,
        prompt: str | None = None,
        strength: float | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        rank_id: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """Send the judgement that the user prefers one text to another.

            await client.prefer(user="ana", prompt="Tea?", chosen="Yes.", rejected="I would be delighted.")

        Args:
            chosen: Preferred text.
            rejected: Other text.
            prompt: Prompt that both texts answer.
            strength: How much better the preferred text is, in (0, 1]. Defaults to 1.
            user: User who judged. Defaults to the client's user.
            weight: How much the judgement counts, in (0, 1]. Defaults to 1.
            source: Where the judgement comes from, for example ``thumbs`` or ``import``.
            rank_id: ``id`` of the ranking that showed the texts.
            event_id: Your own id of the event. An event that is sent again with the same id counts once, and `retract`
                can name it. Afterwards the id can be used again.
            timestamp: Time of the judgement, with a time zone, from which its age counts. Defaults to the time of the
                request.
            metadata: JSON object that is stored with the event.
        """
        event = build_preference(
            chosen=chosen,
            rejected=rejected,
            prompt=prompt,
            strength=strength,
            weight=weight,
            source=source,
            rank_id=rank_id,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.send_event(event, self._resolve_user(user)))

    async def choose(
        self,
        *,
        index: int,
        candidates: Sequence[str] | None = None,
        prompt: str | None = None,
        rank_id: str | None = None,
        seen: Sequence[int] | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """Send which of several texts the user picked.

            ranking = await client.rerank(query="Tea?", documents=drafts, user="ana")
            await client.choose(rank_id=ranking.id, index=2, user="ana")

        Pass either ``candidates``, with ``prompt``, or the ``rank_id`` of the ranking that showed the texts.

        Args:
            index: Index of the picked text in ``candidates``, or in the documents of the ranking's request.
            candidates: All texts that were shown.
            prompt: Prompt that the ``candidates`` answer.
            rank_id: ``id`` of the ranking that showed the texts.
            seen: Indices of the ranking's texts that the user saw. The picked text always counts as seen. Defaults to
                all.
            user: User who judged. Defaults to the client's user.
            weight: How much the judgement counts, in (0, 1]. Defaults to 1.
            source: Where the judgement comes from, for example ``thumbs`` or ``import``.
            event_id: Your own id of the event. An event that is sent again with the same id counts once, and `retract`
                can name it. Afterwards the id can be used again.
            timestamp: Time of the judgement, with a time zone, from which its age counts. Defaults to the time of the
                request.
            metadata: JSON object that is stored with the event.
        """
        event = build_choice(
            index=index,
            candidates=candidates,
            prompt=prompt,
            rank_id=rank_id,
            seen=seen,
            weight=weight,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.send_event(event, self._resolve_user(user)))

    async def rank(
        self,
        *,
        order: Sequence[str | Sequence[str]],
        prompt: str | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        rank_id: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """Send the order in which the user prefers several texts. To have texts ranked, call `rerank`.

            await client.rank(user="ana", prompt="Tea?", order=["Yes.", ["Perhaps.", "Later."], "No."])

        Args:
            order: Texts, best first. Texts in an inner list are tied.
            prompt: Prompt that the texts answer.
            user: User who judged. Defaults to the client's user.
            weight: How much the judgement counts, in (0, 1]. Defaults to 1.
            source: Where the judgement comes from, for example ``thumbs`` or ``import``.
            rank_id: ``id`` of the ranking that showed the texts.
            event_id: Your own id of the event. An event that is sent again with the same id counts once, and `retract`
                can name it. Afterwards the id can be used again.
            timestamp: Time of the judgement, with a time zone, from which its age counts. Defaults to the time of the
                request.
            metadata: JSON object that is stored with the event.
        """
        event = build_ranking(
            order=order,
            prompt=prompt,
            weight=weight,
            source=source,
            rank_id=rank_id,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.send_event(event, self._resolve_user(user)))

    async def edit(
        self,
        *,
        original: str,
        edited: str,
        prompt: str | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        rank_id: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """Send a text and the user's revision of it. The revision counts as preferred, more so the more it changes.

            await client.edit(user="ana", prompt="Tea?", original="Yes, certainly, with pleasure.", edited="Yes.")

        Args:
            original: Text before the edit.
            edited: Text after the edit. If it equals the original, nothing is learned.
            prompt: Prompt that both texts answer.
            user: User who judged. Defaults to the client's user.
            weight: How much the judgement counts, in (0, 1]. Defaults to 1.
            source: Where the judgement comes from, for example ``thumbs`` or ``import``.
            rank_id: ``id`` of the ranking that showed the texts.
            event_id: Your own id of the event. An event that is sent again with the same id counts once, and `retract`
                can name it. Afterwards the id can be used again.
            timestamp: Time of the judgement, with a time zone, from which its age counts. Defaults to the time of the
                request.
            metadata: JSON object that is stored with the event.
        """
        event = build_edit(
            original=original,
            edited=edited,
            prompt=prompt,
            weight=weight,
            source=source,
            rank_id=rank_id,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.send_event(event, self._resolve_user(user)))

    async def retract(
        self,
        *,
        target_event_id: str,
        user: str | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """Retract an event. The user's state becomes what it would be if the event had never been sent.

            await client.vote(user="ana", value=1, text="Yes.", event_id="click-1")
            await client.retract(user="ana", target_event_id="click-1")

        Args:
            target_event_id: Id of the event to retract, as you sent it or as `AsyncUsers.feedback` returns it. A
                retraction can itself be retracted.
            user: User whose event is retracted. Defaults to the client's user.
            source: Where the retraction comes from.
            event_id: Your own id of the retraction. A retraction that is sent again with the same id counts once, until
                the id of the retracted event is used again.
            timestamp: Time of the retraction, with a time zone. Defaults to the time of the request.
            metadata: JSON object that is stored with the event.
        """
        event = build_retraction(
            target_event_id=target_event_id,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.send_event(event, self._resolve_user(user)))

    async def vote(
        self,
        *,
        value: Literal[1, -1],
        text: str | None = None,
        prompt: str | None = None,
        rank_id: str | None = None,
        index: int | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """Send the judgement that a text is good enough for the user (+1) or is not (-1).

            await client.vote(user="ana", prompt="Tea?", text="Yes.", value=1)

        Pass either ``text``, with ``prompt``, or the ``rank_id`` and ``index`` of a text that a ranking showed.

        Args:
            value: +1 or -1.
            text: Text that was judged.
            prompt: Prompt that the ``text`` answers.
            rank_id: ``id`` of the ranking that showed the text.
            index: Index of the text in the documents of the ranking's request.
            user: User who judged. Defaults to the client's user.
            weight: How much the judgement counts, in (0, 1]. Defaults to 1.
            source: Where the judgement comes from, for example ``thumbs`` or ``import``.
            event_id: Your own id of the event. An event that is sent again with the same id counts once, and `retract`
                can name it. Afterwards the id can be used again.
            timestamp: Time of the judgement, with a time zone, from which its age counts. Defaults to the time of the
                request.
            metadata: JSON object that is stored with the event.
        """
        event = build_vote(
            value=value,
            text=text,
            prompt=prompt,
            rank_id=rank_id,
            index=index,
            weight=weight,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.send_event(event, self._resolve_user(user)))

    async def rate(
        self,
        *,
        value: float,
        scale: tuple[float, float],
        text: str | None = None,
        prompt: str | None = None,
        rank_id: str | None = None,
        index: int | None = None,
        user: str | None = None,
        weight: float | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """Send the user's rating of a text.

            await client.rate(user="ana", prompt="Tea?", text="Yes.", value=4, scale=(1, 5), source="stars")

        Pass either ``text``, with ``prompt``, or the ``rank_id`` and ``index`` of a text that a ranking showed.

        Args:
            value: Rating, within ``scale``.
            scale: Lowest and highest possible rating.
            text: Text that was judged.
            prompt: Prompt that the ``text`` answers.
            rank_id: ``id`` of the ranking that showed the text.
            index: Index of the text in the documents of the ranking's request.
            user: User who judged. Defaults to the client's user.
            weight: How much the judgement counts, in (0, 1]. Defaults to 1.
            source: Where the rating comes from, for example ``stars``. The model has a rating scale for each source.
            event_id: Your own id of the event. An event that is sent again with the same id counts once, and `retract`
                can name it. Afterwards the id can be used again.
            timestamp: Time of the judgement, with a time zone, from which its age counts. Defaults to the time of the
                request.
            metadata: JSON object that is stored with the event.
        """
        event = build_rating(
            value=value,
            scale=scale,
            text=text,
            prompt=prompt,
            rank_id=rank_id,
            index=index,
            weight=weight,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return await self._run(calls.send_event(event, self._resolve_user(user)))
