"""Hears what other servers and commands of the same store did, and tells whoever subscribed here.

One thread looks once a second. A failing store only makes it late: it goes on from the number that it had reached,
and where the store no longer has all since then, it tells everybody to drop what they hold (kind "all").
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from penchant.service.store import feed
from penchant.service.store.database import Store
from penchant.service.store.feed import Change
from penchant.service.telemetry.metrics import log, log_failure

ALL: Final = "all"
KEPT_SECONDS: Final = 86_400.0
_PRUNE_SECONDS: Final = 3_600.0
Subscriber = Callable[[Change], None]


class Feed:
    """The change feed of one server.

    Subscribe before `start`, and read what the changes are about after it: then nothing falls in between. Subscribers
    run on the feed's thread, must be quick, and must understand kind "all" beside their own: drop or reread everything.
    One that raises is told "all" at every look until it succeeds.

    Args:
        store: The store.
        seconds: Between two looks.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._subscribers: list[tuple[str, Subscriber]] = []
        self._chores: list[Callable[[], None]] = []
        self._behind: list[Subscriber] = []
        self._reached = 0
        self._next_prune = 0.0
        self._failing = False
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penchant-feed", daemon=True)

    def subscribe(self, kind: str, subscriber: Subscriber) -> None:
        """Has `subscriber` called with every change of a kind, and with kind "all" when changes were missed."""
        self._subscribers.append((kind, subscriber))

    def each_time(self, chore: Callable[[], None]) -> None:
        """Has `chore` called at every look; its failure is logged and harms nobody."""
        self._chores.append(chore)

    def start(self) -> None:
        """Takes everything so far as heard, and starts to listen.

        Raises:
            SQLAlchemyError: The store cannot be read.
        """
        with self._store.reading() as connection:
            self._reached = feed.find_newest(connection)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what the chores hold is dealt with once more."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._do_chores()

    def poll(self) -> None:
        """One look, in the caller's thread. Never raises."""
        with self._lock:
            try:
                self._hear()
                self._prune()
            except Exception as error:
                if not self._failing:  # once, not every second
                    log_failure("feed_failed", error)
                self._failing = True
            else:
                self._failing = False
            self._catch_up()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.poll()
            self._do_chores()

    def _hear(self) -> None:
        while True:
            with self._store.reading() as connection:
                newest, heard = feed.find_newest(connection), feed.list_changes(connection, self._reached)
            # A gap, or a store that went back: restored from a backup under the running server.
            if newest < self._reached or (heard and heard[0].number != self._reached + 1):
                log.warning("changes_missed", reached=self._reached, newest=newest)
                self._reached = newest
                self._tell([subscriber for _, subscriber in self._subscribers], self._everything())
                return
            for change in heard:
                self._reached = change.number
                self._tell([one for kind, one in self._subscribers if kind == change.kind], change)
            if len(heard) < feed.PAGE:
                return

    def _prune(self) -> None:
        now = self._store.clock()
        if now < self._next_prune:
            return
        with self._store.writing() as connection:
            feed.prune(connection, now - KEPT_SECONDS)
        self._next_prune = now + _PRUNE_SECONDS

    def _tell(self, subscribers: Sequence[Subscriber], change: Change) -> None:
        for subscriber in subscribers:
            if subscriber in self._behind:  # it will be told "all"
                continue
            try:
                subscriber(change)
            except Exception as error:
                log_failure("subscriber_failed", error, kind=change.kind)
                self._behind.append(subscriber)

    def _catch_up(self) -> None:
        behind, self._behind = self._behind, []
        self._tell(behind, self._everything())

    def _everything(self) -> Change:
        return Change(self._reached, "", ALL, {}, self._store.clock())

    def _do_chores(self) -> None:
        for chore in self._chores:
            try:
                chore()
            except Exception as error:
                log_failure("chore_failed", error)
