"""What is known of a user at a time, and how judgements lose weight as it passes. Pure: the time is an argument."""

from dataclasses import dataclass
from typing import Final

from penchant.models.taste.posterior import UserPosterior

_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was learned of a user.

    Attributes:
        posterior: As it stood
        as_of: then: when the last judgement was learned, Unix seconds.
    """

    posterior: UserPosterior
    as_of: float = 0.0


@dataclass(frozen=True)
class Forgetting:
    """After every half-life what was learned counts half as much.

    Attributes:
        half_life_days: None: nothing is ever forgotten.
    """

    half_life_days: float | None = None

    def aged(self, evidence: Evidence, now: float) -> UserPosterior:
        """What is left at `now` (Unix seconds). A clock that was set back makes nothing younger."""
        posterior, elapsed = evidence.posterior, now - evidence.as_of
        if self.half_life_days is None or elapsed <= 0 or posterior.judgements == 0:
            return posterior
        return posterior.forget(elapsed, self.half_life_days * _DAY)
