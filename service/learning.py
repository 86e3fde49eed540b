"""Feedback: request → who → features → log (durable) → posterior. Here: up to the writer's queue."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import orjson

from penchant.models.reward import item_key
from penchant.service.describer import Describer
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.events import Judged, ParsedEvent, judged, parse_event, split_body
from penchant.service.feature_cache import FeatureCache
from penchant.service.featurizer import Featurizer
from penchant.service.jobs import FeedbackJob, Idempotency, JudgedFeatures, ReadyEvent
from penchant.service.rankings import Rankings
from penchant.service.schemas import TextEvent
from penchant.service.settings import Settings
from penchant.service.store.database import Database
from penchant.service.store.queries import find_answer
from penchant.service.telemetry import Telemetry, Timings
from penchant.service.writer import Writer

_HOUR = 3600.0
MAX_KEY_CHARS = 255


@dataclass(frozen=True)
class _Resolved:
    """An event with its user and texts, before its features are known."""

    parsed: ParsedEvent
    user: str
    judged: Judged


class Learner:
    """Turns feedback requests into durable knowledge.

    Args:
        settings: Limits.
        featurizer: Features of judged texts.
        rankings: Resolves `rank_id`.
        writer: Logs and learns.
        cache: Features in memory, to forget with a user.
        describer: Items in memory, likewise.
        database: Holds answers to idempotency keys.
        readers: Threads in which it is asked.
        telemetry: Counts events.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        featurizer: Featurizer,
        rankings: Rankings,
        writer: Writer,
        cache: FeatureCache,
        describer: Describer,
        database: Database,
        readers: Executor,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._featurizer = featurizer
        self._rankings = rankings
        self._writer = writer
        self._cache = cache
        self._describer = describer
        self._database = database
        self._readers = readers
        self._telemetry = telemetry
        self._clock = clock
        self._in_flight: set[tuple[str, str]] = set()

    async def feedback(
        self, tenant: str, body: Mapping[str, Any], header_user: str | None, key: str | None, timings: Timings
    ) -> bytes:
        """The answer to a feedback request, given when its events are durable and visible.

        Args:
            tenant: Whose app sends it.
            body: The request.
            header_user: User of the header, for events that name none.
            key: Idempotency key.
            timings: Where the time goes.

        Raises:
            ApiError: The request, or its one bare event, is refused.
        """
        if key is None:
            return await self._learn(tenant, body, header_user, None, timings)
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
            return await self._learn(tenant, body, header_user, idempotency, timings)
        finally:
            self._in_flight.discard((tenant, key))

    async def forget(self, tenant: str, user: str) -> None:
        """Removes a user from store and memory."""
        deleted = await self._writer.delete_user(tenant, user)
        self._rankings.forget_user(tenant, user)
        self._cache.forget(tenant, deleted.feature_keys)
        self._describer.forget(tenant, deleted.item_keys)
        for stored in deleted.shown:
            shown = orjson.loads(stored)
            prompts, texts = shown["prompts"], shown["texts"]
            for i, text in enumerate(texts):
                prompt = prompts[i if len(prompts) > 1 else 0]
                self._cache.forget(tenant, [self._featurizer.extractor.key(text, prompt)])
                self._describer.forget(tenant, [item_key(prompt, text)])

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
        with self._database.reading() as connection:
            row = find_answer(connection, tenant, key)
        if row is None or self._clock() - row.created_at > self._settings.idempotency_ttl_hours * _HOUR:
            return None
        return row.request_hash, row.answer

    async def _learn(
        self,
        tenant: str,
        body: Mapping[str, Any],
        header_user: str | None,
        idempotency: Idempotency | None,
        timings: Timings,
    ) -> bytes:
        raw, bare = split_body(body, self._settings)
        ready: list[ReadyEvent] = []
        resolved: list[_Resolved] = []
        rejected: list[tuple[int, ApiError]] = []
        for index, one in enumerate(raw):
            try:
                parsed = parse_event(one, index, bare=bare, header_user=header_user, settings=self._settings)
                found = await self._resolve(tenant, parsed)
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
        ready += await self._with_features(tenant, resolved, timings)
        ready.sort(key=lambda event: event.parsed.index)
        job = FeedbackJob(tenant, tuple(ready), tuple(rejected), bare, idempotency, self._clock())
        answer = await self._writer.feedback(job)
        for kind, outcome in answer.outcomes:
            self._telemetry.events.labels(kind, outcome).inc()
        return answer.body

    async def _resolve(self, tenant: str, parsed: ParsedEvent) -> _Resolved | ReadyEvent:
        """Looks up what a `rank_id` stands for.

        Returns:
            The event with its texts; or, where the ranking is gone but the caller's event id may be in the
            log, an event that can only be a duplicate.

        Raises:
            ApiError: `rank_not_found`, `user_conflict`, `validation_failed`.
        """
        event = parsed.event
        needs_text = isinstance(event, TextEvent) and event.text is None
        if not needs_text and parsed.user is not None:
            return _Resolved(parsed, parsed.user, judged(parsed, None))
        try:
            return await self._from_ranking(tenant, parsed)
        except ApiError as error:
            if parsed.is_callers_id and error.code is Code.RANK_NOT_FOUND:
                return ReadyEvent(parsed, parsed.user or "", fault=error)
            raise

    async def _from_ranking(self, tenant: str, parsed: ParsedEvent) -> _Resolved:
        event, at = parsed.event, parsed.pointer
        ranking = await self._rankings.find(tenant, event.rank_id or "")
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
        if not isinstance(event, TextEvent) or event.index is None:
            return _Resolved(parsed, user, judged(parsed, None))
        if event.index >= len(ranking.texts):
            fault = f"The ranking has {len(ranking.texts)} candidates, the first being 0."
            raise InvalidRequestError((f"{at}/index", fault))
        return _Resolved(parsed, user, judged(parsed, ranking.shown(event.index)))

    async def _with_features(
        self, tenant: str, resolved: Sequence[_Resolved], timings: Timings
    ) -> list[ReadyEvent]:
        """Adds features to all events, in one call."""
        pairs = [pair for one in resolved for pair in one.judged.texts]
        if not pairs:
            return []
        prompts, texts = [p for p, _ in pairs], [t for _, t in pairs]
        batch = await self._featurizer.features(tenant, texts, prompts, timings)
        ready, start = [], 0
        for one in resolved:
            rows = slice(start, start := start + len(one.judged.texts))
            features = JudgedFeatures(
                batch.keys[rows],
                tuple(item_key(prompt, text) for prompt, text in one.judged.texts),
                batch.vectors[rows],
                batch.tokens[rows],
                batch.truncated[rows],
            )
            ready.append(ReadyEvent(one.parsed, one.user, one.judged, features))
        return ready
