"""Logs in JSON, Prometheus metrics, the interface of tracing, and Server-Timing. None of them has texts or user ids.

Spans are recorded by OpenTelemetry (`penchant.service.telemetry.otel`, an extra) if the environment names an endpoint.

request            continues the caller's `traceparent`
  ├─ rank          from candidates to their order
  │    └─ encode   texts that no cache has
  └─ commit        feedback, until it is durable
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

_NO_SPAN: Final = nullcontext()

Attribute = str | int | float | bool


class Tracing:
    """Tracing that records nothing, and the interface of tracing. A span costs one call.

    Spans are nested as their `with` blocks are, also across `await`.
    """

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a span for a step of a request. Its attributes are named `penchant.` + name."""
        return _NO_SPAN

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application so that each request has a span."""
        return app

    def stop(self) -> None:
        """Send the remaining spans. This can take seconds."""


log: Final = structlog.get_logger("penchant")

_REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STAGE_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_BATCH_TOKENS: Final = (64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


def configure_logging(level: str) -> None:
    """Write logs as JSON to standard error, including those of libraries from level WARNING."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=False,  # a cached logger would ignore later configurations
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
    """Log an error with its stack, but without local variables, because they hold texts."""
    frames = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    log.error(event, error=type(error).__name__, message=str(error), frames=frames, **fields)


@dataclass
class Timings:
    """Time that a request spent in each stage, in seconds.

    Attributes:
        queue: Time that texts waited for the encoder.
        encode: Time in the encoder.
        posterior: Time to get the user's posterior.
        rank: Time to compute utilities and order.
    """

    queue: float = 0.0
    encode: float = 0.0
    posterior: float = 0.0
    rank: float = 0.0

    def header(self) -> str:
        """Return the value of the header `Server-Timing`, in milliseconds."""
        return (
            f"queue;dur={self.queue * 1e3:.3f}, encode;dur={self.encode * 1e3:.3f}, "
            f"posterior;dur={self.posterior * 1e3:.3f}, rank;dur={self.rank * 1e3:.3f}"
        )


class _CountsCollector(Collector):
    """A Prometheus counter whose values are kept elsewhere."""

    def __init__(self, name: str, text: str, label: str, counts: Callable[[], Mapping[str, int]]) -> None:
        self._name, self._text, self._label, self._counts = name, text, label, counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=(self._label,))
        for value, count in sorted(self._counts().items()):
            family.add_metric((value,), count)
        yield family


class Telemetry:
    """Metrics of a server, its tracing, and the hash of user ids in its logs.

    Args:
        tracing: Records spans. By default nothing is recorded.
    """

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.tracing = tracing or Tracing()
        self.salt = secrets.token_bytes(32)  # replaced by the installation's salt when the store opens
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._counter(
            "http_requests", "Answers, by method, route and status.", "method", "route", "status"
        )
        self.request_seconds = self._histogram(
            "http_request_duration_seconds",
            "Time to answer a request, in seconds.",
            _REQUEST_SECONDS,
            "route",
        )
        self.connections = self._gauge("connections", "Open connections of clients.")
        self.refused_connections = self._counter(
            "connections_refused", "Connections refused or closed because of a limit, by reason.", "reason"
        )
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.stage_seconds = self._histogram(
            "stage_duration_seconds",
            "Time that a ranking spends in each stage, in seconds.",
            _STAGE_SECONDS,
            "stage",
        )
        self._stages = {stage.name: self.stage_seconds.labels(stage.name) for stage in fields(Timings)}
        self.encoded_texts = self._counter("encoder_texts", "Texts encoded.")
        self.encoded_tokens = self._counter("encoder_tokens", "Tokens encoded.")
        self.encoder_failures = self._counter(
            "encoder_failures", "Batches that the encoder failed to encode."
        )
        self.encoder_seconds = self._counter("encoder_seconds", "Seconds that the encoder was busy.")
        self.batch_texts = self._histogram("encoder_batch_texts", "Texts in a batch.", _BATCH_SIZES)
        self.batch_tokens = self._histogram("encoder_batch_tokens", "Tokens in a batch.", _BATCH_TOKENS)
        self.abandoned_texts = self._counter(
            "encoder_abandoned_texts", "Texts that were not encoded because their requests had ended."
        )
        self.queued_texts = self._gauge("encoder_queued_texts", "Texts waiting for the encoder.")
        self.cache_hits = self._counter("feature_cache_hits", "Texts whose features were in memory.")
        self.cache_misses = self._counter("feature_cache_misses", "Texts whose features were not in memory.")
        self.cache_bytes = self._gauge("feature_cache_bytes", "Bytes of memory used by cached features.")
        self.relevance_hits = self._counter(
            "relevance_cache_hits", "Texts whose score by the relevance model was in memory."
        )
        self.relevance_misses = self._counter(
            "relevance_cache_misses", "Texts that the relevance model scored for their prompt."
        )
        self.ranked_texts = self._counter("ranked_texts", "Candidates ranked.")
        self.events = self._counter(
            "feedback_events", "Feedback events, by type and outcome.", "type", "outcome"
        )
        self.users_changed = self._counter(
            "users_changed", "Times that a change of a user's taste was detected."
        )
        self.replay_pending = self._gauge(
            "replay_pending_users", "Users whose state is waiting to be brought up to date with the log."
        )
        self.bundle_info = Gauge(
            "penchant_bundle_info",
            "1 for the bundle in use.",
            ("name", "version"),
            registry=self.registry,
        )
        self.upgrade_users = self._gauge(
            "upgrade_users", "Users to be learned for the bundle that is being prepared; 0 if none is."
        )
        self.upgrade_users_done = self._gauge(
            "upgrade_users_done", "Users already learned for the bundle that is being prepared."
        )
        self.replayed_users = self._counter(
            "replayed_users", "States brought up to date with the log and saved."
        )
        self.commit_seconds = self._histogram(
            "commit_duration_seconds", "Time of a durable commit, in seconds.", _STAGE_SECONDS
        )
        self.group_events = self._histogram("commit_events", "Events in one commit.", _BATCH_SIZES)
        self.lost_rankings = self._counter("rankings_unwritten", "Rankings that could not be stored in time.")
        self.overloads = self._counter("overloads", "Requests refused because a queue was full.", "queue")
        self.discounted_events = self._counter(
            "events_discounted", "Judgements learned with reduced weight, by reason.", "reason"
        )
        self.bursts = self._counter(
            "bursts", "Bursts of judgements that arrived faster than a person judges."
        )
        self.outlived_events = self._counter(
            "outlived_events", "Events removed because they were older than their tenant keeps them."
        )
        self.evicted_rankings = self._counter(
            "evicted_rankings", "Rankings removed before they expired, because their tenant's quota was full."
        )
        self.expired_rows = self._counter(
            "expired_rows", "Rankings and stored answers removed because they expired."
        )

        self.clock_ahead = self._gauge(
            "clock_ahead_seconds",
            "Seconds by which the clock is ahead of what data expires by, because it jumped; 0 if it did not.",
        )
        self.clock_jumps = self._counter(
            "clock_jumps", "Times that the clock jumped by more than the grace period."
        )

    def expose_counts(
        self, name: str, text: str, label: str, counts: Callable[[], Mapping[str, int]]
    ) -> None:
        """Expose counts that are kept elsewhere in this process.

        Args:
            name: Name of the counter, without the prefix `penchant_` and without `_total`.
            text: Help text.
            label: Name of the label.
            counts: Returns the counts by value of the label. Called at each scrape.
        """
        self.registry.register(_CountsCollector(f"penchant_{name}", text, label, counts))

    def set_bundle(self, name: str, version: str) -> None:
        """Record which bundle is in use."""
        self.bundle_info.clear()
        self.bundle_info.labels(name, version).set(1)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def hash_user(self, tenant: str, user: str) -> str:
        """Return the keyed hash that stands for a user in logs. It is the same for all servers of an installation."""
        digest = hashlib.blake2b(f"{tenant}\x00{user}".encode(), key=self.salt, digest_size=8)
        return digest.hexdigest()

    def record_timings(self, timings: Timings) -> None:
        """Record the time of each stage that a request went through."""
        for stage, seconds in vars(timings).items():
            if seconds:
                self._stages[stage].observe(seconds)

    def record_response(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record an answer. The metrics of each combination of labels are cached."""
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
