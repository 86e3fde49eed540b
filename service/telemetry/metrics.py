"""What operators see: JSON logs without texts or user ids, Prometheus metrics, spans and Server-Timing.

Spans are off unless the environment names a place to send them to. OpenTelemetry (`penchant.service.telemetry.otel`, an
extra) then records them. No span holds a text or a user's id.

request (continues the caller's `traceparent`)
  ├─ rank     candidates → order
  │    └─ encode   texts that were in no cache
  └─ commit   feedback, until it is durable
"""

import hashlib
import logging
import secrets
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Final

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp

_NOTHING: Final = nullcontext()

Attribute = str | int | float | bool


class Tracing:
    """No tracing: every span is nothing, and costs a call.

    Spans lie within each other as their `with` blocks do, across `await` as well.
    """

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:  # noqa: ARG002
        """Times a step within a request; its attributes are `penchant.` + name."""
        return _NOTHING

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wraps an application: its requests are timed."""
        return app

    def stop(self) -> None:
        """Sends what waits to be sent; may take seconds."""


log: Final = structlog.get_logger("penchant")

_REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STAGE_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_BATCH_TOKENS: Final = (64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


def configure_logging(level: str) -> None:
    """Structured JSON on standard error; the server's own libraries speak the same way."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=False,  # a cached logger would keep this configuration beyond its time
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.getLevelNamesMapping()[level], logging.WARNING))


def _dumps(event: dict[str, Any], **_: object) -> bytes:
    return orjson.dumps(event, default=str)


def log_failure(event: str, error: BaseException, **fields: object) -> None:
    """Logs an error with its stack. Never the local variables on it: they hold texts."""
    frames = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    log.error(event, error=type(error).__name__, message=str(error), frames=frames, **fields)


@dataclass
class Timings:
    """Where a request's time went, in seconds; adds up over the request."""

    queue: float = 0.0
    encode: float = 0.0
    posterior: float = 0.0
    rank: float = 0.0

    def header(self) -> str:
        """Value of `Server-Timing`, in milliseconds."""
        return (
            f"queue;dur={self.queue * 1e3:.3f}, encode;dur={self.encode * 1e3:.3f}, "
            f"posterior;dur={self.posterior * 1e3:.3f}, rank;dur={self.rank * 1e3:.3f}"
        )


class _Followed(Collector):
    """A counter whose values somebody else keeps."""

    def __init__(self, name: str, text: str, label: str, counts: Callable[[], Mapping[str, int]]) -> None:
        self._name, self._text, self._label, self._counts = name, text, label, counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=(self._label,))
        for value, count in sorted(self._counts().items()):
            family.add_metric((value,), count)
        yield family


class Telemetry:
    """Metrics of one server, the hash under which its logs know a user, and its traces.

    Args:
        tracing: Where spans go; nowhere unless given.
    """

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.tracing = tracing or Tracing()
        self.salt = secrets.token_bytes(32)  # replaced by the installation's own when the store opens
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._counter(
            "http_requests", "Answers, by route and status.", "method", "route", "status"
        )
        self.request_seconds = self._histogram(
            "http_request_duration_seconds", "Time to answer.", _REQUEST_SECONDS, "route"
        )
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.stage_seconds = self._histogram(
            "stage_duration_seconds", "Time by stage.", _STAGE_SECONDS, "stage"
        )
        self._stages = {stage.name: self.stage_seconds.labels(stage.name) for stage in fields(Timings)}
        self.encoded_texts = self._counter("encoder_texts", "Texts encoded.")
        self.encoded_tokens = self._counter("encoder_tokens", "Tokens encoded.")
        self.encoder_failures = self._counter("encoder_failures", "Batches that the encoder failed.")
        self.encoder_seconds = self._counter("encoder_seconds", "Time that the encoder was at work.")
        self.batch_texts = self._histogram("encoder_batch_texts", "Texts in a batch.", _BATCH_SIZES)
        self.batch_tokens = self._histogram("encoder_batch_tokens", "Tokens in a batch.", _BATCH_TOKENS)
        self.abandoned_texts = self._counter(
            "encoder_abandoned_texts", "Texts that nobody waited for any longer when their turn came."
        )
        self.queued_texts = self._gauge("encoder_queued_texts", "Texts that wait for the encoder.")
        self.cache_hits = self._counter("feature_cache_hits", "Texts whose features were in memory.")
        self.cache_misses = self._counter("feature_cache_misses", "Texts whose features were not in memory.")
        self.cache_bytes = self._gauge("feature_cache_bytes", "Memory held by cached features.")
        self.ranked_texts = self._counter("ranked_texts", "Candidates ranked.")
        self.events = self._counter(
            "feedback_events", "Feedback events, by type and outcome.", "type", "outcome"
        )
        self.users_changed = self._counter(
            "users_changed", "Times that a user's judgements showed that the user's taste had changed."
        )
        self.replay_pending = self._gauge(
            "replay_pending_users", "Users whose state is being brought up to the log, one after another."
        )
        self.bundle_info = Gauge(
            "penchant_bundle_info",
            "1 for the bundle that ranks.",
            ("name", "version"),
            registry=self.registry,
        )
        self.upgrade_users = self._gauge(
            "upgrade_users", "Users to be learned for the bundle that is being made ready; 0 where none is."
        )
        self.upgrade_users_done = self._gauge("upgrade_users_done", "Those of them that were learned.")
        self.replayed_users = self._counter("replayed_users", "States caught up from the log and saved.")
        self.commit_seconds = self._histogram(
            "commit_duration_seconds", "Time of a durable commit.", _STAGE_SECONDS
        )
        self.group_events = self._histogram("commit_events", "Events in one commit.", _BATCH_SIZES)
        self.lost_rankings = self._counter("rankings_unwritten", "Rankings that could not be stored in time.")
        self.overloads = self._counter("overloads", "Requests refused because a queue was full.", "queue")
        self.discounted_events = self._counter(
            "events_discounted", "Judgements of which less was learned than they say, by why.", "reason"
        )
        self.bursts = self._counter(
            "bursts", "Times that a user's judgements came faster than a person's do."
        )
        self.outlived_events = self._counter(
            "outlived_events", "Events removed because a tenant keeps none so old."
        )
        self.expired_rows = self._counter("expired_rows", "Rankings and stored answers removed by age.")

    def follow(self, name: str, text: str, label: str, counts: Callable[[], Mapping[str, int]]) -> None:
        """Exposes counts that are kept elsewhere in this process.

        Args:
            name: Of the counter, without prefix and `_total`.
            text: What it counts.
            label: What tells its series apart.
            counts: The counts so far, by that label; asked at each scrape.
        """
        self.registry.register(_Followed(f"penchant_{name}", text, label, counts))

    def show_bundle(self, name: str, version: str) -> None:
        """Tells which bundle ranks."""
        self.bundle_info.clear()
        self.bundle_info.labels(name, version).set(1)

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def hash_user(self, tenant: str, user: str) -> str:
        """What logs call a user: the same within an installation, and nothing that can be looked up."""
        digest = hashlib.blake2b(f"{tenant}\x00{user}".encode(), key=self.salt, digest_size=8)
        return digest.hexdigest()

    def observe(self, timings: Timings) -> None:
        """Counts the stages that one ranking went through: of cached texts none waits for the encoder."""
        for stage, seconds in vars(timings).items():
            if seconds:
                self._stages[stage].observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answer. Labels are few: they are looked up once."""
        known = self._answers.get((method, route, status))
        if known is None:
            known = self.requests.labels(method, route, status), self.request_seconds.labels(route)
            self._answers[method, route, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"penchant_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"penchant_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"penchant_{name}", text, labels, buckets=buckets, registry=self.registry)
