"""Has the user changed? Page's test (1954) on what was lost by believing what was learned.

For every judgement the log-loss of the user's own predictions is compared with that of the population's, had it been
asked instead: log p_population(judgement) − log p_user(judgement) is the log-likelihood ratio of "a stranger" against
"the user as known", standardised by construction (in nats, 0 where both say the same, negative on average while the
user is as known), and clipped so that no single judgement decides. Its cumulative sum, never below 0, tells of a change
where it crosses a level.

Measured by simulation (eight directions of taste, 100 judgements before the change, 50 users each; `tests/models`
repeats a part of it): without any change and with the right noise 0, 0.03 and 0 false alarms in 1,000 pairs, votes and
ratings; with a tenth of the labels flipped and as much taste again that the model does not know, 1.8, 1.4 and 0.2. A
user whose taste is reversed is noticed after 10 pairs, 13 votes or 10 ratings (medians), one who becomes a new draw
from the population after 29 pairs or 40 votes, and in a quarter to a half of the cases not at all: where what changed is
small, or the ordinary learning is as quick.
"""

import math
from typing import Final

LEVEL: Final = 5.0
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
    if math.isnan(excess):  # impossible to both
        return surprise
    return max(0.0, surprise + max(-CLIP, min(CLIP, excess)))
