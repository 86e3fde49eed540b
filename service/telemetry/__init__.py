"""What the service tells its operators.

In reading order:

- `metrics`: logs, Prometheus metrics, spans and Server-Timing
- `otel`: spans through OpenTelemetry, an extra
- `setup`: traces as the environment asks for them
"""
