"""Speed of the service in comparison with its peers, alternating on one machine: `python -m benchmarks.serving`."""
