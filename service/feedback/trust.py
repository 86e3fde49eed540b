"""How much an account's next judgement counts: its day is bounded, who behaves like a machine is believed less. Pure.

Three things are watched, all of them in the log's own values, per user:

- The **day**: information learned of a user per UTC day is bounded. What goes beyond is logged, and learned no more.
- The **rate**: a bucket of tokens that a person's sitting does not empty, refilled at a person's pace or at twice the
  account's own usual day, whichever is more. Judgements that find it empty are a burst.
- **Trust**: Beta(α, β) as in SuperLocalMemory (Bhardwaj 2026, arXiv:2603.02240): behaviour as expected adds to α, a
  burst and a change of behaviour (a change point of the posterior) to β. A judgement's weight is multiplied by the
  mean's ratio to a fresh account's, never above 1. Unlike there both are bounded, so that nobody can save up good
  conduct for an attack, and halved day by day, so that an import which was too fast is soon forgiven.

What is decided stands on the event (`feedback_events.discount`, `flags`) and is never decided again: a replay learns
weight × discount, whatever the settings are by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import orjson

PRIOR: Final = (2.0, 1.0)
"""Beta of an account nobody knows."""

MOST: Final = (3.0, 9.0)
"""Bounds of α and β: at worst a judgement counts 27 % of what a fresh account's does."""

EXPECTED: Final = 0.02
"""What a judgement at a person's pace adds to α."""

HASTY: Final = 0.1
"""What one that finds the bucket empty adds to β."""

CHANGED: Final = 1.0
"""What a change of behaviour adds to β: people change, and accounts that are taken over do. With the best record what
follows counts 90 %, until time forgives."""

HALF_LIFE_SECONDS: Final = 86_400.0
"""After so long half of what α and β have beyond the prior is forgotten."""

USUAL_SHARE: Final = 0.2
"""What the day that ended counts in the account's usual day."""

EPISODE_SECONDS: Final = 3600.0
"""Hasty judgements that lie closer together are one burst."""

_DAY: Final = 86_400.0
_MINUTE: Final = 60.0


@dataclass(frozen=True)
class TrustPolicy:
    """What a person can do.

    Attributes:
        max_daily_information: Judgement weights learned of a user per UTC day; None: as many as come.
        burst_events: Judgements that may come at once: several batches of an import, a long sitting.
        events_per_minute: Pace that can be kept up.
    """

    max_daily_information: float | None = 300.0
    burst_events: int = 250
    events_per_minute: float = 30.0


@dataclass(frozen=True)
class TrustState:
    """What is remembered of an account's behaviour.

    Attributes:
        day: UTC day (since 1970) of
        information: what was learned on it so far, in judgement weights.
        alpha: Evidence of conduct as expected, as it stood
        beta: and of the contrary,
        spent: and what is missing from the bucket, in judgements,
        as_of: then, Unix seconds.
        today: Judgements on `day`, whether or not they were learned.
        usual: Running mean of judgements on days that ended.
        hasty_at: When the bucket was last found empty.
    """

    day: int = 0
    information: float = 0.0
    alpha: float = PRIOR[0]
    beta: float = PRIOR[1]
    spent: float = 0.0
    as_of: float = 0.0
    today: int = 0
    usual: float = 0.0
    hasty_at: float | None = None

    @property
    def trust(self) -> float:
        """Mean of Beta(α, β) over a fresh account's, at most 1."""
        return trust_of(self.alpha, self.beta)

    def to_json(self) -> str:
        """All but day and information, which are columns of their own."""
        return orjson.dumps({name: getattr(self, name) for name in _TOLD}).decode()

    @classmethod
    def read(cls, day: int, information: float, told: str | None) -> "TrustState":
        """What was stored; an account without is fresh. Fields of other versions are left out."""
        if not told:
            return cls(day, information)
        known: dict[str, Any] = orjson.loads(told)
        return cls(day, information, **{name: known[name] for name in _TOLD if name in known})

    def at(self, now: float, policy: TrustPolicy) -> "TrustState":
        """The same at `now`: time forgives, fills the bucket and begins new days. A clock set back changes nothing."""
        elapsed = max(0.0, now - self.as_of) if self.as_of else 0.0
        kept = 2.0 ** -(elapsed / HALF_LIFE_SECONDS)
        pace = max(policy.events_per_minute / _MINUTE, 2 * self.usual / _DAY)
        as_of = max(self.as_of, now)
        day, information, today, usual = int(as_of // _DAY), self.information, self.today, self.usual
        if day > self.day:
            usual = (1 - USUAL_SHARE) * self.usual + USUAL_SHARE * self.today
            usual *= (1 - USUAL_SHARE) ** min(day - self.day - 1, 100)  # days without anything
            information, today = 0.0, 0
        return TrustState(
            day=max(day, self.day),
            information=information,
            alpha=PRIOR[0] + kept * (self.alpha - PRIOR[0]),
            beta=PRIOR[1] + kept * (self.beta - PRIOR[1]),
            spent=max(0.0, self.spent - elapsed * pace),
            as_of=as_of,
            today=today,
            usual=usual,
            hasty_at=self.hasty_at,
        )

    def changed(self) -> "TrustState":
        """After the user's judgements showed another behaviour than before."""
        return replace(self, beta=min(MOST[1], self.beta + CHANGED))

    def joined(self, other: "TrustState") -> "TrustState":
        """Two accounts that turn out to be one: no better than the worse of them."""
        worse = min(self, other, key=lambda state: state.trust)
        day = max(self.day, other.day)
        both = [state for state in (self, other) if state.day == day]
        return replace(
            worse,
            day=day,
            information=sum(state.information for state in both),
            spent=self.spent + other.spent,
            as_of=max(self.as_of, other.as_of),
            today=sum(state.today for state in both),
            usual=max(self.usual, other.usual),
        )


_TOLD: Final = tuple(one.name for one in fields(TrustState) if one.name not in ("day", "information"))


def trust_of(alpha: float, beta: float) -> float:
    """Mean of Beta(α, β) over a fresh account's, at most 1."""
    return min(1.0, alpha / (alpha + beta) / (PRIOR[0] / sum(PRIOR)))


@dataclass(frozen=True)
class Weighed:
    """What is made of one judgement.

    Attributes:
        discount: In [0, 1], to be multiplied with its weight.
        flags: Why it is below 1: "burst" (it came too fast), "trust" (the account is believed less), "capped" (the day
            is full).
        begins_burst: Whether it is the first of a burst.
    """

    discount: float
    flags: tuple[str, ...] = ()
    begins_burst: bool = False


def information_of(weight: float, groups: Sequence[int]) -> float:
    """How many judgements an event is worth: one, or of a ranking one for each text that was preferred to others."""
    return weight * max(1, sum(groups[:-1]))


def weigh(
    state: TrustState, weight: float, groups: Sequence[int], received_at: float, policy: TrustPolicy
) -> tuple[TrustState, Weighed]:
    """One judgement more: how much it counts, and what is remembered.

    Args:
        state: Of the account before it.
        weight: What the event says of itself; 0 of one that says nothing.
        groups: Sizes of its groups of tied texts, best first.
        received_at: Unix seconds; equal within a batch.
        policy: What a person can do.
    """
    state = state.at(received_at, policy)
    room = max(policy.burst_events, 2 * state.usual)
    hasty = state.spent + 1 > room
    begins = hasty and (state.hasty_at is None or state.as_of - state.hasty_at > EPISODE_SECONDS)
    alpha = state.alpha if hasty else min(MOST[0], state.alpha + EXPECTED)
    beta = min(MOST[1], state.beta + HASTY) if hasty else state.beta
    flags = ("burst",) if hasty else ()
    trust = trust_of(alpha, beta)
    if trust < 1:
        flags = (*flags, "trust")
    information = information_of(weight, groups) * trust
    share = 1.0
    if policy.max_daily_information is not None and information > 0:
        left = max(0.0, policy.max_daily_information - state.information)
        share = min(1.0, left / information)
        if share < 1:
            flags = (*flags, "capped")
    after = TrustState(
        day=state.day,
        information=state.information + share * information,
        alpha=alpha,
        beta=beta,
        spent=state.spent if hasty else state.spent + 1,
        as_of=state.as_of,
        today=state.today + 1,
        usual=state.usual,
        hasty_at=state.as_of if hasty else state.hasty_at,
    )
    return after, Weighed(trust * share, flags, begins)
