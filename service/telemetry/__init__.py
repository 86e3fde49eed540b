"""Metrics, logs and traces.

In reading order:

- `metrics`: logs, Prometheus metrics, the interface of tracing, and Server-Timing
- `otel`: tracing with OpenTelemetry, which is an extra
- `setup`: the tracing that the environment configures
"""
