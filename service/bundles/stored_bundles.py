"""Bundles in the store: a folder as one value, and which of them a server ranks with."""

import io
import tarfile
import tempfile
from pathlib import Path

from sqlalchemy import Connection

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle, BundleError
from penchant.service.bundles.loading import StartError, load_bundle
from penchant.service.settings import Settings
from penchant.service.store import activations, bundles
from penchant.service.store.database import Store


def packed(bundle: Bundle) -> bytes:
    """A bundle's folder as an uncompressed tar. Equal bundles, equal bytes.

    Raises:
        BundleError: There is no room for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="penchant-bundle-") as folder:
        bundle.save(Path(folder))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in sorted(Path(folder).iterdir()):
                member = tarfile.TarInfo(path.name)
                content = path.read_bytes()
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return buffer.getvalue()


def unpacked(archive: bytes) -> Bundle:
    """The bundle in a tar, its hash checked.

    Raises:
        BundleError: It is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="penchant-bundle-") as folder:
        try:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise BundleError(f"a stored bundle cannot be unpacked: {error}") from error
        return Bundle.load(Path(folder))


def stored(connection: Connection, version: str) -> Bundle:
    """A bundle of the store.

    Raises:
        BundleError: It is not there, or damaged.
    """
    found = bundles.find_archive(connection, version)
    if found is None:
        raise BundleError(f"the store does not hold the bundle {version}")
    bundle = unpacked(found)
    if bundle.version != version:
        raise BundleError(f"the store holds {bundle.version} in the place of the bundle {version}")
    return bundle


def in_use(connection: Connection, settings: Settings, shipped: Bundle | None = None) -> Bundle:
    """The bundle that ranks: the one that the settings name; else the store's; else the one that is shipped.

    Args:
        connection: The store.
        settings: May name one: it is pinned then.
        shipped: In place of the one that is.

    Raises:
        StartError: It is missing or damaged.
    """
    if settings.bundle is not None:
        return load_bundle(settings)
    try:
        version = activations.find_active(connection)
        if version is not None:
            return stored(connection, version)
        return shipped or Bundle.load(DEFAULT_BUNDLE)
    except BundleError as error:
        raise StartError(f"The bundle cannot be loaded: {error}") from error


def bundle_at_start(
    store: Store,
    settings: Settings,
    *,
    pinned: Bundle | None = None,
    shipped: Bundle | None = None,
) -> Bundle:
    """The bundle that a server starts with. A store's first is noted in it, so that there is something to go back to.

    Args:
        store: The store.
        settings: May name a bundle.
        pinned: Rank with this one, whatever settings and store say.
        shipped: As for `in_use`.

    Raises:
        StartError: It is missing or damaged.
    """
    with store.reading() as connection:
        bundle = pinned or in_use(connection, settings, shipped)
        if activations.find_active(connection) is not None:
            return bundle
    archive, features = packed(bundle), bundle.manifest.encoder.features
    with store.writing() as connection:
        name, now = bundle.manifest.name, store.clock()
        bundles.put_first(connection, bundle.version, name, features, archive, now=now)
    with store.reading() as connection:  # another server may have been quicker, with another bundle
        return pinned or in_use(connection, settings, bundle)
