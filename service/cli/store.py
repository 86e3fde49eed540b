"""The commands `penchant doctor`, `backup` and `restore`."""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from penchant.service.cli.inputs import Json
from penchant.service.cli.store_access import DataDir, StoreUrl, drop_none, open_store, read_settings
from penchant.service.cli.terminal import INTERRUPTED, out, progress, stop

if TYPE_CHECKING:
    from penchant.service.store.archive import Manifest

_OWNER_ONLY: Final = 0o600
_COLORS: Final = {"ok": "green", "warning": "yellow", "failed": "red"}


def doctor(
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
    model: Annotated[
        bool, typer.Option("--model/--no-model", help="Whether to load the bundle and its encoder as well.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Check settings, store, bundle and encoder, and say what to do. Exits with 1 if a check fails.

    Nothing is changed and no secret is printed. A server may be running.
    """
    from penchant.service.doctor.checks import examine

    findings = []
    for finding in examine(drop_none(data_dir=data_dir, store_url=store_url), with_model=model):
        findings.append(finding)
        if not as_json:
            color = _COLORS[finding.status]
            out.print(f"[{color}]{finding.status:<8}[/]{finding.check:<11}", end="", highlight=False)
            line = f"{finding.detail}. To do: {finding.advice}" if finding.advice else finding.detail
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    failed = any(finding.status == "failed" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [asdict(f) for f in findings]}, indent=2))
    if failed:
        raise typer.Exit(1)


def backup(
    file: Annotated[Path, typer.Argument(help="File to create. An existing file is never overwritten.")],
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Write the whole store, as it is at one moment, to one file. A server may be running.

    The file can be restored into either kind of database. It holds texts, users and hashes of keys, so keep it safe.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from penchant.models.files import open_atomically
    from penchant.service.store.archive import ArchiveError, write_archive
    from penchant.service.store.database import find_reason

    if file.exists():
        stop(f"{file} already exists")
    try:
        with (
            open_store(data_dir, store_url, patient=True) as store,
            progress() as report,
            open_atomically(file, overwrite=False, mode=_OWNER_ONLY) as target,
            store.reading() as connection,
        ):
            manifest = write_archive(connection, target, report)
    except (ArchiveError, SQLAlchemyError, OSError) as error:
        stop(find_reason(error), code=1)
    except KeyboardInterrupt:
        stop("interrupted", INTERRUPTED)
    _print_result(f"wrote {file} ({file.stat().st_size / 2**20:.1f} MiB)", manifest)


def restore(
    file: Annotated[
        Path, typer.Argument(help="File that `penchant backup` wrote, from either kind of database.")
    ],
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Restore a backup into an empty store, all or nothing, and verify the result.

    No server may be running on the store.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from penchant.service.store.archive import ArchiveError, read_archive, read_manifest
    from penchant.service.store.database import Store, StoreError, find_reason

    settings = read_settings(data_dir, store_url)
    try:
        with file.open("rb") as source, progress() as report:
            read_manifest(source)  # before anything is created
            with closing(Store.open(settings, patient=True)) as store, store.writing() as connection:
                manifest = read_archive(connection, source, report)
    except (ArchiveError, StoreError, SQLAlchemyError, OSError) as error:
        stop(find_reason(error), code=1)
    except KeyboardInterrupt:
        stop("interrupted: nothing was restored", INTERRUPTED)
    _print_result(f"restored {store.name}", manifest)


def _print_result(done: str, manifest: "Manifest") -> None:
    counts = ", ".join(f"{card.name} {card.rows:,}" for card in manifest.tables if card.rows)
    line = f"{done}: {manifest.rows:,} rows of revision {manifest.revision}, checksums match ({counts or 'empty'})"
    out.print(line, markup=False, highlight=False, soft_wrap=True)
