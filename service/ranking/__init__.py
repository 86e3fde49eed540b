"""The hot path: from a task to a ranking.

In reading order:

- `results`: what is to be ranked, and what is found
- `scoring`: candidates, utilities, order
- `describer`: texts as items, remembered
- `rankings`: what was shown under a rank_id
- `explaining`: why
"""
