"""Made-up feedback events of every kind, as one client sends them."""

import random
from dataclasses import dataclass, field
from typing import Any, Final

TEXTS: Final = [
    f"{size} answer about {topic}, {tone}"
    for size in ("a short", "a long and detailed")
    for topic in ("cats", "trains", "soup", "opera")
    for tone in ("friendly", "matter of fact", "with an example", "with many numbers")
]
KINDS: Final = ("vote", "rating", "preference", "choice", "ranking", "edit", "retract")
_MAX_BATCH: Final = 5

Event = dict[str, Any]


@dataclass
class Request:
    """A feedback request, which is sent again unchanged until it is answered.

    Attributes:
        events: Events, each with an event id.
        key: Idempotency key, which some requests have.
    """

    events: list[Event]
    key: str | None


@dataclass
class Author:
    """A source of one client's events.

    Args:
        name: Name of the client, which its event ids begin with.
        users: Users for whom it sends.
        seed: Seed of the events.
    """

    name: str
    users: list[str]
    seed: int
    _made: int = 0
    _to_retract: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - no secret

    def request(self) -> Request:
        """Return the next request: one or more events of one or more users. Half of the requests have a key."""
        size = self._random.choice((1, 1, 1, self._random.randint(2, _MAX_BATCH)))
        events = [self._event() for _ in range(size)]
        return Request(events, events[0]["event_id"] if self._random.random() < 0.5 else None)

    def learned(self, request: Request) -> None:
        """Record an acknowledged request, so that some of its events can be retracted later."""
        for event in request.events:
            if event["type"] != "retract":
                self._to_retract.setdefault(event["user"], []).append(event["event_id"])

    def _event(self) -> Event:
        number, self._made = self._made, self._made + 1
        user = self._random.choice(self.users)
        kind = KINDS[number % len(KINDS)]
        targets = self._to_retract.get(user, [])
        if kind == "retract" and not targets:
            kind = "vote"
        event = {"event_id": f"{self.name}-{number}", "user": user, "type": kind}
        if kind == "retract":
            return event | {"target_event_id": targets.pop(self._random.randrange(len(targets)))}
        return event | {"prompt": "Which answer?"} | self._content(kind)

    def _content(self, kind: str) -> Event:
        texts = self._random.sample(TEXTS, 4)
        match kind:
            case "vote":
                return {"text": texts[0], "value": self._random.choice((1, -1))}
            case "rating":
                return {"text": texts[0], "value": self._random.randint(1, 5), "scale": [1, 5]}
            case "preference":
                return {"chosen": texts[0], "rejected": texts[1], "strength": 0.5}
            case "choice":
                return {"candidates": texts, "index": 2}
            case "ranking":
                return {"order": [texts[:1], texts[1:3], texts[3:]]}
        return {"original": texts[0], "edited": f"{texts[0]}, and a little more"}
