"""Fixtures that run the whole service in this process, with a real store, real threads and a weight-free encoder.

Every test that takes `settings`, `serve` or `client` runs on both stores.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient
from structlog.testing import LogCapture

from penchant.models.bundle import Bundle
from penchant.models.encoding.encoder import Encoding
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.app import create_app
from penchant.service.settings import Settings
from penchant.service.store.database import FILE_NAME, store_place

START = 1_800_000_000.0


class WatchedEncoder(HashingEncoder):
    """An encoder that counts what it encodes after the warm-up, can be paused, and fails on the word `poison`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.calls: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        self.calls.append(list(texts))
        self.entered.set()
        if not self.gate.wait(timeout=30):
            raise TimeoutError("the gate stayed closed")
        if any("poison" in text for text in texts):
            raise RuntimeError("secret reason of the failure")
        return super().encode(texts, prompts)

    @property
    def texts(self) -> list[str]:
        return [text for call in self.calls for text in call]


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def encoder() -> WatchedEncoder:
    return WatchedEncoder()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@dataclass
class Store:
    """The store of the tests' servers, with direct access to its database.

    Attributes:
        kind: "sqlite" or "postgresql".
        place: Settings that locate the store.
    """

    kind: str
    place: dict[str, Any]

    @property
    def is_postgres(self) -> bool:
        return self.kind == "postgresql"

    def run(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement, commit it and return its rows."""
        place = store_place(Settings(**self.place))
        engine = create_engine(f"sqlite:///{place / FILE_NAME}" if isinstance(place, Path) else place)
        try:
            with engine.begin() as connection:
                result = connection.execute(text(statement), parameters)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Returns a function that makes empty stores of one kind."""
    kind, made = request.param, []

    def make() -> Store:
        if kind == "sqlite":
            made.append({"data_dir": tmp_path / ("data" if not made else f"data-{len(made)}")})
        else:
            made.append({"data_dir": tmp_path, "store_url": SecretStr(postgres().new())})
        return Store(kind, made[-1])

    def postgres() -> Any:
        return request.getfixturevalue("postgres")

    yield make
    for place in made:
        if "store_url" in place:
            postgres().drop(place["store_url"].get_secret_value())


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Store:
    """Store that `settings` points to."""
    return new_store()


@pytest.fixture
def fresh(new_store: Callable[[], Store], store: Store) -> Store:
    """A second, empty store, for `serve(**fresh.place)`."""
    return new_store()


@pytest.fixture
def settings(store: Store) -> Settings:
    return Settings(**store.place)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """Captured log entries. Request it before the server, whose threads notice a change of the logging too late."""
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(settings: Settings, encoder: WatchedEncoder, clock: Clock) -> Iterator[Serve]:
    """Starts a server, as in `serve(max_events=3)`, and stops the previous one first.

    By the time it returns, all users have been learned for its bundle, unless `settle=False`.
    """
    with ExitStack() as stack:

        def start(
            bundle: Bundle | None = None,
            using: HashingEncoder | None = None,
            settle: bool = True,
            **changes: Any,
        ) -> TestClient:
            stack.close()
            extractor = FeatureExtractor(using or encoder)
            app = create_app(
                settings.model_copy(update=changes),
                extractor=extractor,
                bundle=bundle or tiny_bundle(extractor),
                clock=clock,
            )
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            if settle:
                assert app.state.runtime.models.current.replayer.idle.wait(timeout=30)
            encoder.calls.clear()
            encoder.entered.clear()
            return client

        yield start
        encoder.gate.set()


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return serve()


@pytest.fixture(scope="module")
def serve_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts a server that all tests of a module share, so they must not depend on each other."""
    with ExitStack() as stack:

        def start(**changes: Any) -> TestClient:
            extractor = FeatureExtractor(HashingEncoder())
            settings = Settings(data_dir=tmp_path_factory.mktemp("data"), **changes)
            app = create_app(settings, extractor=extractor, bundle=tiny_bundle(extractor))
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start
