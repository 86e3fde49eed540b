"""A real HTTP server on loopback that sends scripted responses and records the requests."""

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
class RecordedRequest:
    """A request as it arrived."""

    method: str
    path: str  # raw, percent-encoded
    headers: dict[str, str]
    body: Any


@dataclass
class FakeServer:
    """Sends the responses in order. The last one repeats."""

    url: str = ""
    responses: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    requests: list[RecordedRequest] = field(default_factory=list)

    def respond(self, body: Any = None, status: int = 200, **headers: str) -> "FakeServer":
        """Add a response. Underscores in the names of headers become hyphens."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self.responses.append((status, fields, body))
        return self


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet per response: with two, the second would wait for an acknowledgement

        def respond(self) -> None:
            size = int(self.headers.get("content-length", 0))
            raw = self.rfile.read(size)
            headers = {name.lower(): value for name, value in self.headers.items()}
            fake.requests.append(
                RecordedRequest(self.command, self.path, headers, json.loads(raw) if raw else None)
            )
            status, extra, body = fake.responses.pop(0) if len(fake.responses) > 1 else fake.responses[0]
            if status == 0:  # close the connection without a response
                self.close_connection = True
                return
            content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = respond  # noqa: N815 (http.server's own names)

        def log_message(self, *args: object) -> None:
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{http_server.server_port}"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    http_server.shutdown()
    thread.join()
    http_server.server_close()


@pytest.fixture(scope="session")
def certificates() -> ssl.SSLContext:
    """Certificates that all tests share, because reading them takes longer than most tests."""
    return ssl.create_default_context()


@pytest.fixture(params=[Client, AsyncClient])
def call(
    request: pytest.FixtureRequest, server: FakeServer, certificates: ssl.SSLContext
) -> Callable[..., Any]:
    """A function that runs ``use(client)`` with either client, on the fake server by default."""

    def run_sync(use: Callable[[Any], Any], **options: Any) -> Any:
        with httpx.Client(verify=certificates) as http:
            return use(Client(**{"base_url": server.url, "http_client": http, **options}))

    async def run_async(use: Callable[[Any], Any], **options: Any) -> Any:
        async with httpx.AsyncClient(verify=certificates) as http:
            result = use(AsyncClient(**{"base_url": server.url, "http_client": http, **options}))
            return await result if inspect.isawaitable(result) else result

    if request.param is Client:
        return run_sync
    return lambda use, **options: asyncio.run(run_async(use, **options))
