"""How much a user's next judgement counts: bounded information per day, and less weight for suspicious accounts.

This module does no I/O. It tracks three quantities for each user, all of them derived from the log's own values:

- The **day**: the information learned from a user per UTC day is bounded. Judgements beyond the bound are logged, but
  nothing is learned from them.
- The **rate**: a token bucket that holds a person's session. It refills at a person's pace or at twice the account's
  mean daily rate, whichever is higher. Judgements that find it empty are a burst.
- **Trust**: Beta(α, β) as in SuperLocalMemory (Bhardwaj 2026, arXiv:2603.02240). Expected behaviour adds to α; a burst
  and a change of behaviour (a change point of the posterior) add to β. The weight of a judgement is multiplied by the
  mean's ratio to that of a fresh account, at most 1. Unlike in the paper, α and β are bounded, so that good conduct
  cannot be saved up for an attack. They also decay towards the prior with a half-life of a day, so that an import that
  was too fast is soon forgiven.

Judgements of the past that an admin sends are *history*, such as an import of old ratings. They tell nothing about the
pace of the account, so neither its rate nor its trust applies to them or is changed by them. Each of them is bounded by
the day on which it happened.

The decision is stored with the event (`feedback_events.discount`, `flags`) and never made again. A replay learns
weight × discount, even if the settings have changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

PRIOR: Final = (2.0, 1.0)
"""α and β of a fresh account."""

UPPER_BOUNDS: Final = (3.0, 9.0)
"""Upper bounds of α and β. In the worst case a judgement counts 27 % of a fresh account's."""

EXPECTED_INCREMENT: Final = 0.02
"""Amount that a judgement at a person's pace adds to α."""

BURST_INCREMENT: Final = 0.1
"""Amount that a judgement which finds the bucket empty adds to β."""

CHANGE_INCREMENT: Final = 1.0
"""Amount that a change of behaviour adds to β, because an account that was taken over behaves differently, too.

With the best record, the judgements that follow count 90 % until the increment decays.
"""

HALF_LIFE_SECONDS: Final = 86_400.0
"""Time after which half of what α and β have beyond the prior has decayed."""

DAILY_MEAN_SHARE: Final = 0.2
"""Share of the day that ended in the running mean of daily judgements."""

BURST_GAP_SECONDS: Final = 3600.0
"""Judgements that find the bucket empty belong to one burst if they are at most this far apart."""

HISTORY_AGE_SECONDS: Final = 3600.0
"""Age from which a judgement that an admin sends is history. A younger one belongs to the account's present session."""

DAY_SECONDS: Final = 86_400.0
_MINUTE: Final = 60.0

_JSON_KEYS: Final[Mapping[str, str]] = {
    "alpha": "alpha",
    "beta": "beta",
    "tokens_used": "spent",
    "updated_at": "as_of",
    "events_today": "today",
    "mean_daily_events": "usual",
    "last_burst_at": "hasty_at",
}
"""JSON keys of the stored trust state by attribute of `TrustState`."""


@dataclass(frozen=True)
class TrustPolicy:
    """Limits on what a person is expected to do.

    Attributes:
        max_daily_information: Judgement weights learned from a user per UTC day. None for no limit.
        burst_events: Judgements that may arrive at once, such as several batches of an import or a long session.
        events_per_minute: Sustained pace that counts as expected behaviour.
    """

    max_daily_information: float | None = 300.0
    burst_events: int = 250
    events_per_minute: float = 30.0


@dataclass(frozen=True)
class TrustState:
    """The record of an account's behaviour.

    Attributes:
        day: UTC day of the last judgement, in days since 1970.
        information: Information learned on `day` so far, in judgement weights.
        alpha: Evidence of expected behaviour at `updated_at`.
        beta: Evidence of unexpected behaviour at `updated_at`.
        tokens_used: Tokens missing from the bucket at `updated_at`, one for each judgement.
        updated_at: Time of the last update in Unix seconds. 0 for a fresh account.
        events_today: Number of judgements on `day`, learned or not.
        mean_daily_events: Running mean of judgements per day, over days that have ended.
        last_burst_at: Time in Unix seconds at which a judgement last found the bucket empty. None if none ever did.
    """

    day: int = 0
    information: float = 0.0
    alpha: float = PRIOR[0]
    beta: float = PRIOR[1]
    tokens_used: float = 0.0
    updated_at: float = 0.0
    events_today: int = 0
    mean_daily_events: float = 0.0
    last_burst_at: float | None = None

    @property
    def trust(self) -> float:
        """Mean of Beta(α, β) divided by that of a fresh account, at most 1."""
        return compute_trust(self.alpha, self.beta)

    def to_json(self) -> str:
        """Return the state as JSON, without day and information, which are stored in columns of their own."""
        return orjson.dumps({key: getattr(self, name) for name, key in _JSON_KEYS.items()}).decode()

    @classmethod
    def from_stored(cls, day: int, information: float, stored: str | None) -> "TrustState":
        """Build the state from its columns. Without JSON the account is fresh; unknown JSON keys are ignored."""
        if not stored:
            return cls(day, information)
        values: dict[str, Any] = orjson.loads(stored)
        return cls(
            day, information, **{name: values[key] for name, key in _JSON_KEYS.items() if key in values}
        )

    def advance_to(self, now: float, policy: TrustPolicy) -> "TrustState":
        """Return the state at `now`: α and β decay, the bucket refills, and a new day may begin.

        A time before `updated_at` changes nothing.
        """
        elapsed = max(0.0, now - self.updated_at) if self.updated_at else 0.0
        decay = 2.0 ** -(elapsed / HALF_LIFE_SECONDS)
        tokens_per_second = max(policy.events_per_minute / _MINUTE, 2 * self.mean_daily_events / DAY_SECONDS)
        updated_at = max(self.updated_at, now)
        day, information = find_day(updated_at), self.information
        events_today, mean_daily_events = self.events_today, self.mean_daily_events
        if day > self.day:
            mean_daily_events = (1 - DAILY_MEAN_SHARE) * mean_daily_events + DAILY_MEAN_SHARE * events_today
            mean_daily_events *= (1 - DAILY_MEAN_SHARE) ** min(
                day - self.day - 1, 100
            )  # days without judgements
            information, events_today = 0.0, 0
        return TrustState(
            day=max(day, self.day),
            information=information,
            alpha=PRIOR[0] + decay * (self.alpha - PRIOR[0]),
            beta=PRIOR[1] + decay * (self.beta - PRIOR[1]),
            tokens_used=max(0.0, self.tokens_used - elapsed * tokens_per_second),
            updated_at=updated_at,
            events_today=events_today,
            mean_daily_events=mean_daily_events,
            last_burst_at=self.last_burst_at,
        )

    def add_change_point(self) -> "TrustState":
        """Return the state after the user's judgements revealed a change of behaviour."""
        return replace(self, beta=min(UPPER_BOUNDS[1], self.beta + CHANGE_INCREMENT))

    def merge_with(self, other: "TrustState") -> "TrustState":
        """Return the state of two merged accounts. Its trust is that of the less trusted one."""
        worse = min(self, other, key=lambda state: state.trust)
        day = max(self.day, other.day)
        latest = [state for state in (self, other) if state.day == day]
        return replace(
            worse,
            day=day,
            information=sum(state.information for state in latest),
            tokens_used=self.tokens_used + other.tokens_used,
            updated_at=max(self.updated_at, other.updated_at),
            events_today=sum(state.events_today for state in latest),
            mean_daily_events=max(self.mean_daily_events, other.mean_daily_events),
        )


@dataclass(frozen=True)
class Discount:
    """The decision about one judgement.

    Attributes:
        factor: Factor in [0, 1] by which the judgement's weight is multiplied.
        flags: Reasons for a factor below 1: "burst" (it came too fast), "trust" (the account is trusted less), "capped"
            (the day's bound is reached).
        begins_burst: Whether the judgement is the first of a burst.
    """

    factor: float
    flags: tuple[str, ...] = ()
    begins_burst: bool = False


def compute_trust(alpha: float, beta: float) -> float:
    """Return the mean of Beta(α, β) divided by that of a fresh account, at most 1."""
    return min(1.0, alpha / (alpha + beta) / (PRIOR[0] / sum(PRIOR)))


def compute_information(weight: float, groups: Sequence[int]) -> float:
    """Return how many judgements an event is worth: one, or for a ranking one per text preferred to others."""
    return weight * max(1, sum(groups[:-1]))


def compute_discount(
    state: TrustState, weight: float, groups: Sequence[int], received_at: float, policy: TrustPolicy
) -> tuple[TrustState, Discount]:
    """Decide how much a judgement counts, and return the trust state after it.

    Args:
        state: Trust state before the judgement.
        weight: Weight of the event itself, 0 if it carries no information.
        groups: Sizes of its groups of tied texts, best first.
        received_at: Time of arrival in Unix seconds, equal for all events of a request.
        policy: Limits.
    """
    state = state.advance_to(received_at, policy)
    capacity = max(policy.burst_events, 2 * state.mean_daily_events)
    is_burst = state.tokens_used + 1 > capacity
    begins_burst = is_burst and (
        state.last_burst_at is None or state.updated_at - state.last_burst_at > BURST_GAP_SECONDS
    )
    alpha = state.alpha if is_burst else min(UPPER_BOUNDS[0], state.alpha + EXPECTED_INCREMENT)
    beta = min(UPPER_BOUNDS[1], state.beta + BURST_INCREMENT) if is_burst else state.beta
    flags = ("burst",) if is_burst else ()
    trust = compute_trust(alpha, beta)
    if trust < 1:
        flags = (*flags, "trust")
    information = compute_information(weight, groups) * trust
    share = _compute_share(information, state.information, policy)
    if share < 1:
        flags = (*flags, "capped")
    new_state = TrustState(
        day=state.day,
        information=state.information + share * information,
        alpha=alpha,
        beta=beta,
        tokens_used=state.tokens_used if is_burst else state.tokens_used + 1,
        updated_at=state.updated_at,
        events_today=state.events_today + 1,
        mean_daily_events=state.mean_daily_events,
        last_burst_at=state.updated_at if is_burst else state.last_burst_at,
    )
    return new_state, Discount(trust * share, flags, begins_burst)


def compute_history_discount(
    learned: float, weight: float, groups: Sequence[int], policy: TrustPolicy
) -> tuple[float, Discount]:
    """Decide how much a judgement of the past counts.

    Args:
        learned: Information learned from the user's history of the judgement's own day so far.
        weight: Weight of the event itself, 0 if it carries no information.
        groups: Sizes of its groups of tied texts, best first.
        policy: Limits.

    Returns:
        The information learned from that day after it, and the decision.
    """
    information = compute_information(weight, groups)
    share = _compute_share(information, learned, policy)
    return learned + share * information, Discount(share, ("capped",) if share < 1 else ())


def find_day(seconds: float) -> int:
    """Return the UTC day of a moment, in days since 1970."""
    return int(seconds // DAY_SECONDS)


def _compute_share(information: float, learned: float, policy: TrustPolicy) -> float:
    """Return the share of a judgement's information that still fits into a day of which some was learned."""
    if policy.max_daily_information is None or information <= 0:
        return 1.0
    return min(1.0, max(0.0, policy.max_daily_information - learned) / information)
