"""The endpoints, one file a group of paths.

In reading order:

- `rank`: ranking, in every dialect
- `feedback`: feedback
- `users`: users' states, data and rights
- `ops`: health, metrics and served models
"""
