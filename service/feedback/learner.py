"""Feedback: request → who → features → log (durable) → posterior. Here: up to the writer's queue."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import orjson

from penchant.models.taste.reward import item_key
from penchant.service.access.limits import QuotaKind, Quotas
from penchant.service.access.tenancy import Tenancy
from penchant.service.encoding.featurizer import Featurizer
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.events import parse_event, split_body
from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob, Idempotency, ReadyEvent
from penchant.service.feedback.references import References
from penchant.service.feedback.writer import Writer
from penchant.service.log.reading import without_texts
from penchant.service.log.rows import JudgedFeatures
from penchant.service.ranking.rankings import Rankings
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.store.requests import find_answers
from penchant.service.telemetry.metrics import Telemetry, Timings
from penchant.service.users.current import UserStates

_HOUR = 3600.0
MAX_KEY_CHARS = 255


class Reading(Protocol):
    """What learning needs of the model that a request is answered by."""

    @property
    def featurizer(self) -> Featurizer:
        """Finds or computes the features of judged texts."""

    @property
    def states(self) -> UserStates:
        """What is known of users."""


class Learner:
    """Turns feedback requests into durable knowledge.

    Args:
        settings: Limits.
        rankings: Resolves `rank_id`.
        writer: Logs and learns.
        quotas: How much a tenant may send.
        tenancy: Whether it keeps texts.
        store: Holds answers to idempotency keys.
        telemetry: Counts events.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        rankings: Rankings,
        writer: Writer,
        quotas: Quotas,
        tenancy: Tenancy,
        store: Store,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._rankings = rankings
        self._references = References(rankings, settings)
        self._writer = writer
        self._quotas = quotas
        self._tenancy = tenancy
        self._store = store
        self._telemetry = telemetry
        self._in_flight: set[tuple[str, str]] = set()

    async def feedback(
        self,
        tenant: str,
        body: Mapping[str, Any],
        header_user: str | None,
        key: str | None,
        timings: Timings,
        *,
        model: Reading,
    ) -> bytes:
        """The answer to a feedback request, given when its events are durable and visible.

        Args:
            tenant: Whose app sends it.
            body: The request.
            header_user: User of the header, for events that name none.
            key: Idempotency key.
            timings: Where the time goes.
            model: Reads the judged texts.

        Raises:
            ApiError: The request, or its one bare event, is refused.
        """
        if key is None:
            return await self._learn(tenant, body, header_user, None, timings, model=model)
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise InvalidRequestError(("", f"An idempotency key has 1 to {MAX_KEY_CHARS} characters."))
        if (tenant, key) in self._in_flight:
            detail = "Wait for the other request's answer, or try again."
            raise ApiError(Code.IDEMPOTENCY_IN_FLIGHT, detail, headers={"Retry-After": "1"})
        self._in_flight.add((tenant, key))
        try:
            content = orjson.dumps([body, header_user], option=orjson.OPT_SORT_KEYS)
            idempotency = Idempotency(key, hashlib.blake2b(content, digest_size=16).digest())
            earlier = await self._earlier(tenant, idempotency)
            if earlier is not None:
                return earlier
            return await self._learn(tenant, body, header_user, idempotency, timings, model=model)
        finally:
            self._in_flight.discard((tenant, key))

    async def _earlier(self, tenant: str, idempotency: Idempotency) -> bytes | None:
        """The answer that was given under this key, None where it is new or has expired."""
        row = (await self._store.read(find_answers, tenant, [idempotency.key])).get(idempotency.key)
        if row is None or self._store.clock() - row.created_at > self._settings.idempotency_ttl_hours * _HOUR:
            return None
        if row.request_hash != idempotency.request_hash:
            raise ApiError(Code.IDEMPOTENCY_KEY_REUSED, "A new request needs a new idempotency key.")
        answer: bytes = row.answer
        return answer

    async def _within_quota(
        self, model: Reading, tenant: str, events: Sequence[ReadyEvent]
    ) -> list[ReadyEvent]:
        """The same events; those of users that would be too many can only turn out to be duplicates."""
        if not self._quotas.has_user_limit(tenant):
            return list(events)
        refused: dict[str, ApiError] = {}
        for user in {event.user for event in events}:
            if await model.states.get(tenant, user) is None:
                error = await self._store.run(self._quotas.admit_user, tenant, user)
                if error is not None:
                    refused[user] = error
        return [
            ReadyEvent(event.received, event.user, fault=refused[event.user])
            if event.user in refused
            else event
            for event in events
        ]

    async def _learn(
        self,
        tenant: str,
        body: Mapping[str, Any],
        header_user: str | None,
        idempotency: Idempotency | None,
        timings: Timings,
        *,
        model: Reading,
    ) -> bytes:
        raw, bare = split_body(body, self._settings)
        self._quotas.spend(tenant, QuotaKind.EVENTS, len(raw))
        accepted = 0
        try:
            answer = await self._write(tenant, (raw, bare), header_user, idempotency, timings, model=model)
            accepted = sum(outcome == "accepted" for _, outcome in answer.outcomes)
        finally:
            self._quotas.refund(tenant, QuotaKind.EVENTS, len(raw) - accepted)
        for kind, outcome in answer.outcomes:
            self._telemetry.events.labels(kind, outcome).inc()
        if answer.changes:
            self._telemetry.users_changed.inc(answer.changes)
        if answer.bursts:
            self._telemetry.bursts.inc(answer.bursts)
        for reason in answer.flags:
            self._telemetry.discounted_events.labels(reason).inc()
        return answer.body

    async def _write(
        self,
        tenant: str,
        events: tuple[Sequence[object], bool],
        header_user: str | None,
        idempotency: Idempotency | None,
        timings: Timings,
        *,
        model: Reading,
    ) -> FeedbackAnswer:
        """Has the events of a request, or the one bare event, logged and learned."""
        raw, bare = events
        ready: list[ReadyEvent] = []
        rejected: list[tuple[int, ApiError]] = []
        for index, event in enumerate(raw):
            try:
                received = parse_event(
                    event, index, bare=bare, header_user=header_user, settings=self._settings
                )
                ready.append(await self._references.resolve(tenant, received))
            except ApiError as error:
                if bare:
                    self._telemetry.events.labels("invalid", "rejected").inc()
                    raise
                rejected.append((index, error))
        texts = sum(len(event.statement.texts) for event in ready)
        if texts > (limit := self._settings.max_feedback_texts):
            fault = f"The events judge {texts} texts; the limit for one request is {limit}."
            raise InvalidRequestError(("" if bare else "/events", fault))
        ready = await self._with_features(model.featurizer, tenant, ready, timings)
        if not self._tenancy.get(tenant).keep_texts:
            ready = [
                replace(event, payload=without_texts(event.payload)) if event.statement.texts else event
                for event in ready
            ]
        ready = await self._within_quota(model, tenant, ready)
        job = FeedbackJob(tenant, tuple(ready), tuple(rejected), bare, idempotency, self._store.clock())
        return await self._writer.feedback(job)

    async def _with_features(
        self, featurizer: Featurizer, tenant: str, events: Sequence[ReadyEvent], timings: Timings
    ) -> list[ReadyEvent]:
        """Add the features of all events' texts, in one call."""
        texts = [text for event in events for text in event.statement.texts]
        if not texts:
            return list(events)
        prompts = [event.prompt for event in events for _ in event.statement.texts]
        batch = await featurizer.features(tenant, texts, prompts, timings)
        ready, start = [], 0
        for event in events:
            rows = slice(start, start := start + len(event.statement.texts))
            if rows.start == rows.stop:
                ready.append(event)
                continue
            features = JudgedFeatures(
                featurizer.extractor.identity,
                batch.keys[rows],
                tuple(item_key(event.prompt, text) for text in event.statement.texts),
                batch.vectors[rows],
                batch.tokens[rows],
                batch.truncated[rows],
            )
            ready.append(replace(event, features=features))
        return ready
