"""The commands for operators: look whether all is well, write the store into one file, restore it."""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from penchant.service.cli.inputs import Json
from penchant.service.cli.store_access import DataDir, StoreUrl, given, open_store, settings_of
from penchant.service.cli.terminal import INTERRUPTED, out, progress, stop

if TYPE_CHECKING:
    from penchant.service.store.archive import Manifest

_OWNER_ONLY: Final = 0o600
_COLORS: Final = {"ok": "green", "warning": "yellow", "failed": "red"}


def doctor(
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Check settings, store, bundle and encoder, and say what to do; exit code 1 where a check failed.

    Nothing is changed, and no secret is printed. A server may be running.
    """
    from penchant.service.doctor.checks import examine

    findings = []
    for finding in examine(given(data_dir=data_dir, store_url=store_url)):
        findings.append(finding)
        if not as_json:
            color = _COLORS[finding.status]
            out.print(f"[{color}]{finding.status:<8}[/]{finding.check:<11}", end="", highlight=False)
            said = f"{finding.detail}. To do: {finding.advice}" if finding.advice else finding.detail
            out.print(said, markup=False, highlight=False, soft_wrap=True)
    failed = any(finding.status == "failed" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [asdict(f) for f in findings]}, indent=2))
    if failed:
        raise typer.Exit(1)


def backup(
    file: Annotated[Path, typer.Argument(help="Written anew; never overwritten.")],
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Write the whole store, as it is at one moment, into one file; a server may go on serving.

    The file can be restored into either kind of database. It holds texts, users and hashes of keys: keep it safe.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from penchant.models.files import open_atomically
    from penchant.service.store.archive import ArchiveError, write_archive

    if file.exists():
        stop(f"{file}: is there already")
    try:
        with (
            open_store(data_dir, store_url) as store,
            progress() as report,
            open_atomically(file, overwrite=False, mode=_OWNER_ONLY) as target,
            store.reading() as connection,
        ):
            manifest = write_archive(connection, target, report)
    except (ArchiveError, SQLAlchemyError, OSError) as error:
        stop(_reason(error), code=1)
    except KeyboardInterrupt:
        stop("interrupted", INTERRUPTED)
    _tell(f"wrote {file} ({file.stat().st_size / 2**20:.1f} MiB)", manifest)


def restore(
    file: Annotated[Path, typer.Argument(help="What `penchant backup` wrote, from either kind of database.")],
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Fill an empty store from a backup, all or nothing, and read back what it then holds.

    No server may be running on the store.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from penchant.service.store.archive import ArchiveError, read_archive, read_manifest
    from penchant.service.store.database import Store, StoreError

    settings = settings_of(data_dir, store_url)
    try:
        with file.open("rb") as source, progress() as report:
            read_manifest(source)  # before anything is made
            with closing(Store.open(settings)) as store, store.writing() as connection:
                manifest = read_archive(connection, source, report)
    except (ArchiveError, StoreError, SQLAlchemyError, OSError) as error:
        stop(_reason(error), code=1)
    except KeyboardInterrupt:
        stop("interrupted: nothing was restored", INTERRUPTED)
    _tell(f"restored {store.name}", manifest)


def _reason(error: Exception) -> str:
    """One line, without the statement that failed."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _tell(done: str, manifest: "Manifest") -> None:
    counts = ", ".join(f"{card.name} {card.rows:,}" for card in manifest.tables if card.rows)
    told = f"{done}: {manifest.rows:,} rows of revision {manifest.revision}, checksums right ({counts or 'empty'})"
    out.print(told, markup=False, highlight=False, soft_wrap=True)
