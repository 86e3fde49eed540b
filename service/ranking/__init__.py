"""The hot path: from a task to a ranking.

In reading order:

- `results`: the task of a ranking, and its result
- `cutting`: cuts the candidates of a task to a number of tokens
- `scoring`: ranks the candidates of a task for a user
- `many_users`: scores texts for many users at once
- `describer`: turns texts into items of the user model, and caches them
- `rankings`: recent rankings, to which feedback refers by `rank_id`
- `explaining`: explains rankings and users
"""
