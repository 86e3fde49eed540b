"""A feedback request's way to the writer: resolve what its events refer to, add features, hand over."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import orjson

from penchant.models.judgements.base import JudgementKind
from penchant.models.taste.items import item_key
from penchant.service.access.limits import QuotaKind, Quotas, Tenancy
from penchant.service.encoding.featurizer import Featurizer
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.events import FeedbackRequest, ReceivedEvent
from penchant.service.feedback.history import read_history
from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob, Idempotency, ReadyEvent
from penchant.service.feedback.schemas import RetractEvent
from penchant.service.feedback.writer import Writer
from penchant.service.log.reading import remove_texts
from penchant.service.log.rows import JudgedFeatures
from penchant.service.ranking.rankings import Ranking, Rankings
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.store.requests import find_answers
from penchant.service.telemetry.metrics import Telemetry, Timings
from penchant.service.users.current import UserStates

_HOUR = 3600.0
MAX_KEY_CHARS = 255
INLINE_EDIT_CHARS: Final = 4000
"""Edits up to this many characters, both texts together, are compared on the event loop, in half a millisecond."""


class LearningModel(Protocol):
    """The part of a served model that learning uses."""

    @property
    def featurizer(self) -> Featurizer:
        """Featurizer that finds or computes the features of judged texts."""

    @property
    def states(self) -> UserStates:
        """Current states of users."""


class Learner:
    """Learns from feedback requests.

    Args:
        settings: Limits.
        rankings: Rankings that events may refer to.
        writer: Writer that logs events and learns from them.
        quotas: Quotas of tenants.
        tenancy: Tenants, which decide whether their texts are kept.
        store: Store that holds the answers to idempotency keys.
        telemetry: Telemetry that counts events.
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
        self._resolver = ReferenceResolver(rankings, settings)
        self._writer = writer
        self._quotas = quotas
        self._tenancy = tenancy
        self._store = store
        self._telemetry = telemetry
        self._in_flight: set[tuple[str, str]] = set()

    async def learn(
        self,
        tenant: str,
        request: FeedbackRequest,
        key: str | None,
        timings: Timings,
        *,
        model: LearningModel,
        is_admin: bool,
    ) -> bytes:
        """Learn from a feedback request, and return its answer as soon as its events are durable and visible.

        Args:
            tenant: Tenant that sends the request.
            request: The request. It is hashed if there is a key.
            key: Idempotency key, if any.
            timings: Receives the time that each stage takes.
            model: Model that the request is served by.
            is_admin: Whether the sender has the scope `admin`, so that its events of the past are history.

        Raises:
            ApiError: If the request, or its single bare event, is refused.
        """
        if key is None or request.request_hash is None:
            return await self._learn_within_quota(
                tenant, request, None, timings, model=model, is_admin=is_admin
            )
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise InvalidRequestError(("", f"An idempotency key has 1 to {MAX_KEY_CHARS} characters."))
        if (tenant, key) in self._in_flight:
            detail = (
                "A request with this idempotency key is being processed. Wait for its answer, or try again."
            )
            raise ApiError(Code.IDEMPOTENCY_IN_FLIGHT, detail, headers={"Retry-After": "1"})
        self._in_flight.add((tenant, key))
        try:
            idempotency = Idempotency(key, request.request_hash)
            answer = await self._find_answer(tenant, idempotency)
            if answer is not None:
                return answer
            return await self._learn_within_quota(
                tenant, request, idempotency, timings, model=model, is_admin=is_admin
            )
        finally:
            self._in_flight.discard((tenant, key))

    async def _find_answer(self, tenant: str, idempotency: Idempotency) -> bytes | None:
        """Return the stored answer under this key, or None if the key is new or has expired."""
        row = (await self._store.read(find_answers, tenant, [idempotency.key])).get(idempotency.key)
        if row is None or self._store.clock() - row.created_at > self._settings.idempotency_ttl_hours * _HOUR:
            return None
        if row.request_hash != idempotency.request_hash:
            raise ApiError(Code.IDEMPOTENCY_KEY_REUSED, "A new request needs a new idempotency key.")
        answer: bytes = row.answer
        return answer

    async def _refuse_users_over_quota(
        self, model: LearningModel, tenant: str, events: Sequence[ReadyEvent]
    ) -> list[ReadyEvent]:
        """Return the events, with a fault for those of new users over the quota. These may still be duplicates."""
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

    async def _learn_within_quota(
        self,
        tenant: str,
        request: FeedbackRequest,
        idempotency: Idempotency | None,
        timings: Timings,
        *,
        model: LearningModel,
        is_admin: bool,
    ) -> bytes:
        number = len(request.events)
        self._quotas.spend(tenant, QuotaKind.EVENTS, number)
        accepted = 0
        try:
            answer = await self._submit(tenant, request, idempotency, timings, model=model, is_admin=is_admin)
            accepted = sum(outcome == "accepted" for _, outcome in answer.outcomes)
        finally:
            self._quotas.refund(tenant, QuotaKind.EVENTS, number - accepted)
        for kind, outcome in answer.outcomes:
            self._telemetry.events.labels(kind, outcome).inc()
        if answer.change_points:
            self._telemetry.users_changed.inc(answer.change_points)
        if answer.bursts:
            self._telemetry.bursts.inc(answer.bursts)
        for reason in answer.flags:
            self._telemetry.discounted_events.labels(reason).inc()
        return answer.body

    async def _submit(
        self,
        tenant: str,
        request: FeedbackRequest,
        idempotency: Idempotency | None,
        timings: Timings,
        *,
        model: LearningModel,
        is_admin: bool,
    ) -> FeedbackAnswer:
        """Resolve and featurise the events of a request, and pass them to the writer."""
        is_bare = request.is_bare
        ready: list[ReadyEvent] = []
        rejected: list[tuple[int, ApiError]] = []
        for index, received in enumerate(request.events):
            if isinstance(received, ApiError):
                resolved: ReadyEvent | ApiError = received
            else:
                resolved = await self._resolver.resolve(tenant, received)
            if not isinstance(resolved, ApiError):
                ready.append(resolved)
                continue
            if is_bare:
                self._telemetry.events.labels("invalid", "rejected").inc()
                raise resolved
            rejected.append((index, resolved))
        texts = sum(len(event.statement.texts) for event in ready)
        if texts > (limit := self._settings.max_feedback_texts):
            fault = f"The events judge {texts} texts; the limit for one request is {limit}."
            raise InvalidRequestError(("" if is_bare else "/events", fault))
        ready = await self._add_features(model.featurizer, tenant, ready, timings)
        if not self._tenancy.get(tenant).keep_texts:
            ready = [
                replace(event, payload=remove_texts(event.payload)) if event.statement.texts else event
                for event in ready
            ]
        ready = await self._refuse_users_over_quota(model, tenant, ready)
        job = FeedbackJob(
            tenant, tuple(ready), tuple(rejected), is_bare, idempotency, self._store.clock(), is_admin
        )
        if days := job.list_history_days():
            job = replace(job, history=await self._store.read_snapshot(read_history, tenant, days))
        return await self._writer.write_feedback(job)

    async def _add_features(
        self, featurizer: Featurizer, tenant: str, events: Sequence[ReadyEvent], timings: Timings
    ) -> list[ReadyEvent]:
        """Add the features and the match of all events' texts, which are computed in one call."""
        texts = [text for event in events for text in event.statement.texts]
        if not texts:
            return list(events)
        prompts = [event.prompt for event in events for _ in event.statement.texts]
        batch = await featurizer.get_features(tenant, texts, prompts, timings)
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
                batch.windows[rows],
                batch.match[rows],
                featurizer.match_version,
                prompt_key := batch.prompt_keys[rows.start],
                None if prompt_key is None else batch.prompts[prompt_key],
                featurizer.extractor.prompt_dim > 0,
            )
            ready.append(replace(event, features=features))
        return ready


@dataclass(frozen=True)
class ReferenceResolver:
    """Looks up the user and the texts that events refer to.

    Attributes:
        rankings: Rankings that events may refer to.
        settings: Limits.
    """

    rankings: Rankings
    settings: Settings

    async def resolve(self, tenant: str, received: ReceivedEvent) -> ReadyEvent | ApiError:
        """Return an event with its user, its texts and its statement about them, or why it is rejected.

        If its ranking has expired but the caller chose the event's id, the event may already be in the log. It is then
        returned with a `fault`, and the ledger decides.

        An event is rejected if it refers to an unknown ranking (`rank_not_found`), to another user's ranking
        (`user_conflict`), or to candidates that the ranking does not have (`validation_failed`).
        """
        event = received.event
        refers = isinstance(event, JudgementKind) and event.refers_to_ranking
        try:
            if received.user is not None and not refers:
                return await _build_ready_event(received, received.user)
            return await self._resolve_ranking(tenant, received)
        except ApiError as error:
            if received.is_callers_id and error.code is Code.RANK_NOT_FOUND:
                return ReadyEvent(received, received.user or "", fault=error.detach())
            return error.detach()

    async def _resolve_ranking(self, tenant: str, received: ReceivedEvent) -> ReadyEvent:
        base, event = received.pointer, received.event
        ranking = await self.rankings.find(tenant, event.rank_id or "")
        if ranking is None:
            fault = "No ranking of the last day has this id. Send the texts instead."
            raise InvalidRequestError((f"{base}/rank_id", fault), code=Code.RANK_NOT_FOUND)
        user = received.user if received.user is not None else ranking.user
        if user is None:
            raise InvalidRequestError((f"{base}/user", "The ranking was made for no user. Send `user`."))
        if ranking.user is not None and ranking.user != user:
            fault = "The ranking was made for another user."
            raise InvalidRequestError((f"{base}/user", fault), code=Code.USER_CONFLICT)
        if isinstance(event, JudgementKind) and event.refers_to_ranking:
            prompt, texts = self._select_candidates(base, event, ranking)
            return await _build_ready_event(received, user, {"prompt": prompt} | event.with_texts(texts))
        return await _build_ready_event(received, user)

    def _select_candidates(
        self, base: str, event: JudgementKind, ranking: Ranking
    ) -> tuple[str, tuple[str, ...]]:
        """Return the prompt and the texts, winner first, that the event's indices refer to."""
        number = len(ranking.texts)
        candidates = event.candidates_of(number)
        for pointer, index in candidates:
            if index >= number:
                fault = f"The ranking has {number} candidates; the first has index 0."
                raise InvalidRequestError((base + pointer, fault))
        (_, first), *others = candidates
        if event.form == "comparison" and len(ranking.prompts) > 1:
            fault = "The ranking's candidates answer different prompts; a choice must be among answers to one prompt."
            raise InvalidRequestError((f"{base}/rank_id", fault))
        prompt, text = ranking.get_candidate(first)
        # A text that was shown twice counts as one option.
        texts = tuple(
            dict.fromkeys([text, *(ranking.texts[index] for index in sorted(index for _, index in others))])
        )
        if len(texts) > (limit := self.settings.max_event_texts):
            fault = (
                f"The ranking showed {len(texts)} texts; the limit for one event is {limit}. "
                "List those that the user saw in `seen`."
            )
            raise InvalidRequestError((f"{base}/seen", fault))
        return prompt, texts


async def _build_ready_event(
    received: ReceivedEvent, user: str, from_ranking: dict[str, object] | None = None
) -> ReadyEvent:
    """Build an event with its statement. Long edits are compared in a thread, so that the event loop is not blocked."""
    event = received.event
    is_slow = (
        isinstance(event, JudgementKind)
        and event.measures_change
        and sum(len(text) for _, text in event.sent_texts()) > INLINE_EDIT_CHARS
    )
    if is_slow:
        return await asyncio.to_thread(_build_ready_event_inline, received, user, from_ranking)
    return _build_ready_event_inline(received, user, from_ranking)


def _build_ready_event_inline(
    received: ReceivedEvent, user: str, from_ranking: dict[str, object] | None
) -> ReadyEvent:
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
