"""Saving current states of users who are behind the log, or whose states belong to another bundle or forgetting.

One background thread does this, and only to save time. Any caller that needs a state which is behind the log catches it
up on its own (`catching_up`), and passes the result on to be saved here. A server can therefore answer from its start.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from penchant.models.encoding.features import FeatureExtractor, Features
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.errors import ApiError, Code, OverloadedError
from penchant.service.log.rows import build_feature_rows, build_item_rows, build_prompt_rows
from penchant.service.store import tables, users
from penchant.service.store.database import Store
from penchant.service.store.judged_items import put_match
from penchant.service.store.long_logs.checkpoints import drop_checkpoints, put_checkpoints
from penchant.service.store.statements import add
from penchant.service.telemetry.metrics import Telemetry, log, log_failure
from penchant.service.users.catching_up import CatchUpResult, catch_up_in_steps, find_state, is_near
from penchant.service.users.completion import Shortfall, TextExtractor
from penchant.service.users.fold import Fold
from penchant.service.users.states import (
    StateCache,
    UserKey,
    UserState,
    build_checkpoint_row,
    build_state_row,
)

_PAGE: Final = 500
_REPORT_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 0.1
_LONG_REPLAYS: Final = 2  # users whose long logs are read at the same time while requests wait for them
_MAX_QUEUED_USERS: Final = 10_000  # users beyond it are caught up again when they are next needed


class BatchedExtractor:
    """Computes features on the encoder's own thread, in batches with the texts of requests.

    Args:
        extractor: Extractor that defines the keys.
        batcher: Batcher that runs the encoder.
        loop: Event loop of the batcher.
    """

    def __init__(
        self, extractor: FeatureExtractor, batcher: MicroBatcher, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._extractor = extractor
        self._batcher = batcher
        self._loop = loop

    @property
    def window_identity(self) -> str:
        """Identity of the features by the same encoder when it reads a single window of each text."""
        return self._extractor.window_identity

    def key(self, text: str, prompt: str = "") -> bytes:
        """Return the content key of a text's features."""
        return self._extractor.key(text, prompt)

    def extract(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Features:
        """Return the features of texts with their prompts. Call it from a thread other than the event loop's.

        Raises:
            OverloadedError: If the encoder's queue is full.
            ApiError: If the encoder fails on these texts.
        """
        extraction = self._batcher.extract(texts, prompts or [""] * len(texts))
        return asyncio.run_coroutine_threadsafe(extraction, self._loop).result().features


class Replayer:
    """Catches users up and saves their states.

    Args:
        store: The store.
        fold: Fold that computes states.
        extractor: Computes the features of texts that have none under the bundle's extractor.
        cache: Cache of states.
        telemetry: Telemetry that counts progress.

    Attributes:
        idle: Event that is set while no user is known to be behind.
        shortfall: Numbers of events in the saved states that the bundle cannot use in full.
    """

    def __init__(
        self, *, store: Store, fold: Fold, extractor: TextExtractor, cache: StateCache, telemetry: Telemetry
    ) -> None:
        self.idle = threading.Event()
        self.shortfall = Shortfall()
        self._store = store
        self._fold = fold
        self._extractor = extractor
        self._cache = cache
        self._telemetry = telemetry
        self._queue: queue.SimpleQueue[tuple[UserKey, CatchUpResult | None] | None] = queue.SimpleQueue()
        self._encoded = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penchant-replay", daemon=True)
        self._threads = ThreadPoolExecutor(_LONG_REPLAYS, thread_name_prefix="penchant-long-replay")

    def start(self) -> None:
        """Start the thread, which catches up every user who is behind in the store."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> bool:
        """Stop the thread after its current user. The other users are caught up after the next start.

        Args:
            seconds: Longest wait. None: as long as it takes.

        Returns:
            Whether the thread has ended.
        """
        self._stopping.set()
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(seconds)
        self._threads.shutdown(wait=False)
        return not self._thread.is_alive()

    def schedule(self, key: UserKey) -> None:
        """Schedule a user who is behind to be caught up soon. This can be called from any thread."""
        self._enqueue(key, None)

    async def load_state(self, key: UserKey) -> UserState | None:
        """Return a user's current state, or None for an unknown user.

        A few events are learned by the thread that reads the store. More of them, and what a retraction changes, are
        learned by threads that nobody else waits for.

        Raises:
            SQLAlchemyError: If the store cannot be read.
            ApiError: If texts must be encoded again and the encoder is overloaded or fails.
        """
        is_current, state = await self._store.run(self._load_near, key)
        if is_current:
            return state
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._load_far, key)

    def _load_near(self, key: UserKey) -> tuple[bool, UserState | None]:
        """Return whether the state can be had soon, and the state."""
        with self._store.reading() as connection:
            state = find_state(connection, key, self._fold)
            if state is None or state.is_current:
                return True, state
            if not is_near(connection, key, state):
                return False, None
            return True, self._catch_up(connection, key, state)

    def _load_far(self, key: UserKey) -> UserState | None:
        with self._store.reading() as connection:
            state = find_state(connection, key, self._fold)
            return None if state is None else self._catch_up(connection, key, state)

    def _catch_up(self, connection: Connection, key: UserKey, state: UserState) -> UserState:
        """Return a state that covers the whole log, and schedule each step on the way to be saved."""
        for result in catch_up_in_steps(connection, key, self._fold, state, self._extractor):
            self._enqueue(key, result)
            state = result.state
            if self._stopping.is_set():
                raise ApiError(Code.NOT_READY, "The server is stopping.", headers={"Retry-After": "1"})
        return state

    def _enqueue(self, key: UserKey, result: CatchUpResult | None) -> None:
        if self._queue.qsize() < _MAX_QUEUED_USERS:
            self.idle.clear()
            self._queue.put((key, result))

    # On the thread

    def _run(self) -> None:
        try:
            self.catch_up_all()
        except Exception as error:  # users are then caught up one by one, when they are needed
            log_failure("rebuild_failed", error)
        while not self._stopping.is_set():
            self._process_queue(block=True)

    def catch_up_all(
        self,
        report: Callable[[int, int], None] = lambda _done, _total: None,
        *,
        with_pauses: bool = False,
    ) -> tuple[int, int]:
        """Catch up every user who is behind in the store.

        This runs in the caller's thread, which must be the only one that works for this object.

        Args:
            report: Function that receives the number of users done and the total.
            with_pauses: Whether to pause as long as each user took, so that requests are served meanwhile.

        Returns:
            The number of users processed, and the number of them that could not be caught up.
        """
        bundle, half_life = self._fold.bundle_version, self._fold.forgetting.half_life_days
        with self._store.reading() as connection:
            total = users.count_behind(connection, bundle, half_life)
        if not total:
            return 0, 0
        log.info("rebuild_started", users=total, bundle=bundle)
        self._telemetry.replay_pending.set(total)
        started = reported = time.monotonic()
        done = failed = 0
        report(0, total)
        for key in self._list_behind():
            self._process_queue(block=False)
            user_started = time.monotonic()
            failed += not self._catch_up_user(key)
            if with_pauses:
                self._stopping.wait(min(time.monotonic() - user_started, _MAX_PAUSE_SECONDS))
            if self._stopping.is_set():
                return done, failed
            done += 1
            report(done, max(done, total))
            self._telemetry.replay_pending.set(max(0, total - done))
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                log.info("rebuild_progress", done=done, users=total)
        self._telemetry.replay_pending.set(0)
        seconds = round(time.monotonic() - started, 3)
        log.info(
            "rebuild_finished",
            users=done,
            texts_encoded=self._encoded,
            seconds=seconds,
            bundle=bundle,
            **{f"events_{name}": number for name, number in asdict(self.shortfall).items()},
        )
        return done, failed

    def _list_behind(self) -> Iterator[UserKey]:
        """Yield the users who are behind, read page by page so that memory does not grow with their number."""
        bundle, half_life = self._fold.bundle_version, self._fold.forgetting.half_life_days
        after: UserKey = ("", "")
        while True:
            with self._store.reading() as connection:
                page = users.find_behind(connection, bundle, half_life, after, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _process_queue(self, *, block: bool) -> None:
        while not self._stopping.is_set():
            if self._queue.empty():
                if not block:
                    return
                self.idle.set()
            work = self._queue.get()
            if work is not None:
                self._catch_up_user(*work)

    def _catch_up_user(self, key: UserKey, result: CatchUpResult | None = None) -> bool:
        """Catch one user up and save the state. Store failures are retried until they end.

        Returns:
            Whether the user's log can be read.
        """
        while not self._stopping.is_set():
            try:
                if result is not None:
                    self._save(key, result)
                    self._cache.advance(key, result.state)
                    return True
                with self._store.reading() as connection:
                    state = find_state(connection, key, self._fold)
                    if state is None:
                        return True
                    for step in catch_up_in_steps(connection, key, self._fold, state, self._extractor):
                        self._save(key, step)
                        self._cache.advance(key, step.state)
                        if self._stopping.is_set():
                            break
                return True
            except OverloadedError as error:
                self._stopping.wait(float(error.headers["Retry-After"]))
            except SQLAlchemyError as error:
                log_failure("replay_failed", error)
                self._stopping.wait(_RETRY_SECONDS)
            except Exception as error:  # an unreadable log affects its own user only
                log_failure("replay_failed", error)
                return False
        return True

    def _save(self, key: UserKey, result: CatchUpResult) -> None:
        """Save a state and its new features, unless the log has changed since it was read."""
        tenant, user = key
        fold, new_features, new_matches = self._fold, result.new_features, result.new_matches
        with self._store.writing() as connection:
            users.lock_users(connection, [key])
            half_life = fold.forgetting.half_life_days
            saved = users.find_users(connection, tenant, [user], fold.bundle_version, half_life).get(user)
            if saved is None or (saved.version, saved.updated_at) != result.state.stamp:
                return
            if saved.pending is not None:
                return
            feature_rows = [
                row for event in new_features.values() for row in build_feature_rows(tenant, event)
            ] + [row for event in new_matches.values() for row in build_prompt_rows(tenant, event)]
            item_rows = [
                row
                for seq, event in new_features.items()
                for row in build_item_rows(tenant, user, seq, event)
            ]
            add(connection, tables.features, sorted(feature_rows, key=lambda row: row["feature_key"]))
            add(connection, tables.judged_items, item_rows)
            match_rows = [
                row for seq, event in new_matches.items() for row in build_item_rows(tenant, user, seq, event)
            ]
            put_match(connection, tenant, user, fold.extractor, match_rows)
            if result.replayed_from is not None:
                drop_checkpoints(
                    connection, tenant, user, fold.bundle_version, since=result.replayed_from + 1
                )
            elif (saved.through_seq or 0) > result.state.through_seq:
                return  # another thread has learned more meanwhile
            put_checkpoints(
                connection,
                [
                    build_checkpoint_row(key, seq, evidence, fold.bundle_version, half_life)
                    for seq, evidence in result.checkpoints.items()
                ],
            )
            users.put_states(connection, [build_state_row(key, result.state, fold.bundle_version, half_life)])
        self._encoded += sum(len(event.feature_keys) for event in new_features.values())
        self.shortfall += result.shortfall
        self._telemetry.replayed_users.inc()
