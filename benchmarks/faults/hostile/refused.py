"""Requests that are refused, and would cost more than others if they were refused carelessly."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from benchmarks.faults.hostile.cases import Case, Sizes, Target
from benchmarks.faults.hostile.sending import MB, Request, ordinary_ranking, post, send_raw

REFUSED: Final = frozenset({"400", "413", "422"})
_PARTLY: Final = frozenset({"200"})  # the answer to a batch tells which of its events are refused

_LISTS: Final = {
    "texts": ("/rerank", b'{"query":"q","texts":['),
    "documents": ("/v1/rerank", b'{"query":"q","documents":['),
    "candidates": ("/v1/best-of-n", b'{"prompt":"p","candidates":['),
    "rank_fields": ("/v1/rerank", b'{"query":"q","documents":["a"],"rank_fields":['),
    "users": ("/v1/score", b'{"text_1":"q","text_2":["a"],"users":['),
    "order": ("/v1/feedback", b'{"type":"ranking","user":"u","order":['),
    "events": ("/v1/feedback", b'{"events":['),
}
"""Route and beginning of a body for each list of a request."""

_MOST_VALUES: Final = 199_000
"""Values of a body that is within the limit of values, so that it is validated."""


def refused_cases(sizes: Sizes) -> Iterator[Case]:
    """Yield bodies of each size that are wrong in many places or deep, and a header that is long."""
    for size_mb in sizes.body_mb:
        size = int(size_mb * MB)
        for name, (path, head) in _LISTS.items():
            yield _case(
                f"`{name}` of ones, {size_mb:g} MB", post(path, _repeat(head, b"1,", size, b"1]}")), size
            )
        batch = f"100 events of unknown fields, {size_mb:g} MB"
        yield _case(batch, post("/v1/feedback", _wrong_batch(size)), size, _PARTLY)
        for name, request in _bodies(size):
            yield _case(f"{name}, {size_mb:g} MB", request, size)
    yield _case(
        "NaN in 1,000 lists", post("/v1/rerank", b'{"query":' + b"[" * 1000 + b"NaN" + b"]" * 1000 + b"}"), MB
    )
    yield Case("a Content-Length of 5,000 zeros", _announce_zeros, REFUSED, ordinary_ranking(MB))


def _bodies(size: int) -> Iterator[tuple[str, Request]]:
    """Yield bodies with as many wrong values as the limit allows, and what is wrong with them."""
    texts = b'{"query":"q","texts":['
    width = max(4, size // _MOST_VALUES + 1)  # bytes of a value
    ones = _repeat(texts, b"1" * width + b",", size, b"1]}")
    yield "wrong texts within the limit of values", post("/rerank", ones)
    yield "NaN", post("/rerank", _repeat(texts, b"NaN".ljust(width) + b",", size, b"1]}"))
    number = min(_MOST_VALUES, size // 13)
    digits = size // number - 6
    fields = b",".join(b'"k%0*d":1' % (digits, field) for field in range(number))
    vote = b'{"type":"vote","user":"u","text":"t","value":1,'
    yield "unknown fields", post("/v1/feedback", vote + fields[: size - 100].rpartition(b",")[0] + b"}")
    yield "deep lists", post("/v1/rerank", b'{"query":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}")
    yield (
        "a huge integer",
        post("/v1/feedback", b'{"type":"vote","user":"u","text":"t","value":' + b"1" * size + b"}"),
    )


def _wrong_batch(size: int) -> bytes:
    """Return 100 events with as many unknown fields as the limit of values and the size allow."""
    number = min(_MOST_VALUES // 100, size // 100 // 13) - 5
    fields = b",".join(b'"k%07d":1' % field for field in range(number))
    event = b'{"type":"vote","user":"u","text":"t","value":2,' + fields + b"}"
    return b'{"events":[' + b",".join([event] * 100) + b"]}"


def _repeat(head: bytes, piece: bytes, size: int, tail: bytes) -> bytes:
    return head + piece * ((size - len(head) - len(tail)) // len(piece)) + tail


def _case(name: str, request: Request, size: int, expected: frozenset[str] = REFUSED) -> Case:
    return Case(name, lambda target: target.send(request), expected, ordinary_ranking(size))


def _announce_zeros(target: Target) -> Counter[str]:
    head = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    return Counter([send_raw(target.server.port, head + b"0" * 5000 + b"\r\n\r\n")])
