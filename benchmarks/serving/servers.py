"""Servers as processes: start them, wait for them, measure their memory, stop them."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

_LOOK_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 30.0
MIB: Final = 2**20


class ServerFailedError(RuntimeError):
    """An error for a server that ended or was not ready in time. The message is its log."""


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Attributes:
        name: Name in the report.
        process: Process of the server.
        port: Port that it listens on.
        path: Path of its rerank route.
        model: Name of the model that its requests must have, if any.
        ready_seconds: Seconds from its start until it was ready.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    path: str
    model: str | None
    ready_seconds: float

    @property
    def rss_mib(self) -> float:
        """Resident memory of the process and its children, in MiB."""
        process = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / MIB

    @property
    def more(self) -> dict[str, str]:
        """Fields that its requests need."""
        return {} if self.model is None else {"model": self.model}


@dataclass(frozen=True)
class Recipe:
    """Instructions to start a server; `{port}` in the command becomes its port.

    Attributes:
        name: Name in the report.
        command: Program and arguments.
        environment: Variables in addition to those of this process.
        path: Path of its rerank route.
        ready: Path that answers 200 as soon as the server is ready.
        model: Name of the model that its requests must have, if any.
        seconds: Maximum seconds until it is ready.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    path: str = "/rerank"
    ready: str = "/health"
    model: str | None = None
    seconds: float = 120.0


@contextmanager
def serving(recipe: Recipe) -> Iterator[Server]:
    """Start a server, and stop it at the end.

    Raises:
        ServerFailedError: If the server ended or was not ready in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [part.format(port=port) for part in recipe.command]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENCHANT_")}
    environment = kept | {name: value.format(port=port) for name, value in recipe.environment.items()}
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while not _answers(f"http://127.0.0.1:{port}{recipe.ready}"):
                if process.poll() is not None or time.perf_counter() - started > recipe.seconds:
                    log.seek(0)
                    raise ServerFailedError(f"{recipe.name}: {log.read().decode(errors='replace')[-3000:]}")
                time.sleep(_LOOK_SECONDS)
            took = time.perf_counter() - started
            yield Server(recipe.name, process, port, recipe.path, recipe.model, took)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def ours(**settings: str) -> Iterator[Server]:
    """Start the installed service on an empty store, with its own encoder unless the settings name another one."""
    with tempfile.TemporaryDirectory() as folder:
        told = {f"PENCHANT_{name.upper()}": value for name, value in settings.items()}
        environment = {"PENCHANT_PORT": "{port}", "PENCHANT_DATA_DIR": str(Path(folder)), **told}
        command = [sys.executable, "-m", "penchant.service.server"]
        # The first start tries every backend. On CUDA it compiles one, which takes minutes at worst.
        recipe = Recipe("penchant", command, environment, "/v1/rerank", "/readyz", seconds=300)
        with serving(recipe) as server:
            yield server


def weightless() -> Recipe:
    """Return how to start a route that parses the same body and does nothing. It shows what FastAPI itself costs."""
    command = [sys.executable, "-m", "benchmarks.serving.noop_app", "{port}"]
    return Recipe("no-op route", command, {}, "/v1/rerank", "/health")
