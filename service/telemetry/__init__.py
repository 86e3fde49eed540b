"""What the service tells its operators: metrics, logs and traces."""
