"""Settings and the store as a command opens them: beside a server that may be running on it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from penchant.service.cli.terminal import stop
from penchant.service.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penchant.models.bundle import Bundle
    from penchant.service.store.database import Store

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of users and their feedback; PENCHANT_DATA_DIR unless given.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option(help="Store in its place, such as postgresql+psycopg://…; PENCHANT_STORE_URL unless given."),
]


def bundle_in_use(connection: "Connection", settings: Settings) -> "Bundle":
    """The bundle that a server would rank with; a command that cannot load it ends with the reason."""
    from penchant.service.bundles.loading import StartError
    from penchant.service.bundles.stored_bundles import load_active_bundle

    try:
        return load_active_bundle(connection, settings)
    except StartError as error:
        stop(error)


def given(**options: object) -> dict[str, Any]:
    """Those options that were given on the command line: the others are None."""
    return {name: value for name, value in options.items() if value is not None}


def settings_of(data_dir: Path | None, store_url: str | None = None, **others: object) -> Settings:
    """The settings with what was given on the command line in their place."""
    try:
        return Settings(**given(data_dir=data_dir, store_url=store_url, **others))
    except ValidationError as error:
        faults = error.errors(include_input=False)
        stop("settings: " + "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in faults))


@contextmanager
def open_store(data_dir: Path | None, store_url: str | None, *, make: bool = False) -> "Iterator[Store]":
    """The store that the settings name; a command that cannot open it ends with the reason.

    Args:
        data_dir: As given on the command line.
        store_url: As given on the command line.
        make: Whether it is made where there is none.
    """
    from penchant.service.store.database import FILE_NAME, Store, StoreError

    settings = settings_of(data_dir, store_url)
    if not make and settings.store_url is None and not (settings.data_dir / FILE_NAME).is_file():
        stop(f"{settings.data_dir}: holds no store")
    try:
        store = Store.open(settings, exclusive=False)
    except StoreError as error:
        stop(error, code=1)
    with closing(store):
        yield store
