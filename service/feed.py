"""The change feed's reader, which passes changes by other servers and commands of the store to subscribers.

One thread polls the store once a second. If the store fails, the thread later continues from the last number that it
read. If changes since then are missing, subscribers receive the kind "all", which tells them to drop what they hold.
"""

import math
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

    Subscribe before `start`, and read the data that the changes concern after it, so that no change is missed.
    Subscribers run on the feed's thread and must be quick. They must also handle the kind "all" by dropping or rereading
    everything. A subscriber that raises receives "all" at every poll until it succeeds.

    Args:
        store: The store.
        seconds: Seconds between two polls.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._subscribers: list[tuple[str, Subscriber]] = []
        self._chores: list[Callable[[], None]] = []
        self._behind: list[Subscriber] = []
        self._last_number = 0
        self._pruned_at = -math.inf
        self._failing = False
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penchant-feed", daemon=True)

    def subscribe(self, kind: str, subscriber: Subscriber) -> None:
        """Call `subscriber` with every change of a kind, and with the kind "all" if changes were missed."""
        self._subscribers.append((kind, subscriber))

    def each_time(self, chore: Callable[[], None]) -> None:
        """Call `chore` at every poll. A failure is logged and stops neither the feed nor other chores."""
        self._chores.append(chore)

    def start(self) -> None:
        """Start the thread. It reports the changes from now on.

        Raises:
            SQLAlchemyError: If the store cannot be read.
        """
        with self._store.reading() as connection:
            self._last_number = feed.find_newest(connection)
        self._thread.start()

    def stop(self, seconds: float | None = None) -> bool:
        """Stop the thread, then run the chores once more. Return whether the thread has ended.

        Args:
            seconds: Longest wait for the thread, without which the chores are not run. None: as long as it takes.
        """
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        self._do_chores()
        return True

    def poll(self) -> None:
        """Poll once, in the caller's thread. Never raises."""
        with self._lock:
            try:
                self._read()
                self._prune()
            except Exception as error:
                if not self._failing:  # log once, not every second
                    log_failure("feed_failed", error)
                self._failing = True
            else:
                self._failing = False
            self._catch_up()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.poll()
            self._do_chores()

    def _read(self) -> None:
        while True:
            with self._store.reading() as connection:
                newest, new = feed.find_newest(connection), feed.list_changes(connection, self._last_number)
            # Changes are missing, or the store was replaced by an older backup under the running server.
            if newest < self._last_number or (new and new[0].number != self._last_number + 1):
                log.warning("changes_missed", reached=self._last_number, newest=newest)
                self._last_number = newest
                self._notify([subscriber for _, subscriber in self._subscribers], self._change_of_all())
                return
            for change in new:
                self._last_number = change.number
                self._notify(
                    [subscriber for kind, subscriber in self._subscribers if kind == change.kind], change
                )
            if len(new) < feed.PAGE:
                return

    def _prune(self) -> None:
        now = self._store.clock()
        if abs(now - self._pruned_at) < _PRUNE_SECONDS:  # the clock may have been set back
            return
        with self._store.writing() as connection:
            feed.prune(connection, self._store.expiry_clock.now(connection) - KEPT_SECONDS)
        self._pruned_at = now

    def _notify(self, subscribers: Sequence[Subscriber], change: Change) -> None:
        for subscriber in subscribers:
            if subscriber in self._behind:  # it will receive "all"
                continue
            try:
                subscriber(change)
            except Exception as error:
                log_failure("subscriber_failed", error, kind=change.kind)
                self._behind.append(subscriber)

    def _catch_up(self) -> None:
        behind, self._behind = self._behind, []
        self._notify(behind, self._change_of_all())

    def _change_of_all(self) -> Change:
        return Change(self._last_number, "", ALL, {}, self._store.clock())

    def _do_chores(self) -> None:
        for chore in self._chores:
            try:
                chore()
            except Exception as error:
                log_failure("chore_failed", error)
