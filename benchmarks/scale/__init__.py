"""Fitting at scale: time, memory and recovery of planted tastes as the number of judgements grows.

`python -m benchmarks.scale` makes judgements of users whose tastes are known and fits them, each size in a process of
its own. It writes `benchmarks/results/scale.json` and `scale.md`.
"""
