"""`Teaching`: what a client tells of its users, each kind of event as a method. `AsyncTeaching` has the same ones."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from penchant import _calls as calls
from penchant import _responses as responses
from penchant._base import BaseClient
from penchant._transport import Transport

__all__ = ["Teaching"]


class Teaching(BaseClient[Transport]):
    """The half of `Client` that sends feedback."""

    def feedback(
        self,
        *,
        events: Sequence[Mapping[str, Any]],
        user: str | None = None,
        idempotency_key: str | None = None,
    ) -> responses.FeedbackReceipt:
        """Teaches up to 100 judgements. Bad ones are listed in ``rejected``, the others are learned.

        Args:
            events: Each with ``type`` and what that type needs.
            user: The user of the events that name none.
            idempotency_key: One key, one effect; made for you unless given. Events without ``event_id`` get
                one that follows from it.
        """
        return self._run(calls.feedback(events, self._user(user), idempotency_key))

    def prefer(
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
        """Teaches that the user prefers ``chosen`` to ``rejected``.

        Args:
            chosen: The better text.
            rejected: The other.
            prompt: What both answer.
            strength: How much better it is, in (0, 1]; 1 unless given.
            user: Whose judgement.
            weight: How much it counts, in (0, 1].
            source: Where it comes from.
            rank_id: The ``id`` of the ranking that showed them.
            event_id: Your own id: the same event sent again counts once, and `retract` can name it.
            timestamp: When it happened, with its time zone; now unless given.
            metadata: Kept with the event.
        """
        event = calls.preference(
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
        return self._run(calls.feedback_event(event, self._user(user)))

    def choose(
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
        """Teaches which of those shown the user picked.

        Args:
            index: The one picked: its place in
            candidates: all that were shown; or, in their place,
            prompt: with ``candidates``: what they answer.
            rank_id: the ``id`` of the ranking that showed them, and
            seen: the indices that were seen; all unless given, the one picked in any case.
            user: Whose judgement.
            weight: How much it counts, in (0, 1].
            source: Where it comes from.
            event_id: Your own id: the same event sent again counts once, and `retract` can name it.
            timestamp: When it happened, with its time zone; now unless given.
            metadata: Kept with the event.
        """
        event = calls.choice(
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
        return self._run(calls.feedback_event(event, self._user(user)))

    def rank(
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
        """Teaches an order of texts. To have texts ranked, call `rerank`.

        Args:
            order: Best first; texts in one list are tied.
            prompt: What they answer.
            user: Whose judgement.
            weight: How much it counts, in (0, 1].
            source: Where it comes from.
            rank_id: The ``id`` of the ranking that showed them.
            event_id: Your own id: the same event sent again counts once, and `retract` can name it.
            timestamp: When it happened, with its time zone; now unless given.
            metadata: Kept with the event.
        """
        event = calls.ranking(
            order=order,
            prompt=prompt,
            weight=weight,
            source=source,
            rank_id=rank_id,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return self._run(calls.feedback_event(event, self._user(user)))

    def edit(
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
        """Teaches that the user rewrote a text: the edited one is better, by how much it changed.

        Args:
            original: The text as it was shown.
            edited: As the user left it. Where nothing changed nothing is learned.
            prompt: What both answer.
            user: Whose judgement.
            weight: How much it counts, in (0, 1].
            source: Where it comes from.
            rank_id: The ``id`` of the ranking that showed them.
            event_id: Your own id: the same event sent again counts once, and `retract` can name it.
            timestamp: When it happened, with its time zone; now unless given.
            metadata: Kept with the event.
        """
        event = calls.edit(
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
        return self._run(calls.feedback_event(event, self._user(user)))

    def retract(
        self,
        *,
        target_event_id: str,
        user: str | None = None,
        source: str | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> responses.FeedbackReceipt:
        """Takes an event back: from now on it is as if it had never been sent.

        Args:
            target_event_id: Its id, given with it or read from `Users.feedback`; a retraction can be taken back too.
            user: Whose.
            source: Where it comes from.
            event_id: Your own id: the same event sent again counts once, and `retract` can name it.
            timestamp: When it happened, with its time zone; now unless given.
            metadata: Kept with the event.
        """
        event = calls.retraction(
            target_event_id=target_event_id,
            source=source,
            event_id=event_id,
            timestamp=timestamp,
            metadata=metadata,
        )
        return self._run(calls.feedback_event(event, self._user(user)))

    def vote(
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
        """Teaches that a text is good enough for the user (+1), or is not (-1).

        Args:
            value: +1 or -1.
            text: The text; or, in its place,
            prompt: with ``text``: what it answers.
            rank_id: the ``id`` of the ranking that showed it, and
            index: its place in that request.
            user: Whose judgement.
            weight: How much it counts, in (0, 1].
            source: Where it comes from.
            event_id: Your own id: the same event sent again counts once, and `retract` can name it.
            timestamp: When it happened, with its time zone; now unless given.
            metadata: Kept with the event.
        """
        event = calls.vote(
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
        return self._run(calls.feedback_event(event, self._user(user)))

    def rate(
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
        """Teaches the user's rating of a text.

        Args:
            value: The rating.
            scale: The lowest and highest rating possible.
            text: The text; or, in its place,
            prompt: with ``text``: what it answers.
            rank_id: the ``id`` of the ranking that showed it, and
            index: its place in that request.
            user: Whose judgement.
            weight: How much it counts, in (0, 1].
            source: Where it comes from; each source has a scale of its own.
            event_id: Your own id: the same event sent again counts once, and `retract` can name it.
            timestamp: When it happened, with its time zone; now unless given.
            metadata: Kept with the event.
        """
        event = calls.rating(
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
        return self._run(calls.feedback_event(event, self._user(user)))

    def _run(self, call: calls.Call[calls.T]) -> calls.T:
        return self._transport.run(call, self._config)
