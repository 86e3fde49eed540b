"""The audit after a fault: the log as a client reads it, and every state learned again from the log."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from benchmarks.faults.load import Ledger
from benchmarks.faults.stores import Store
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.store.database import Store as PenchantStore
from penchant.service.users.fold import Fold
from penchant.service.users.states import Forgetting
from penchant.service.users.verify import replay


@dataclass(frozen=True)
class Audit:
    """A comparison of the log with the acknowledged events.

    Attributes:
        acknowledged: Number of events that the server acknowledged.
        found: Number of events in the log.
        duplicated: Number of surplus copies of events in the log.
        lost: Number of acknowledged events that are not in the log.
        unacknowledged: Number of events in the log whose acknowledgement did not reach the client.
        strange: Number of events in the log of a user for whom they were not sent, or that were never sent.
        miscounted: Number of users whose `feedback_events` differs from the number of events in their log.
    """

    acknowledged: int
    found: int
    duplicated: int
    lost: int
    unacknowledged: int
    strange: int
    miscounted: int

    @property
    def is_clean(self) -> bool:
        """Whether no event is lost, duplicated, or in the wrong log."""
        return not (self.duplicated or self.lost or self.strange or self.miscounted)


@dataclass(frozen=True)
class Replay:
    """A comparison of saved states with states learned again from the log.

    Attributes:
        users: Number of users compared.
        different: Number of users whose saved state differs from the log's by more than 1e-6.
        behind: Number of users whose saved state did not cover the whole log and was caught up first.
        largest: Largest difference.
    """

    users: int
    different: int
    behind: int
    largest: float


def read_back(client: httpx.Client, ledger: Ledger, users: list[str]) -> Audit:
    """Read the log of every user page by page, through the public API, and compare it with the ledger."""
    found: Counter[str] = Counter()
    strange = miscounted = 0
    for user in users:
        logged = list(_log(client, user))
        found.update(logged)
        strange += sum(ledger.sent.get(event_id) != user for event_id in logged)
        miscounted += _count(client, user) != len(logged)
    return Audit(
        acknowledged=len(ledger.acknowledged),
        found=sum(found.values()),
        duplicated=sum(number - 1 for number in found.values()),
        lost=len(ledger.acknowledged - found.keys()),
        unacknowledged=len(found.keys() - ledger.acknowledged),
        strange=strange,
        miscounted=miscounted,
    )


def learn_again(store: Store) -> Replay:
    """Compare every saved state with its user's log at one moment, as `penchant replay` does."""
    extractor = FeatureExtractor(HashingEncoder())
    bundle = tiny_bundle(extractor)
    settings = store.settings()
    fold = Fold(
        bundle.reward,
        Forgetting(settings.forgetting_half_life_days),
        bundle.version,
        extractor.identity,
    )
    opened = PenchantStore.open(settings, exclusive=False)
    try:
        found = replay(opened, fold, now=time.time())
    finally:
        opened.close()
    return Replay(found.users, found.different + found.lacking, found.behind, found.largest)


def _log(client: httpx.Client, user: str) -> Iterator[str]:
    cursor: str | None = None
    while True:
        told: Mapping[str, str | int] = {"limit": 100} | ({"cursor": cursor} if cursor else {})
        answer = client.get(f"/v1/users/{quote(user, safe='')}/feedback", params=told)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return
        page = answer.raise_for_status().json()
        yield from (event["event_id"] for event in page["data"])
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _count(client: httpx.Client, user: str) -> int:
    answer = client.get(f"/v1/users/{quote(user, safe='')}")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return 0
    return int(answer.raise_for_status().json()["feedback_events"])
