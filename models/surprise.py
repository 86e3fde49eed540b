"""Has the user changed? Page's test (1954) on what was lost by believing what was learned.

For every judgement the log-loss of the user's own predictions is compared with that of the population's, had it been
asked instead: log p_population(judgement) − log p_user(judgement) is the log-likelihood ratio of "a stranger" against
"the user as known", standardised by construction (in nats, 0 where both say the same, negative on average while the
user is as known), and clipped so that no single judgement decides. Its cumulative sum, never below 0, tells of a change
where it crosses a level.

FIGURES
"""

from typing import Final

LEVEL: Final = 6.0
"""Of the cumulative sum, in nats."""

CLIP: Final = 1.0
"""Most that one judgement can add or take, in nats."""

KEPT: Final = 0.25
"""What older judgements still count after a change, once."""


def accumulate(surprise: float, excess: float) -> float:
    """The cumulative sum after one more judgement; above `LEVEL` the user has changed.

    Args:
        surprise: Before it.
        excess: Log probability of the judgement under the population less that under what was known of the user.
    """
    return max(0.0, surprise + max(-CLIP, min(CLIP, excess)))
