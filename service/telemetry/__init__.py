"""What the service tells its operators.

In reading order:

- `metrics`: logs, Prometheus metrics and Server-Timing
- `tracing`: spans, which cost nothing where nobody asked for them
- `otel`: spans through OpenTelemetry, an extra
- `setup`: traces as the environment asks for them
"""
