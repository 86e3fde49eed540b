"""Requests as bytes, and what their answers say. Bodies are made before they are sent, so that attackers cost little."""

import http.client
import json
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

MB: Final = 2**20
_TIMEOUT_SECONDS: Final = 150.0
_PIECE: Final = 2**16


@dataclass(frozen=True)
class Request:
    """A request to a server on loopback.

    Attributes:
        method: Method.
        path: Path and query.
        body: Body, of JSON. None for none.
    """

    method: str
    path: str
    body: bytes | None = None


def post(path: str, body: dict[str, Any] | bytes) -> Request:
    """Return a POST request."""
    return Request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())


def send(port: int, request: Request) -> str:
    """Send a request on a connection of its own, read its answer, and return the status. No answer is status `0`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    headers = {} if request.body is None else {"Content-Type": "application/json"}
    try:
        connection.request(request.method, request.path, request.body, headers)
        answer = connection.getresponse()
        while answer.read(_PIECE):
            pass
    except (OSError, http.client.HTTPException):
        return "0"
    finally:
        connection.close()
    return str(answer.status)


def send_all(port: int, *requests: Request) -> Counter[str]:
    """Send requests one after another, and return the number of answers by status."""
    return Counter(send(port, request) for request in requests)


def send_raw(port: int, first: bytes, piece: bytes = b"", pieces: int = 0, last: bytes = b"") -> str:
    """Send bytes until they are sent or the server closes the connection, and return the status of the answer.

    Args:
        port: Port of the server.
        first: Bytes sent first.
        piece: Bytes sent after them.
        pieces: How often they are sent.
        last: Bytes sent at the end.

    Returns:
        The status, or `closed` if the connection was closed without an answer.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as connection:
        try:
            connection.sendall(first)
            for _ in range(pieces):
                connection.sendall(piece)
            connection.sendall(last)
        except ConnectionError:
            pass  # the answer may have come before the connection was closed
        try:
            received = connection.recv(_PIECE)
        except ConnectionError:
            return "closed"
    return received.split(b" ", 2)[1].decode("ascii", "replace") if received else "closed"


def ordinary_ranking(size: int, **more: Any) -> Request:  # noqa: ANN401 - the values of JSON
    """Return a ranking of 190 texts whose body has about `size` bytes."""
    text = "x" * max(1, size // 190 - 8)
    return post("/v1/rerank", {"query": "q", "documents": [f"{n} {text}" for n in range(190)], **more})
