"""Brings saved states up to the log: users that another bundle or other forgetting left, and those left behind.

One thread. It merely saves others the work: whoever needs a state that is behind the log catches up by itself
(`catching_up`), and what was learned there is saved here. So a server answers from its start on.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from penchant.models.encoding.features import FeatureExtractor, Features
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.errors import OverloadedError
from penchant.service.log.rows import feature_rows, item_rows
from penchant.service.store import tables, users
from penchant.service.store.database import Store
from penchant.service.store.statements import add
from penchant.service.telemetry.metrics import Telemetry, log, log_failure
from penchant.service.users.catching_up import CaughtUp, Reader, caught_up
from penchant.service.users.fold import Fold
from penchant.service.users.states import StateCache, UserKey, UserState, state_row

_PAGE: Final = 500
_REPORT_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 1.0
_MAX_REST_SECONDS: Final = 0.1
_MAX_WAITING: Final = 10_000  # users; beyond, they are caught up again by the next who asks


class BatchedReader:
    """Has texts read again by the encoder's own thread, beside those of requests.

    Args:
        extractor: Gives keys.
        batcher: Encodes.
        loop: The event loop that the batcher belongs to.
    """

    def __init__(
        self, extractor: FeatureExtractor, batcher: MicroBatcher, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._extractor = extractor
        self._batcher = batcher
        self._loop = loop

    def key(self, text: str, prompt: str = "") -> bytes:
        """Content key of a text's features."""
        return self._extractor.key(text, prompt)

    def extract(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Features:
        """Features of texts with their prompts; called from a thread.

        Raises:
            OverloadedError: The encoder has no room.
            ApiError: It failed on these texts.
        """
        asked = self._batcher.extract(texts, prompts or [""] * len(texts))
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result().features


class Replayer:
    """Catches users up, and saves what that took.

    Args:
        store: The store.
        fold: What a state is.
        reader: Reads texts that have no features under the bundle's extractor.
        cache: States in memory.
        telemetry: Where progress is told.

    Attributes:
        settled: Set while nobody is known to be behind.
    """

    def __init__(
        self, *, store: Store, fold: Fold, reader: Reader, cache: StateCache, telemetry: Telemetry
    ) -> None:
        self.settled = threading.Event()
        self._store = store
        self._fold = fold
        self._reader = reader
        self._cache = cache
        self._telemetry = telemetry
        self._waiting: queue.SimpleQueue[tuple[UserKey, CaughtUp | None] | None] = queue.SimpleQueue()
        self._encoded = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._own, name="penchant-replay", daemon=True)

    def start(self) -> None:
        """Starts to catch up whoever the store leaves behind."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the user it is at; the others are caught up after the next start."""
        self._end.set()
        self._waiting.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def refresh(self, key: UserKey) -> None:
        """Has a user caught up soon, who was left behind. Any thread may call this."""
        self._enqueue(key, None)

    def current(self, key: UserKey) -> UserState | None:
        """A user's state as of now, caught up in the caller's thread; None for an unknown user.

        Raises:
            SQLAlchemyError: The store cannot be read.
            ApiError: Texts had to be read again, and the encoder has no room, or failed.
        """
        with self._store.reading() as connection:
            found = caught_up(connection, key, self._fold, self._reader)
        if found is None:
            return None
        if not found.is_saved:
            self._enqueue(key, found)
        return found.state

    def _enqueue(self, key: UserKey, found: CaughtUp | None) -> None:
        if self._waiting.qsize() < _MAX_WAITING:
            self.settled.clear()
            self._waiting.put((key, found))

    # On the thread

    def _own(self) -> None:
        try:
            self.warm()
        except Exception as error:  # whatever it is: users are caught up one by one then
            log_failure("rebuild_failed", error)
        while not self._end.is_set():
            self._serve_waiting(block=True)

    def warm(
        self, told: Callable[[int, int], None] = lambda _done, _total: None, *, politely: bool = False
    ) -> tuple[int, int]:
        """Everybody whom the store leaves behind, in the caller's thread, which is this object's only one.

        Args:
            told: Called with the number of users done, and of all.
            politely: Rest as long as each user took: for a server that answers with another bundle meanwhile.

        Returns:
            How many users were looked at, and how many of them could not be caught up.
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
        told(0, total)
        for key in self._behind():
            self._serve_waiting(block=False)
            began = time.monotonic()
            failed += not self._bring(key)
            if politely:
                self._end.wait(min(time.monotonic() - began, _MAX_REST_SECONDS))
            if self._end.is_set():
                return done, failed
            done += 1
            told(done, max(done, total))
            self._telemetry.replay_pending.set(max(0, total - done))
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                log.info("rebuild_progress", done=done, users=total)
        self._telemetry.replay_pending.set(0)
        seconds = round(time.monotonic() - started, 3)
        log.info("rebuild_finished", users=done, texts_encoded=self._encoded, seconds=seconds, bundle=bundle)
        return done, failed

    def _behind(self) -> Iterator[UserKey]:
        """Page by page, so that memory does not grow with the number of users."""
        bundle, half_life = self._fold.bundle_version, self._fold.forgetting.half_life_days
        after: UserKey = ("", "")
        while True:
            with self._store.reading() as connection:
                page = users.find_behind(connection, bundle, half_life, after, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _serve_waiting(self, *, block: bool) -> None:
        while not self._end.is_set():
            if self._waiting.empty():
                if not block:
                    return
                self.settled.set()
            work = self._waiting.get()
            if work is not None:
                self._bring(*work)

    def _bring(self, key: UserKey, found: CaughtUp | None = None) -> bool:
        """Catches one user up, and saves it; where the store fails, again until it does not.

        Returns:
            Whether the user's log can be read.
        """
        while not self._end.is_set():
            try:
                if found is None:
                    with self._store.reading() as connection:
                        found = caught_up(connection, key, self._fold, self._reader)
                if found is not None and not found.is_saved:
                    self._save(key, found)
                    self._cache.advance(key, found.state)
                return True
            except OverloadedError as error:
                self._end.wait(float(error.headers["Retry-After"]))
            except SQLAlchemyError as error:
                log_failure("replay_failed", error)
                self._end.wait(_RETRY_SECONDS)
            except (
                Exception
            ) as error:  # a log that cannot be read: its user is answered with an error, others are not
                log_failure("replay_failed", error)
                return False
        return True

    def _save(self, key: UserKey, found: CaughtUp) -> None:
        """Keeps what was learned, unless the log has changed since: then the next who asks goes on from before."""
        tenant, user = key
        fold = self._fold
        with self._store.writing() as connection:
            users.lock_users(connection, [key])
            if users.find_version(connection, tenant, user) != found.state.stamp:
                return
            features = [row for one in found.fresh.values() for row in feature_rows(tenant, one)]
            items = [row for seq, one in found.fresh.items() for row in item_rows(tenant, user, seq, one)]
            add(connection, tables.features, sorted(features, key=lambda row: row["feature_key"]))
            add(connection, tables.judged_items, items)
            half_life = fold.forgetting.half_life_days
            users.put_states(connection, [state_row(key, found.state, fold.bundle_version, half_life)])
        self._encoded += sum(len(one.feature_keys) for one in found.fresh.values())
        self._telemetry.replayed_users.inc()
