"""Would a server start here, and serve well? Every check says what it saw and what to do about it.

settings → folder → exposure and store → bundle → encoder → neighbours → clock → threads
"""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from penchant.service.doctor.findings import Finding
from penchant.service.doctor.model import check_model, check_neighbours, check_threads
from penchant.service.doctor.settings import read_settings
from penchant.service.settings import Settings
from penchant.service.store.database import store_name
from penchant.service.store.inspection import StoreFacts, look_at

_LOW_DISK: Final = 2 * 2**30
_NO_DISK: Final = 100 * 2**20
_SKEW_SECONDS: Final = 5.0
_AHEAD_SECONDS: Final = 600.0
_DAY: Final = 86400.0
_REPAIR: Final = "restore a backup elsewhere (`penchant restore`), and keep this file for inspection"


def examine(given: Mapping[str, Any]) -> Iterator[Finding]:
    """Every finding, one by one, as it is made. Nothing is changed.

    Args:
        given: Settings in place of the environment's.

    Cost: reads a SQLite file whole, and loads the encoder: seconds.
    """
    settings, findings = read_settings(given)
    yield from findings
    if settings is None:
        return
    yield from _folder(settings)
    facts = yield from _store(settings)
    yield from check_model(settings, None if facts is None else facts.bundle)
    yield check_neighbours()
    yield _clock()
    yield check_threads()


def _exposure(settings: Settings, *, stored_keys: bool) -> Finding:
    if settings.is_loopback():
        return Finding("exposure", "ok", f"{settings.host} is reached from this machine alone")
    if settings.get_tenant_keys() or stored_keys:
        return Finding("exposure", "ok", f"{settings.host}, with keys")
    if settings.allow_open:
        advice = "make keys, and unset PENCHANT_ALLOW_OPEN, unless something before the server asks for them"
        return Finding("exposure", "warning", f"{settings.host}: whoever reaches it may be anybody", advice)
    advice = "make a key with `penchant keys create`, or set PENCHANT_API_KEY"
    return Finding("exposure", "failed", f"{settings.host} is reached by others, and there is no key", advice)


def _folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir.resolve()
    if settings.store_url is not None:
        return
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        advice = (
            f"let the server's user write there (uid {os.getuid()} now), or name another PENCHANT_DATA_DIR"
        )
        yield Finding("folder", "failed", f"{there} cannot be written: {error.strerror}", advice)
        return
    if there == folder and stat.S_IMODE(folder.stat().st_mode) & stat.S_IRWXO:
        yield Finding(
            "folder", "warning", f"{folder} is open to every user of this machine", f"chmod o= {folder}"
        )
    free = shutil.disk_usage(there).free
    told = f"{folder}: {free / 2**30:.1f} GiB free"
    if free < _NO_DISK:
        yield Finding("folder", "failed", told, "make room: without it feedback is answered with 503")
    elif free < _LOW_DISK:
        yield Finding("folder", "warning", told, "make room before feedback is answered with 503")
    else:
        yield Finding("folder", "ok", told)


def _store(settings: Settings) -> Generator[Finding, None, StoreFacts | None]:
    name = store_name(settings)
    try:
        facts = look_at(settings)
    except ImportError:
        yield Finding("store", "failed", f"{name} needs a driver", "pip install 'penchant[postgres]'")
        return None
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        advice = (
            _REPAIR
            if settings.store_url is None
            else "see that it runs, and that address and password are right"
        )
        yield Finding("store", "failed", f"{name} cannot be read: {reason}", advice)
        return None
    yield _exposure(settings, stored_keys=facts is not None and facts.has_keys)
    if facts is None:
        yield Finding("store", "ok", f"{name} is not there yet: the first start makes it")
        return None
    for fault in facts.faults:
        advice = _REPAIR if settings.store_url is None else "correct that, or name another database"
        yield Finding("store", "failed", f"{name}: {fault}", advice)
    for risk in facts.warnings:
        yield Finding("store", "warning", f"{name}: {risk}", "correct that in the database's configuration")
    if not facts.faults:
        yield _tables(name, facts)
    yield from _store_clock(facts)
    return facts


def _tables(name: str, facts: StoreFacts) -> Finding:
    use = {True: ", a server is running on it", False: ", no server is running on it", None: ""}
    told = f"{name}: {facts.version}, {facts.events:,} events{use[facts.is_in_use]}"
    if facts.revision is None:
        return Finding("store", "ok", f"{told}; the first start makes the tables")
    if facts.revision not in facts.revisions:
        advice = "install the version of penchant that wrote it, or a newer one"
        return Finding("store", "failed", f"{told}; its tables ({facts.revision}) are unknown here", advice)
    if facts.revision != facts.newest:
        advice = "back it up with the version that wrote it before a server of this version starts"
        changed = f"its tables change from {facts.revision} to {facts.newest} at the next start"
        return Finding("store", "warning", f"{told}; {changed}", advice)
    return Finding("store", "ok", f"{told}, tables {facts.revision}")


def _store_clock(facts: StoreFacts) -> Iterator[Finding]:
    if abs(facts.clock_skew) > _SKEW_SECONDS:
        told = f"the database's clock differs by {facts.clock_skew:.0f} s"
        yield Finding("clock", "warning", told, "have both machines' clocks set by NTP")
    ahead = (facts.newest_event or 0.0) - time.time()
    if ahead > _AHEAD_SECONDS:
        told = f"the newest event came {ahead / 3600:.1f} h from now: this clock is behind, or was ahead"
        yield Finding("clock", "warning", told, "have the clock set by NTP")


def _clock() -> Finding:
    now = time.time()
    installed = Path(__file__).stat().st_mtime
    told = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    if now < installed - _DAY:
        detail = f"it is {told}, before penchant {version('penchant')} was installed"
        return Finding(
            "clock", "failed", detail, "set the clock (NTP): events are ordered and forgotten by it"
        )
    return Finding("clock", "ok", told)
