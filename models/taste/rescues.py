"""Iterations that ended without a solution: counted and logged, so that the operator knows of them.

Every iteration of the user model is bounded. Where it reaches its bound, the best approximation that it met is used: a
Gaussian site like any other, only not quite the one that the formula defines. No error is raised, because an event that
was acknowledged has to be learned from. It is rare: among random choices and rankings it was only seen with priors ten
times as wide as a fitted one.
"""

import logging
import threading
from collections import Counter
from typing import Final

_log = logging.getLogger(__name__)


class Rescues:
    """How often each computation was rescued, in this process. Any thread may count and read."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(
        self, computation: str, *, residual: float, tolerance: float, steps: int, number: int = 1
    ) -> None:
        """Counts rescues, and logs the first, the second, the fourth and so on: a replay may meet thousands.

        Args:
            computation: What was computed, in few words; one of a fixed set.
            residual: How far from a solution the best was that was found, in the measure of the tolerance.
            tolerance: What would have been a solution.
            steps: After how many steps the iteration gave up.
            number: How many at once.
        """
        with self._lock:
            before = self._counts[computation]
            after = self._counts[computation] = before + number
        if before.bit_length() < after.bit_length():
            _log.warning(
                "the %s did not converge: a residual of %.2g after %d steps, %.2g is wanted; its best approximation "
                "is used (%d so far)",
                computation,
                residual,
                steps,
                tolerance,
                after,
            )

    def counts(self) -> dict[str, int]:
        """Rescues so far, by computation."""
        with self._lock:
            return dict(self._counts)


rescues: Final = Rescues()
"""Those of this process."""
