"""A profile of ranking cached texts, in this process and without a network: time by function, from cProfile.

A profiler makes small functions look more expensive than they are. Use the shares to see where to look. The median
beside them is taken without the profiler and is the real duration of a request.
"""

import asyncio
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.parts import Outcome
from benchmarks.serving.texts import Texts, rerank_body

STAGES: Final = (
    ("everything", "service/api/middleware.py", "__call__"),
    ("read the body", "service/api/body.py", "_read_bytes"),
    ("parse it", "service/parsing.py", "parse_object"),
    ("validate it", "service/validation.py", "validate"),
    ("task: texts, limits", "service/api/dialects/cohere.py", "build_rerank_task"),
    ("who calls, for whom, quota", "service/api/context.py", "authorize"),
    ("", "service/api/context.py", "resolve_ranking_user"),
    ("", "service/api/context.py", "spend_candidates"),
    ("texts → items", "service/ranking/describer.py", "describe"),
    ("  of which their hashes", "models/taste/items.py", "item_keys"),
    ("user's posterior", "service/ranking/scoring.py", "_load_user"),
    ("utilities, relevance", "service/ranking/scoring.py", "_compute_scores"),
    ("order", "models/ranking/selection.py", "order"),
    ("remember the ranking", "service/ranking/rankings.py", "add"),
    ("metrics of the stages", "service/telemetry/metrics.py", "record_timings"),
    ("answer", "service/api/dialects/cohere.py", "build_rerank_answer"),
    ("JSON", "service/api/context.py", "json_response"),
    ("log line and metrics of the request", "service/api/middleware.py", "_record"),
)
"""Title, file and function of every stage. A function without a title belongs to the stage before it."""

App = Callable[..., Awaitable[None]]


def profile(seconds: float) -> Outcome:
    """Measure the microseconds of a request, and the share of each stage."""
    took, stats = asyncio.run(_measured(seconds))
    shares: dict[str, float] = {}
    title = ""
    for name, file, function in STAGES:
        title = name or title
        shares[title] = shares.get(title, 0.0) + _cumulative(stats, file, function)
    whole = shares.pop("everything")
    shares = {name: share / whole for name, share in shares.items()}
    named = sum(share for name, share in shares.items() if not name.startswith(" "))
    shares["the rest: routing, middleware, response"] = 1 - named
    micros = 1e6 * statistics.median(took)
    return Outcome(
        "profile",
        [
            ["16 cached texts, one user", "share", "µs"],
            ["a request, without HTTP", "", f"{micros:.0f}"],
            *([name, f"{share:.1%}", f"{share * micros:.0f}"] for name, share in shares.items()),
        ],
        [],
        {"median_seconds": statistics.median(took), "shares": shares},
    )


async def _measured(seconds: float) -> tuple[list[float], pstats.Stats]:
    from penchant.service.app import create_app  # noqa: PLC0415 - the other parts need no server here
    from penchant.service.settings import Settings  # noqa: PLC0415

    body = rerank_body(Texts(0).texts(), user="u1")
    with _silent(), tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)))
        async with app.router.lifespan_context(app):
            await _for(seconds / 4, app, body)
            took = await _for(seconds / 2, app, body)
            profiler = cProfile.Profile()
            with profiler:
                await _for(seconds / 4, app, body)
    return took, pstats.Stats(profiler)


async def _for(seconds: float, app: App, body: bytes) -> list[float]:
    """Send requests one after the other, and return their times."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        started = time.perf_counter()
        await _request(app, body)
        took.append(time.perf_counter() - started)
        if not len(took) % 16:
            await asyncio.sleep(0)  # the timers that hand rankings to the writer
    return took


async def _request(app: App, body: bytes) -> None:
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/rerank",
        "raw_path": b"/v1/rerank",
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
    await app(scope, receive, send)
    if statuses != [200]:
        raise RuntimeError(f"the service answered {statuses}")


@contextmanager
def _silent() -> Iterator[None]:
    """Discard log lines after they are made."""
    import structlog  # noqa: PLC0415

    from penchant.service.telemetry.metrics import configure_logging  # noqa: PLC0415

    configure_logging("INFO")
    with Path("/dev/null").open("wb") as nowhere:
        structlog.configure(logger_factory=structlog.BytesLoggerFactory(nowhere))
        try:
            yield
        finally:
            structlog.reset_defaults()


def _cumulative(stats: pstats.Stats, file: str, function: str) -> float:
    """Return the seconds in a function and in everything that it called."""
    found: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = stats.stats  # type: ignore[attr-defined]
    seconds = [row[3] for (path, _, name), row in found.items() if path.endswith(file) and name == function]
    if not seconds:
        raise RuntimeError(f"{function} of {file} was not called")
    return sum(seconds)
