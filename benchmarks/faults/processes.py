"""Server processes: start them, wait until they are ready, kill them."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.01
_TLS: Final = ssl.create_default_context()


class ServerEndedError(RuntimeError):
    """An error for a server that ended unexpectedly or did not become ready."""


def client_of(url: str, timeout: float = 30.0) -> httpx.Client:
    """Return a client for a server on loopback. This is cheap, because the unused certificates are loaded only once."""
    return httpx.Client(base_url=url, timeout=timeout, trust_env=False, verify=_TLS)


@dataclass
class Server:
    """A running server.

    Attributes:
        process: Process of the server.
        port: Port that it listens on.
        log: File that holds its log.
    """

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, timeout: float = 30.0) -> httpx.Client:
        """Return a client for this server."""
        return client_of(self.url, timeout)

    def kill(self) -> None:
        """Kill the server without warning, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(_STOP_SECONDS)

    def stop(self) -> None:
        """Ask the server to stop, and wait until it has."""
        self.process.terminate()
        self.process.wait(_STOP_SECONDS)

    def wait_until_ready(self) -> float:
        """Wait until /readyz answers 200, and return how long that took, in seconds.

        Raises:
            ServerEndedError: If the server ended or took too long.
        """
        started = time.monotonic()
        with self.client() as client:
            while not self._is_ready(client):
                if self.process.poll() is not None or time.monotonic() - started > _START_SECONDS:
                    raise ServerEndedError(self.log.read_text("utf-8", "replace")[-4000:])
                time.sleep(_LOOK_SECONDS)
        return time.monotonic() - started

    @staticmethod
    def _is_ready(client: httpx.Client) -> bool:
        try:
            return client.get("/readyz").is_success
        except httpx.TransportError:
            return False


@dataclass(frozen=True)
class Launcher:
    """A launcher of servers on one store.

    Attributes:
        folder: Folder for the servers' logs.
        environment: Environment variables of the servers.
    """

    folder: Path
    environment: Mapping[str, str]

    @contextmanager
    def serving(self, **more: str) -> Iterator[Server]:
        """Start a server and yield it when it is ready. It is killed at the end if it still runs."""
        server = self._start(more)
        try:
            server.wait_until_ready()
            yield server
        finally:
            if server.process.poll() is None:
                server.kill()

    def _start(self, more: Mapping[str, str]) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENCHANT_")}
        told = {
            "PENCHANT_PORT": str(port),
            "PENCHANT_LOG_LEVEL": "WARNING",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        log = self.folder / f"server-{port}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.faults.server"],
                env={**inherited, **told, **self.environment, **more},
                cwd=Path(__file__).parents[2],
                stdout=output,
                stderr=output,
            )
        return Server(process, port, log)
