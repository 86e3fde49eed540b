"""Servers on one store between which bundles are exchanged, for the tests of upgrades."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from starlette.testclient import TestClient
from typer.testing import CliRunner

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.testing import tiny_bundle
from penchant.service.app import create_app
from penchant.service.claims import StartError
from penchant.service.cli.app import app
from penchant.service.settings import Settings

from ..conftest import Clock, Store, WatchedEncoder

PATIENCE_SECONDS = 60


def wait_until(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` returns a truthy value, and return it. The servers' threads work in the background."""
    deadline, tick = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never came"
        tick.wait(0.01)
    return result


@dataclass
class World:
    """Servers on one store that rank with `first` until another bundle is activated, two encoders and three bundles."""

    folder: Path
    clock: Clock
    stack: ExitStack
    encoders: tuple[WatchedEncoder, WatchedEncoder] = field(
        default_factory=lambda: (WatchedEncoder(), WatchedEncoder(dim=32))
    )
    store: Store | None = None

    def __post_init__(self) -> None:
        self.extractors = [FeatureExtractor(encoder) for encoder in self.encoders]
        self.first, self.second, self.third = (
            tiny_bundle(self.extractors[0], seed=seed) for seed in range(3)
        )
        self.foreign = tiny_bundle(self.extractors[1], seed=4)

    def extractor_of(self, bundle: Bundle) -> FeatureExtractor:
        for extractor in self.extractors:
            if extractor.identity == bundle.manifest.encoder.features:
                return extractor
        raise StartError("The encoder cannot be loaded: it is not here")

    def serve(self, store: Store | None = None, pinned: Bundle | None = None, **changes: Any) -> TestClient:
        store = store or self.store
        assert store is not None
        settings = Settings(**store.place, change_poll_seconds=0.02)
        server = create_app(
            settings.model_copy(update=changes),
            bundle=pinned,
            shipped=self.first,
            extractor_loader=self.extractor_of,
            clock=self.clock,
        )
        return self.stack.enter_context(TestClient(server, raise_server_exceptions=False))

    def stop(self) -> None:
        self.stack.close()

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command and return what it prints on either stream."""
        assert self.store is not None
        url = self.store.place.get("store_url")
        place = (
            ("--data-dir", str(self.store.place["data_dir"]))
            if url is None
            else ("--store-url", url.get_secret_value())
        )
        result: Result = CliRunner(env={"COLUMNS": "300", **environment}).invoke(app, [*arguments, *place])
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    def upgrade(self, bundle: Bundle, *arguments: str, code: int = 0, **environment: str) -> str:
        folder = self.folder / bundle.version
        bundle.save(folder)
        return self.run("upgrade", str(folder), *arguments, code=code, **environment)

    def describe(self, bundle: Bundle) -> dict[str, Any]:
        """Return the listed state of one bundle."""
        (match,) = [row for row in self.status()["bundles"] if row["version"] == bundle.version]
        return dict(match)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.run("upgrade", "--status", "--json"))
        return status


@pytest.fixture
def world(store: Store, tmp_path: Path, clock: Clock, logs: list[Any]) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path / "bundles", clock, stack, store=store)


def version_of(client: TestClient) -> str:
    return str(client.get("/v1/models").json()["data"][0]["bundle_version"])


def wait_for_bundle(*clients: TestClient, bundle: Bundle) -> None:
    wait_until(lambda: all(version_of(client) == bundle.version for client in clients))
