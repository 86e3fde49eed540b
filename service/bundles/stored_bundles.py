"""Bundles in the store: packing them as archives, and choosing the one that a server starts with."""

import io
import tarfile
import tempfile
from pathlib import Path

from sqlalchemy import Connection

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle, BundleError
from penchant.service.bundles.loading import load_bundle
from penchant.service.claims import StartError
from penchant.service.settings import Settings
from penchant.service.store import activations, bundles
from penchant.service.store.database import Store


def pack_bundle(bundle: Bundle) -> bytes:
    """Return a bundle's folder as an uncompressed tar. Equal bundles give equal bytes.

    Raises:
        BundleError: If there is no room for temporary files.
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


def unpack_bundle(archive: bytes) -> Bundle:
    """Return the bundle in a tar, after checking its hash.

    Raises:
        BundleError: If it is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="penchant-bundle-") as folder:
        try:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise BundleError(f"a stored bundle cannot be unpacked: {error}") from error
        return Bundle.load(Path(folder))


def load_stored_bundle(connection: Connection, version: str) -> Bundle:
    """Load a bundle from the store.

    Raises:
        BundleError: If the store does not hold it, or if it is damaged.
    """
    return read_stored_bundle(bundles.find_archive(connection, version), version)


def read_stored_bundle(archive: bytes | None, version: str) -> Bundle:
    """Return the bundle that the store holds under a version.

    Args:
        archive: What the store holds, or None.
        version: Version of the bundle.

    Raises:
        BundleError: If the store does not hold it, or if it is damaged.
    """
    if archive is None:
        raise BundleError(f"the store does not hold the bundle {version}")
    bundle = unpack_bundle(archive)
    if bundle.version != version:
        raise BundleError(f"the store holds {bundle.version} in place of the bundle {version}")
    return bundle


def load_active_bundle(connection: Connection, settings: Settings, shipped: Bundle | None = None) -> Bundle:
    """Load the bundle that ranks: the settings' bundle, or else the store's active one, or else the shipped one.

    Args:
        connection: Connection that reads the store.
        settings: Settings, which may pin a bundle.
        shipped: Bundle in place of the shipped one.

    Raises:
        StartError: If it is missing or damaged.
    """
    if settings.bundle is not None:
        return load_bundle(settings)
    try:
        version = activations.find_active(connection)
        if version is not None:
            return load_stored_bundle(connection, version)
        return shipped or Bundle.load(DEFAULT_BUNDLE)
    except BundleError as error:
        raise StartError(f"The bundle cannot be loaded: {error}") from error


def load_first_bundle(
    store: Store,
    settings: Settings,
    *,
    pinned: Bundle | None = None,
    shipped: Bundle | None = None,
) -> Bundle:
    """Load the bundle that a server starts with. A new store records it, so that an upgrade can be rolled back to it.

    Args:
        store: The store.
        settings: Settings, which may pin a bundle.
        pinned: Bundle to rank with, regardless of settings and store.
        shipped: Bundle in place of the shipped one.

    Raises:
        StartError: If it is missing or damaged, or cannot be copied to the store.
    """
    with store.reading() as connection:
        bundle = pinned or load_active_bundle(connection, settings, shipped)
        if activations.find_active(connection) is not None:
            return bundle
    try:
        archive, features = pack_bundle(bundle), bundle.manifest.encoder.features
    except BundleError as error:
        raise StartError(f"The bundle cannot be copied to the store: {error}") from error
    with store.writing() as connection:
        name, now = bundle.manifest.name, store.clock()
        bundles.put_first(connection, bundle.version, name, features, archive, now=now)
    with store.reading() as connection:  # another server may have recorded another bundle first
        return pinned or load_active_bundle(connection, settings, bundle)
