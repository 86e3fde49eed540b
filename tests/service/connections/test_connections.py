"""Limits of connections, over real sockets, with limits of a few hundred milliseconds.

The application is a few lines: it answers with the size of the body. `/late` answers when the test lets it, and `/large`
with more than the sockets' buffers hold.
"""

import asyncio
import contextlib
import json
import re
import resource
import socket
import threading
from http.client import HTTPResponse
from types import SimpleNamespace

import pytest
import uvicorn

from penchant.service.connections.limits import ConnectionLimits, _allow_connections
from penchant.service.connections.protocol import bind_protocol
from penchant.service.connections.registry import ConnectionRegistry, group_peer
from penchant.service.telemetry.metrics import Telemetry

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"x" * (32 * 2**20)
GENEROUS = {
    "connections": 100,
    "connections_per_peer": 100,
    "header_bytes": 4096,
    "first_byte_seconds": 30.0,
    "header_seconds": 30.0,
    "body_seconds": 30.0,
    "read_seconds": 30.0,
}


@pytest.fixture
def start():
    """Starts a server: `start(header_seconds=0.2)`. The other limits are generous."""
    with contextlib.ExitStack() as stack:
        yield lambda **limits: stack.enter_context(running(ConnectionLimits(**GENEROUS | limits)))


@contextlib.contextmanager
def running(limits):
    telemetry, late, registry_of = Telemetry(), threading.Event(), {}
    registry_of["it"] = ConnectionRegistry(limits, telemetry)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        size, more = 0, scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            more = message["more_body"]
        if scope["path"] == "/late":
            await asyncio.to_thread(late.wait, 30)
        body = LARGE if scope["path"] == "/large" else json.dumps({"body": size}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    protocol = bind_protocol(registry_of["it"])
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, ws="none", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            thread.join(timeout=0.005)

        @contextlib.contextmanager
        def connect(first=b""):
            with socket.create_connection(listening.getsockname(), timeout=30) as connection:
                connection.sendall(first)
                yield connection

        def count(reason):
            name = "penchant_connections_refused_total"
            return telemetry.registry.get_sample_value(name, {"reason": reason}) or 0

        yield SimpleNamespace(connect=connect, count=count, late=late, telemetry=telemetry)
        late.set()
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()


def read_answer(connection):
    with HTTPResponse(connection) as response:
        response.begin()
        return response.status, json.loads(response.read())


def is_closed(connection):
    """Whether the server closes the connection, without sending anything more."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def check_refusal(answer, status, code):
    got, problem = answer
    assert (got, problem["status"], problem["code"]) == (status, status, code)
    assert len(problem["request_id"]) == 32


def check_innocent(server):
    """Another client, beside the one that is refused, is answered."""
    with server.connect(GET) as connection:
        assert read_answer(connection) == (200, {"body": 0})


# ---------------------------------------------------------------- headers


def block(size):
    """A request whose line and headers have that many bytes together."""
    start = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: "
    return start + b"y" * (size - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("slices", [1, 7])
def test_headers_may_have_exactly_the_limit(start, slices):
    server = start(header_bytes=4096)
    for size, status in ((4096, 200), (4097, 431)):
        content = block(size)
        with server.connect() as connection:
            for i in range(slices):
                connection.sendall(content[i * size // slices : (i + 1) * size // slices])
            assert read_answer(connection)[0] == status
    check_innocent(server)


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"GET /", b"y" * 1000),
        (b"GET / HTTP/1.1\r\nHost: ", b"y" * 1000),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 100),
        (b"", b"\r\n" * 500),
        (GET, b"\r\n" * 500),
        (GET + b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 100),
    ],
    ids=[
        "line",
        "header",
        "headers",
        "empty lines",
        "empty lines after a request",
        "headers after a request",
    ],
)
def test_endless_headers_are_refused(start, beginning, piece):
    server = start()
    with server.connect(beginning) as connection:
        if beginning.startswith(GET):
            assert read_answer(connection)[0] == 200
        check_innocent(server)
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(piece)
        check_refusal(read_answer(connection), 431, "headers_too_large")
    assert server.count("headers_too_large") == 1
    check_innocent(server)


def test_headers_that_do_not_end_are_refused_in_time(start):
    server = start(header_seconds=0.2)
    with server.connect(b"GET / HT") as connection:
        check_innocent(server)
        check_refusal(read_answer(connection), 408, "request_timeout")
        assert is_closed(connection)
    assert server.count("headers_too_slow") == 1


def test_headers_that_trickle_are_refused_in_time(start):
    """Bytes that arrive do not extend the time."""
    server = start(header_seconds=0.2)
    with server.connect(b"GET / HTTP/1.1\r\n") as connection:
        ended = threading.Event()

        def trickle():
            with contextlib.suppress(OSError):
                while not ended.wait(0.02):
                    connection.sendall(b"a: b\r\n")

        thread = threading.Thread(target=trickle)
        thread.start()
        check_refusal(read_answer(connection), 408, "request_timeout")
        ended.set()
        thread.join()


def test_empty_lines_do_not_keep_a_connection_open(start):
    server = start(header_seconds=0.2)
    with server.connect(GET) as connection:
        assert read_answer(connection)[0] == 200
        connection.sendall(b"\r\n")
        assert is_closed(connection)
    assert server.count("headers_too_slow") == 1


def test_the_next_headers_may_come_while_an_answer_is_awaited(start):
    server = start(header_seconds=0.2)
    with (
        server.connect(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\nGET / HT") as connection,
        server.connect(b"G") as other,
    ):
        check_refusal(read_answer(other), 408, "request_timeout")  # by now, the time of both is over
        server.late.set()
        assert read_answer(connection) == (200, {"body": 0})
        check_refusal(read_answer(connection), 408, "request_timeout")


# ---------------------------------------------------------------- silence


def test_a_silent_connection_is_closed_in_time(start):
    server = start(first_byte_seconds=0.2)
    with server.connect() as silent, server.connect(GET) as kept:
        assert read_answer(kept)[0] == 200
        assert is_closed(silent)
        kept.sendall(GET)  # a connection that is kept alive has its own time
        assert read_answer(kept)[0] == 200
    assert server.count("no_first_byte") == 1


# ---------------------------------------------------------------- the number of connections


@pytest.mark.parametrize("limit", ["connections", "connections_per_peer"])
def test_a_new_connection_takes_the_place_of_the_one_that_is_silent_longest(start, limit):
    server = start(**{limit: 3})
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(server.connect(GET))
        assert read_answer(kept)[0] == 200
        silent = [stack.enter_context(server.connect()) for _ in range(6)]
        assert [is_closed(connection) for connection in silent[:4]] == [True] * 4
        for connection in (kept, *silent[4:]):
            connection.sendall(GET)
            assert read_answer(connection)[0] == 200


def test_without_silent_ones_it_takes_the_place_of_the_one_that_is_idle_longest(start):
    server = start(connections=2)
    with server.connect(GET) as first, server.connect() as second:
        assert read_answer(first)[0] == 200
        second.sendall(GET)
        assert read_answer(second)[0] == 200
        with server.connect(GET) as third:
            assert read_answer(third)[0] == 200
            assert is_closed(first)
            second.sendall(GET)
            assert read_answer(second)[0] == 200


@pytest.mark.parametrize("limit", ["connections", "connections_per_peer"])
def test_a_connection_is_refused_if_all_others_have_requests_in_progress(start, limit):
    server = start(**{limit: 2})
    late = b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect(late) as first, server.connect(late) as second, server.connect() as third:
        check_refusal(read_answer(third), 503, "too_many_connections")
        assert is_closed(third)
        server.late.set()
        assert read_answer(first)[0] == read_answer(second)[0] == 200
    check_innocent(server)
    reason = {"connections": "too_many_connections", "connections_per_peer": "too_many_connections_of_peer"}[
        limit
    ]
    assert server.count(reason) >= 1


def test_closed_connections_make_room(start):
    server = start(connections=2)
    for _ in range(10):
        check_innocent(server)
    assert server.count("too_many_connections") == 0


def test_no_limit_of_an_address(start):
    server = start(connections_per_peer=0)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(server.connect()) for _ in range(20)]
        opened[0].sendall(GET)
        assert read_answer(opened[0])[0] == 200


def test_a_limit_that_is_met_is_logged_once_a_second(start, logs):
    server = start(connections=1)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(server.connect()) for _ in range(30)]
        opened[-1].sendall(GET)
        assert read_answer(opened[-1])[0] == 200
    lines = [entry for entry in logs if entry["event"] == "connection_refused"]
    assert server.count("too_many_connections") == 29
    assert 1 <= len(lines) < 10
    assert lines[0] == {
        "event": "connection_refused",
        "reason": "too_many_connections",
        "number": 1,
        "last_peer": "127.0.0.1",
        "log_level": "warning",
    }


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
    ],
)
def test_addresses_are_counted_by_who_can_own_them(address, group):
    assert group_peer(address) == group


def test_there_are_no_more_connections_than_files(monkeypatch, logs):
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.update(now=pair))
    assert _allow_connections(700) == 700
    assert limits["now"] == (1024, 4096)
    assert _allow_connections(2000) == 2000
    assert limits["now"] == (2256, 4096)
    assert not logs
    assert _allow_connections(10_000) == 4096 - 256
    assert limits["now"] == (4096, 4096)
    assert logs[0]["event"] == "fewer_connections"


# ---------------------------------------------------------------- bodies


def test_a_body_that_nobody_reads_must_end_in_time(start):
    server = start(body_seconds=0.2)
    with server.connect(b"POST /unread HTTP/1.1\r\nContent-Length: 1000\r\n\r\nx") as connection:
        assert read_answer(connection)[0] == 200
        assert is_closed(connection)
    assert server.count("body_too_slow") == 1


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000])
def test_bodies_and_chunks_arrive_whole(start, size):
    server = start()
    with server.connect(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size) as connection:
        assert read_answer(connection) == (200, {"body": size})
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [b"x" * 50] * (size // 50))
        connection.sendall(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nT: 1\r\n\r\n"
        )
        assert read_answer(connection) == (200, {"body": size // 50 * 50})


@pytest.mark.parametrize(
    "endless",
    [b"1\r\nx\r\n" * 100, b"1" + b";x=y" * 200 + b"\r\nx\r\n", b"0\r\n" + b"a: b\r\n" * 1000],
    ids=["tiny chunks", "chunk extensions", "trailers"],
)
def test_what_surrounds_the_chunks_of_a_body_is_bounded(start, endless):
    server = start()
    with server.connect(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n") as connection:
        with contextlib.suppress(OSError):
            for _ in range(1 if endless.startswith(b"0") else 200):
                connection.sendall(endless)
        check_refusal(read_answer(connection), 431, "headers_too_large")
    check_innocent(server)


def test_a_client_that_does_not_read_its_answer_is_closed(start):
    server = start(read_seconds=0.2)
    with server.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as deaf:
        while not server.count("answer_not_read"):
            check_innocent(server)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while part := deaf.recv(2**20):
                received += len(part)
        assert received < len(LARGE)


def test_a_client_that_reads_gets_all_of_a_large_answer(start):
    server = start()
    with (
        server.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as connection,
        HTTPResponse(connection) as response,
    ):
        response.begin()
        assert len(response.read()) == len(LARGE)


# ---------------------------------------------------------------- several requests at once, and no requests


def test_pipelined_requests_are_answered_in_order(start):
    server = start()
    posts = [b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % n + b"x" * n for n in range(300)]
    with server.connect(b"".join(posts)) as connection:
        received = b""
        while received.count(b'{"body"') < len(posts) or not received.endswith(b"}"):
            received += (part := connection.recv(2**16))
            assert part
    assert [int(size) for size in re.findall(rb'{"body": (\d+)}', received)] == list(range(300))


def test_pipelined_requests_are_kept_within_bounds(start):
    server = start()
    with server.connect(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        connection.settimeout(0.2)
        many = GET * 2_000_000  # more than the sockets' buffers hold
        with pytest.raises(OSError, match=r"timed out|reset|Broken pipe"):
            connection.sendall(many)
        check_innocent(server)


@pytest.mark.parametrize(
    "request_",
    [b"nonsense\r\n\r\n", b"CONNECT x HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"],
)
def test_what_is_not_http_is_a_problem_document(start, request_):
    server = start()
    with server.connect(request_) as connection:
        check_refusal(read_answer(connection), 400, "malformed_request")
        assert is_closed(connection)
    assert server.count("not_http") == 1


def test_an_upgrade_is_answered_in_http(start, caplog):
    """No other protocol takes the connection over, with limits of its own."""
    server = start()
    upgrade = (
        b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with server.connect(upgrade) as connection:
        assert read_answer(connection) == (200, {"body": 0})
    assert not caplog.records
