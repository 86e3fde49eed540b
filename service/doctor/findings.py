"""What a check of `penchant doctor` found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: Which.
        status: `failed` keeps a server from starting or from serving; `warning` does not.
        detail: What was seen. No secret, text or user.
        advice: What to do about it.
    """

    check: str
    status: Literal["ok", "warning", "failed"]
    detail: str
    advice: str = ""
