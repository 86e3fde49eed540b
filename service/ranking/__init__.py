"""The hot path: from a task to a ranking.

In reading order:

- `results`: the task of a ranking, and its result
- `scoring`: candidates, utilities, order
- `describer`: texts as items, remembered
- `rankings`: what was shown under a rank_id
- `explaining`: why
"""
