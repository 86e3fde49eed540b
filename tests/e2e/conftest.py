"""Servers in processes of their own, on loopback, which can be killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

SCRIPT = Path(__file__).parent / "tiny_server.py"
START_SECONDS = 60


@dataclass
class Server:
    """A running server.

    Attributes:
        process: Its process.
        port: Where it listens.
        log: File that holds its log.
    """

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends the process and waits for it; returns its exit status."""
        self.process.send_signal(how)
        return self.process.wait(timeout=60)


Launch = Callable[..., Server]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts a server on the test's data folder: `launch(PENCHANT_API_KEY="k")`."""
    started: list[Server] = []

    def start(**environment: str) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        log = tmp_path / f"server-{len(started)}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENCHANT_")}
        told = {
            "PENCHANT_PORT": str(port),
            "PENCHANT_DATA_DIR": str(tmp_path / "data"),
            "OMP_NUM_THREADS": "1",
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                env=inherited | told | environment,
                stdout=output,
                stderr=output,
            )
        server = Server(process, port, log)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


@pytest.fixture
def server(launch: Launch) -> Server:
    return wait_until_ready(launch())


def wait_until_ready(server: Server) -> Server:
    deadline = time.monotonic() + START_SECONDS
    with server.client() as client:
        while True:
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < deadline, server.log.read_text()
            try:
                if client.get("/readyz").status_code == 200:
                    return server
            except httpx.TransportError:
                time.sleep(0.02)  # nothing else tells that a process listens


@pytest.fixture
def ready() -> Callable[[Server], Server]:
    return wait_until_ready
