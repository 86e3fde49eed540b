"""The wire: a real HTTP server on loopback that plays scripted answers and keeps what it was asked."""

import asyncio
import inspect
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from penchant import AsyncClient, Client


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str  # raw, percent-encoding and all
    headers: dict[str, str]
    body: Any


@dataclass
class Wire:
    """Answers in the order of ``script``; the last one repeats."""

    url: str = ""
    script: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def answers(self, body: Any = None, status: int = 200, **headers: str) -> "Wire":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.script.append((status, named, body))
        return self


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer: two would wait for each other

        def answer(self) -> None:
            size = int(self.headers.get("content-length", 0))
            raw = self.rfile.read(size)
            headers = {name.lower(): value for name, value in self.headers.items()}
            wire.asked.append(Asked(self.command, self.path, headers, json.loads(raw) if raw else None))
            status, extra, body = wire.script.pop(0) if len(wire.script) > 1 else wire.script[0]
            if status == 0:  # hang up without an answer
                self.close_connection = True
                return
            content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 (http.server's own names)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    wire.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield wire
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def certificates() -> ssl.SSLContext:
    """Reading them takes longer than most tests here: once is enough."""
    return ssl.create_default_context()


@pytest.fixture(params=[Client, AsyncClient])
def call(request: pytest.FixtureRequest, wire: Wire, certificates: ssl.SSLContext) -> Callable[..., Any]:
    """Runs ``use(client)`` with each of the two clients, on the wire unless told otherwise."""

    def run_sync(use: Callable[[Any], Any], **options: Any) -> Any:
        with httpx.Client(verify=certificates) as http:
            return use(Client(**{"base_url": wire.url, "http_client": http, **options}))

    async def run_async(use: Callable[[Any], Any], **options: Any) -> Any:
        async with httpx.AsyncClient(verify=certificates) as http:
            answer = use(AsyncClient(**{"base_url": wire.url, "http_client": http, **options}))
            return await answer if inspect.isawaitable(answer) else answer

    if request.param is Client:
        return run_sync
    return lambda use, **options: asyncio.run(run_async(use, **options))
