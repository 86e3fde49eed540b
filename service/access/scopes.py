"""What a key may do."""

from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """What a key may do. `admin` may do everything, and alone delete, export and merge users."""

    RANK = "rank"
    FEEDBACK = "feedback"
    ADMIN = "admin"


EVERYTHING: Final = frozenset(Scope)
