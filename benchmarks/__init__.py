"""Benchmarks of quality and speed against peers. Each is one command that writes JSON and Markdown. Not in the wheel."""
