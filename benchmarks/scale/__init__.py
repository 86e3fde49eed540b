"""How fitting grows with the number of judgements: time, memory, and whether what was planted is found.

    python -m benchmarks.scale

makes judgements of users whose tastes are known, fits them, each size in a process of its own, and writes
`benchmarks/results/scale.json` and `scale.md`.
"""
