"""Why a command could not be done, as one line, for failures that an operator can correct."""

from sqlalchemy.exc import SQLAlchemyError

from penchant import PenchantError
from penchant.models.errors import ModelError
from penchant.service.claims import StartError
from penchant.service.settings import SettingsError
from penchant.service.store.archive import ArchiveError
from penchant.service.store.database import StoreError, find_reason

_EXPECTED = (ArchiveError, ModelError, PenchantError, SettingsError, SQLAlchemyError, StartError, StoreError)


def explain(error: Exception) -> str | None:
    """Return the reason of a failure, or None if the failure is a fault of the program."""
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("penchant"):
        return f"{error.name} is not installed"
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{error.filename}: {reason}" if error.filename else reason
    return find_reason(error) if isinstance(error, _EXPECTED) else None
