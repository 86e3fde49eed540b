"""The checks of `penchant doctor`. They tell whether a server would start and serve well, and what to do if not.

settings → folder → exposure and store → port → clock → bundle → encoder → relevance model → neighbours → threads
"""

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy.exc import SQLAlchemyError

from penchant.service.claims import StartError, bind
from penchant.service.doctor.settings import Finding, read_settings
from penchant.service.settings import Settings
from penchant.service.store.database import StoreError, find_reason, store_name
from penchant.service.store.expiry_clock import ClockRecord
from penchant.service.store.inspection import StoreFacts, inspect_store
from penchant.service.timestamps import format_rfc3339

_LOW_DISK: Final = 2 * 2**30
_NO_DISK: Final = 100 * 2**20
_SKEW_SECONDS: Final = 5.0
_AHEAD_SECONDS: Final = 600.0
_DAY: Final = 86400.0
_HOUR: Final = 3600.0
_REPAIR: Final = "restore a backup to another place (`penchant restore`), and keep this file for inspection"


def examine(options: Mapping[str, Any], *, with_model: bool = True) -> Iterator[Finding]:
    """Run all checks, and yield each finding as soon as it is made. Nothing is changed.

    Args:
        options: Settings in place of the environment's.
        with_model: Whether to load the bundle and its encoder, as a server does.

    Cost: reads a whole SQLite file, and loads the encoder if wanted, which takes seconds.
    """
    settings, findings = read_settings(options)
    yield from findings
    if settings is None:
        return
    yield from _check_folder(settings)
    facts = yield from _check_store(settings)
    yield _check_port(settings, facts)
    yield _check_clock()
    if not with_model:
        return
    # What a model needs takes seconds to import.
    from penchant.service.doctor import model  # noqa: PLC0415

    active, archive = (None, None) if facts is None else (facts.active, facts.bundle)
    yield from model.check_model(settings, active, archive)
    yield model.check_neighbours()
    yield model.check_threads()


def _check_exposure(settings: Settings, *, stored_keys: bool) -> Finding:
    if settings.is_loopback():
        return Finding("exposure", "ok", f"{settings.host} can be reached only from this machine")
    if settings.get_tenant_keys() or stored_keys:
        return Finding("exposure", "ok", f"{settings.host}, with keys")
    if settings.allow_open:
        advice = "create keys and unset PENCHANT_ALLOW_OPEN, unless a proxy in front of the server checks who calls"
        return Finding(
            "exposure", "warning", f"{settings.host} serves everyone who can reach it, without a key", advice
        )
    advice = "create a key with `penchant keys create`, or set PENCHANT_API_KEY"
    return Finding(
        "exposure",
        "failed",
        f"{settings.host} can be reached from other machines, and there is no key",
        advice,
    )


def _check_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir.resolve()
    if settings.store_url is not None:
        return
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        advice = (
            f"let the server's user (now uid {os.getuid()}) write there, or choose another PENCHANT_DATA_DIR"
        )
        yield Finding("folder", "failed", f"{existing} cannot be written: {error.strerror}", advice)
        return
    if existing == folder and stat.S_IMODE(folder.stat().st_mode) & stat.S_IRWXO:
        yield Finding(
            "folder", "warning", f"{folder} is open to every user of this machine", f"chmod o= {folder}"
        )
    free = shutil.disk_usage(existing).free
    detail = f"{folder}: {free / 2**30:.1f} GiB free"
    if free < _NO_DISK:
        yield Finding("folder", "failed", detail, "free space: feedback is now answered with 503")
    elif free < _LOW_DISK:
        yield Finding("folder", "warning", detail, "free space before feedback is answered with 503")
    else:
        yield Finding("folder", "ok", detail)


def _check_store(settings: Settings) -> Generator[Finding, None, StoreFacts | None]:
    try:
        name = store_name(settings)
        facts = inspect_store(settings)
    except StoreError as error:
        yield Finding("store", "failed", str(error), "correct PENCHANT_STORE_URL")
        return None
    except ImportError:
        yield Finding("store", "failed", f"{name} needs a driver", "pip install 'penchant[postgres]'")
        return None
    except (SQLAlchemyError, OSError) as error:
        reason = find_reason(error)
        advice = (
            _REPAIR
            if settings.store_url is None
            else "check that it runs, and that address and password are correct"
        )
        yield Finding("store", "failed", f"{name} cannot be read: {reason}", advice)
        return None
    yield _check_exposure(settings, stored_keys=facts is not None and facts.has_keys)
    if facts is None:
        yield Finding("store", "ok", f"{name} does not exist yet: the first start creates it")
        return None
    for fault in facts.faults:
        advice = _REPAIR if settings.store_url is None else "correct this, or choose another database"
        if fault.startswith("its tables"):
            advice = "install the version of penchant that wrote it, or a newer one"
        elif fault.endswith("cannot be written"):
            advice = f"let the server's user (now uid {os.getuid()}) write it"
        yield Finding("store", "failed", f"{name}: {fault}", advice)
    for risk in facts.warnings:
        yield Finding("store", "warning", f"{name}: {risk}", "correct this in the database's configuration")
    if not facts.faults:
        yield _check_tables(name, facts)
    yield from _check_store_clock(settings, facts)
    return facts


def _check_port(settings: Settings, facts: StoreFacts | None) -> Finding:
    """Check that a server could listen. Its port may be in use by the server that runs on the store."""
    try:
        sockets = bind(settings.host, settings.port)
    except StartError as error:
        if "is in use" not in str(error):
            return Finding("port", "failed", str(error), "correct PENCHANT_HOST and PENCHANT_PORT")
        if facts is not None and facts.is_in_use:
            return Finding(
                "port", "ok", f"port {settings.port} is in use, and so is the store: a server is running"
            )
        # Whether a server is running on PostgreSQL cannot be seen.
        status: Literal["warning", "failed"] = "failed" if settings.store_url is None else "warning"
        advice = "stop the process that uses it, or choose another PENCHANT_PORT"
        return Finding("port", status, f"port {settings.port} is in use", advice)
    for bound in sockets:
        bound.close()
    return Finding("port", "ok", f"{settings.host}, port {settings.port} is free")


def _check_tables(name: str, facts: StoreFacts) -> Finding:
    use = {True: ", a server is running on it", False: ", no server is running on it", None: ""}
    detail = f"{name}: {facts.version}, {facts.events:,} events{use[facts.is_in_use]}"
    if facts.revision is None:
        return Finding("store", "ok", f"{detail}; the first start creates the tables")
    if facts.revision != facts.newest:
        advice = "back it up with the version that wrote it before a server of this version starts"
        change = f"the next start migrates its tables from {facts.revision} to {facts.newest}"
        return Finding("store", "warning", f"{detail}; {change}", advice)
    return Finding("store", "ok", f"{detail}, tables {facts.revision}")


def _check_store_clock(settings: Settings, facts: StoreFacts) -> Iterator[Finding]:
    if abs(facts.clock_skew) > _SKEW_SECONDS:
        detail = f"the database's clock differs by {facts.clock_skew:.0f} s"
        yield Finding("clock", "warning", detail, "synchronise both machines' clocks with NTP")
    yield from _check_jump(settings, facts.clock)
    ahead = (facts.newest_event or 0.0) - time.time()
    if ahead > _AHEAD_SECONDS:
        detail = f"the newest event arrived {ahead / 3600:.1f} h from now: the clock is behind, or was ahead"
        yield Finding("clock", "warning", detail, "synchronise the clock with NTP")


def _check_jump(settings: Settings, record: ClockRecord) -> Iterator[Finding]:
    """Report a clock that differs from what the store has recorded, because data does not expire by it yet."""
    written, grace = record.last_written, settings.expiry_grace_hours
    if written is None or abs(time.time() - written) <= grace * _HOUR:
        return
    confirmed = 0.0 if record.disputed_since is None else max(0.0, written - record.disputed_since) / _HOUR
    days = (time.time() - written) / _DAY
    direction = "ahead of" if days > 0 else "behind"
    yield Finding(
        "clock",
        "warning",
        f"the clock is {abs(days):.1f} days {direction} the last write of the store "
        f"({format_rfc3339(written, whole_seconds=True)}), so nothing expires by it yet",
        "if the clock is wrong, synchronise it with NTP; if it is right, because no server was running, do nothing: "
        f"data expires after servers have run for {max(0.0, grace - confirmed):.0f} hours more "
        "(PENCHANT_EXPIRY_GRACE_HOURS)",
    )


def _check_clock() -> Finding:
    now = time.time()
    installed = Path(__file__).stat().st_mtime
    today = format_rfc3339(now, whole_seconds=True)
    if now < installed - _DAY:
        detail = f"it is {today}, before penchant {version('penchant')} was installed"
        return Finding(
            "clock", "failed", detail, "synchronise the clock with NTP: it orders events and lets them expire"
        )
    return Finding("clock", "ok", today)
