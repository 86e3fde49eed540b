"""Feedback: request → who → features → log (durable) → posterior. Here: up to the writer's queue."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Protocol

import orjson

from penchant.models.taste.items import item_key
from penchant.service.access.quotas import Kind, Quotas
from penchant.service.access.tenancy import Tenancy
from penchant.service.encoding.featurizer import Featurizer
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.events import parse_event, split_body
from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob, Idempotency, ReadyEvent
from penchant.service.feedback.references import References, Resolved
from penchant.service.feedback.writer import Writer
from penchant.service.log.rows import JudgedFeatures
from penchant.service.log.textless import without_texts
from penchant.service.ranking.rankings import Rankings
from penchant.service.settings import Settings
from penchant.service.store.answers import find_answers
from penchant.service.store.database import Database
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
        database: Holds answers to idempotency keys.
        readers: Threads in which it is asked.
        telemetry: Counts events.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        rankings: Rankings,
        writer: Writer,
        quotas: Quotas,
        tenancy: Tenancy,
        database: Database,
        readers: Executor,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._rankings = rankings
        self._references = References(rankings, settings)
        self._writer = writer
        self._quotas = quotas
        self._tenancy = tenancy
        self._database = database
        self._readers = readers
        self._telemetry = telemetry
        self._clock = clock
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
        loop = asyncio.get_running_loop()
        row = await loop.run_in_executor(self._readers, self._read_answer, tenant, idempotency.key)
        if row is None:
            return None
        request_hash, answer = row
        if request_hash != idempotency.request_hash:
            raise ApiError(Code.IDEMPOTENCY_KEY_REUSED, "A new request needs a new idempotency key.")
        return answer

    def _read_answer(self, tenant: str, key: str) -> tuple[bytes, bytes] | None:
        with self._database.looking_up() as connection:
            row = find_answers(connection, tenant, [key]).get(key)
        if row is None or self._clock() - row.created_at > self._settings.idempotency_ttl_hours * _HOUR:
            return None
        return row.request_hash, row.answer

    async def _within_quota(
        self, model: Reading, tenant: str, events: Sequence[ReadyEvent]
    ) -> list[ReadyEvent]:
        """The same events; those of users that would be too many can only turn out to be duplicates."""
        if not self._quotas.limits_users(tenant):
            return list(events)
        loop = asyncio.get_running_loop()
        refused: dict[str, ApiError] = {}
        for user in {event.user for event in events}:
            if await model.states.get(tenant, user) is None:
                error = await loop.run_in_executor(self._readers, self._quotas.refusal, tenant, user)
                if error is not None:
                    refused[user] = error
        return [
            replace(event, judged=None, features=None, fault=refused[event.user])
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
        self._quotas.take(tenant, Kind.EVENTS, len(raw))
        accepted = 0
        try:
            answer = await self._write(tenant, (raw, bare), header_user, idempotency, timings, model=model)
            accepted = sum(outcome == "accepted" for _, outcome in answer.outcomes)
        finally:
            self._quotas.give_back(tenant, Kind.EVENTS, len(raw) - accepted)
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
        resolved: list[Resolved] = []
        rejected: list[tuple[int, ApiError]] = []
        for index, one in enumerate(raw):
            try:
                parsed = parse_event(one, index, bare=bare, header_user=header_user, settings=self._settings)
                found = await self._references.resolve(tenant, parsed)
            except ApiError as error:
                if bare:
                    self._telemetry.events.labels("invalid", "rejected").inc()
                    raise
                rejected.append((index, error))
                continue
            if isinstance(found, ReadyEvent):
                ready.append(found)
            else:
                resolved.append(found)
        texts = sum(len(one.judged.texts) for one in resolved)
        if texts > (limit := self._settings.max_feedback_texts):
            fault = f"Its events judge {texts} texts; a request may judge {limit}."
            raise InvalidRequestError(("" if bare else "/events", fault))
        ready += await self._with_features(model.featurizer, tenant, resolved, timings)
        if not self._tenancy.of(tenant).keep_texts:
            ready = [_without_texts(event) for event in ready]
        ready.sort(key=lambda event: event.parsed.index)
        ready = await self._within_quota(model, tenant, ready)
        job = FeedbackJob(tenant, tuple(ready), tuple(rejected), bare, idempotency, self._clock())
        return await self._writer.feedback(job)

    async def _with_features(
        self, featurizer: Featurizer, tenant: str, resolved: Sequence[Resolved], timings: Timings
    ) -> list[ReadyEvent]:
        """Adds features to all events, in one call."""
        pairs = [pair for one in resolved for pair in one.judged.texts]
        if not pairs:
            return [ReadyEvent(one.parsed, one.user, one.judged) for one in resolved]
        prompts, texts = [p for p, _ in pairs], [t for _, t in pairs]
        batch = await featurizer.features(tenant, texts, prompts, timings)
        ready, start = [], 0
        for one in resolved:
            rows = slice(start, start := start + len(one.judged.texts))
            features = JudgedFeatures(
                featurizer.extractor.identity,
                batch.keys[rows],
                tuple(item_key(prompt, text) for prompt, text in one.judged.texts),
                batch.vectors[rows],
                batch.tokens[rows],
                batch.truncated[rows],
            )
            ready.append(ReadyEvent(one.parsed, one.user, one.judged, features))
        return ready


def _without_texts(event: ReadyEvent) -> ReadyEvent:
    """As it is logged where a tenant keeps no texts."""
    if event.judged is None or not event.judged.texts:
        return event
    return replace(event, judged=replace(event.judged, payload=without_texts(event.judged.payload)))
