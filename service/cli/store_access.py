"""Settings and the store for commands. A server may be running on the same store."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penchant.service import settings as service_settings
from penchant.service.cli.terminal import stop
from penchant.service.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penchant.models.bundle import Bundle
    from penchant.service.store.database import Store
    from penchant.service.users.fold import Fold

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of users and their feedback. PENCHANT_DATA_DIR by default.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        help="PostgreSQL address of a store, in place of the folder. PENCHANT_STORE_URL by default."
    ),
]


def load_current_bundle(connection: "Connection", settings: Settings) -> "Bundle":
    """Load the bundle that a server would rank with, or end the command with the reason."""
    from penchant.service.bundles.stored_bundles import load_active_bundle
    from penchant.service.claims import StartError

    try:
        return load_active_bundle(connection, settings)
    except StartError as error:
        stop(error)


def build_served_fold(bundle: "Bundle", settings: Settings) -> "Fold":
    """Return the fold of a server that ranks with a bundle, the declared signal included, or end the command."""
    from penchant.service.bundles.signal import build_fold, find_signal
    from penchant.service.claims import StartError

    try:
        signal = find_signal(settings)
        return build_fold(bundle if signal is None else signal.add_to(bundle), settings, signal)
    except StartError as error:
        stop(error)


def drop_none(**options: object) -> dict[str, Any]:
    """Return the options that are not None, which are those given on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def read_settings(data_dir: Path | None, store_url: str | None = None, **others: object) -> Settings:
    """Return the settings, with options of the command line in place of the environment's, or end the command."""
    try:
        return service_settings.read_settings(**drop_none(data_dir=data_dir, store_url=store_url, **others))
    except service_settings.SettingsError as error:
        stop(error)


@contextmanager
def open_store(
    data_dir: Path | None, store_url: str | None, *, create: bool = False, patient: bool = False
) -> "Iterator[Store]":
    """Open the store that the settings name, or end the command with the reason.

    Args:
        data_dir: Data folder given on the command line.
        store_url: Address given on the command line.
        create: Whether to create the store if it does not exist.
        patient: Whether the command may take long, and waits for locks as long as it takes.
    """
    from penchant.service.store.database import FILE_NAME, Store, StoreError

    settings = read_settings(data_dir, store_url)
    if not create and settings.store_url is None and not (settings.data_dir / FILE_NAME).is_file():
        stop(f"{settings.data_dir} holds no store")
    try:
        store = Store.open(settings, exclusive=False, patient=patient)
    except StoreError as error:
        stop(error, code=1)
    with closing(store):
        yield store
