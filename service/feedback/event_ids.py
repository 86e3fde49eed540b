"""Which event an id names. Ids are unique among events in force, so the id of a retracted event can be used again.

An event is in force unless a retraction in force names it. A retraction can be retracted, too, so the retractions of an
event, their retractions and so on form a tree. If an event is not in force, a new event can take its id. The earlier
event and all retractions of its tree are then *replaced*: their ids name nothing any more, and can be used again as
well. What is replaced stays in the log, and can never be in force again.

`EventIds` does no I/O. `load_ids` fills it from the store.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from penchant.service.store.event_ids import Place, find_holders, find_retractions_of

MAX_RETRACTIONS: Final = 20
"""Largest number of retractions in the tree of an event whose id can be used again.

This bounds the work for one event. An event with more of them counts as if it were in force.
"""


@dataclass(frozen=True, slots=True)
class NamedEvent:
    """An event that its id names.

    Attributes:
        place: Place of the event.
        event_id: Its id.
        content_hash: Hash of its content, 16 bytes.
    """

    place: Place
    event_id: str
    content_hash: bytes

    @property
    def tenant(self) -> str:
        """Tenant that sent it."""
        return self.place[0]

    @property
    def user(self) -> str:
        """User whose log holds it."""
        return self.place[1]


class EventIds:
    """The events that ids name, after the events that were added.

    Args:
        earlier: Ids before these events. What is added here does not change it until it is merged. None at first.

    Attributes:
        replaced: Places of events whose ids were used again, and of their retractions.
    """

    def __init__(self, earlier: "EventIds | None" = None) -> None:
        self.replaced: set[Place] = set()
        self._earlier = earlier
        self._named: dict[tuple[str, str], NamedEvent | None] = {}
        self._retractions: dict[Place, list[NamedEvent]] = {}

    def load(self, event: NamedEvent) -> None:
        """Take over an event that is in the log already."""
        self._named[(event.tenant, event.event_id)] = event

    @property
    def users(self) -> set[str]:
        """Users whose events were taken over from the log."""
        return {event.user for event in self._named.values() if event is not None}

    @property
    def retracted_users(self) -> set[str]:
        """Users who have retracted an event. Its replacement would change their logs."""
        return {user for _, user, _ in self._retractions}

    def load_retraction(self, target: NamedEvent, retraction: NamedEvent) -> None:
        """Take over a retraction that is in the log already."""
        self._retractions.setdefault(target.place, []).append(retraction)

    def find(self, tenant: str, event_id: str) -> NamedEvent | None:
        """Return the event that an id names, in force or not. None if the id names none."""
        key = (tenant, event_id)
        if key in self._named or self._earlier is None:
            return self._named.get(key)
        return self._earlier.find(tenant, event_id)

    def find_in_force(self, tenant: str, event_id: str) -> NamedEvent | None:
        """Return the event that an id names, if it is in force. If this is None, a new event can have the id.

        Cost: linear in the number of its retractions, of which at most `MAX_RETRACTIONS` are looked at.
        """
        event = self.find(tenant, event_id)
        return event if event is not None and self._is_in_force(event) else None

    def find_target(self, tenant: str, target: str, event_id: str) -> NamedEvent | None:
        """Return the event that a new retraction names, or None if the retraction cannot name it.

        It cannot name an event that it would replace, because it has the id of an event that is not in force.

        Args:
            tenant: Tenant that sends the retraction.
            target: Id that it names.
            event_id: Id of the retraction.
        """
        named, replaced = self.find(tenant, target), self.find(tenant, event_id)
        if named is None or replaced is None:
            return named
        return None if named in self._iterate_tree(replaced) else named

    def add(self, event: NamedEvent, target: NamedEvent | None = None) -> None:
        """Add a new event. If an event that is not in force has its id, that one is replaced with its retractions.

        Args:
            event: The event. `find_in_force` returns None for its id.
            target: Event that it retracts, as `find_target` returns it. None for a judgement.
        """
        replaced = self.find(event.tenant, event.event_id)
        if replaced is not None:
            for old in list(self._iterate_tree(replaced)):
                self._named[(old.tenant, old.event_id)] = None
                self.replaced.add(old.place)
        self._named[(event.tenant, event.event_id)] = event
        if target is not None:
            self._retractions.setdefault(target.place, []).append(event)

    def merge(self, later: "EventIds") -> None:
        """Take over what was added to a later object that was made from this one."""
        self._named |= later._named
        self.replaced |= later.replaced
        for place, retractions in later._retractions.items():
            self._retractions.setdefault(place, []).extend(retractions)

    def _is_in_force(self, event: NamedEvent) -> bool:
        tree: list[NamedEvent] = []
        for member in self._iterate_tree(event):
            if len(tree) > MAX_RETRACTIONS:
                return True
            tree.append(member)
        in_force: dict[Place, bool] = {}
        for member in reversed(tree):  # each retraction comes before what it retracts
            in_force[member.place] = not any(
                in_force[retraction.place] for retraction in self._find_retractions_of(member)
            )
        return in_force[event.place]

    def _iterate_tree(self, event: NamedEvent) -> Iterator[NamedEvent]:
        """Yield an event and all retractions of its tree, each after what it retracts."""
        waiting = [event]
        while waiting:
            member = waiting.pop()
            yield member
            waiting += self._find_retractions_of(member)

    def _find_retractions_of(self, event: NamedEvent) -> Iterable[NamedEvent]:
        own = self._retractions.get(event.place, [])
        return own if self._earlier is None else [*self._earlier._find_retractions_of(event), *own]


def load_ids(connection: Connection, tenant: str, sent: Iterable[str], targets: Iterable[str]) -> EventIds:
    """Return the events of the log that these ids name, with the retractions of those that may be replaced.

    Args:
        connection: Connection to read from.
        tenant: Tenant of the events.
        sent: Ids of events that were sent.
        targets: Ids that sent retractions name.

    Cost: one query if no id of `sent` is in the log. Otherwise one more, and one for each level of their retractions.
    """
    ids, sent = EventIds(), set(sent)
    rows = find_holders(connection, tenant, sorted(sent.union(targets)))
    roots = []
    for row in rows:
        event = NamedEvent((tenant, row.user_id, row.seq), row.event_id, row.content_hash)
        ids.load(event)
        if row.event_id in sent:
            roots.append(event)
    sizes: Counter[Place] = Counter()  # of the trees, by the place of their roots
    level = {
        root: {root.place} for root in roots
    }  # events whose retractions are to be read, with their roots
    expanded: set[Place] = set()
    while level:
        by_id = {event.event_id: event for event in level}
        below: dict[NamedEvent, set[Place]] = {}
        named = [(*event.place[1:], event.event_id) for event in level]
        for row in find_retractions_of(connection, tenant, named, MAX_RETRACTIONS + 1):
            event = by_id[row.target_event_id]
            retraction = NamedEvent((tenant, row.user_id, row.seq), row.event_id, row.content_hash)
            if event.place not in expanded:
                ids.load_retraction(event, retraction)
            sizes.update(level[event])
            below.setdefault(retraction, set()).update(level[event])
        expanded |= {event.place for event in level}
        level = {
            event: small
            for event, own in below.items()
            if (small := {root for root in own if sizes[root] <= MAX_RETRACTIONS})
        }
    return ids
