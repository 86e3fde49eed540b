"""Speed of the service beside its peers, on one machine, in alternation: `python -m benchmarks.serving`."""
