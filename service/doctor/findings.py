"""The result of a check of `penchant doctor`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        check: Name of the check.
        status: `failed` if a server could not start or serve, `warning` for a lesser problem, or `ok`.
        detail: Observation, without any secret, text or user.
        advice: What to do about a problem.
    """

    check: str
    status: Literal["ok", "warning", "failed"]
    detail: str
    advice: str = ""
