"""Models of the answers, for the OpenAPI document and for tests.

In reading order:

- `base`: the base of the models, and errors
- `ranking`: what the dialects share
- `feedback`: results of events
- `users`: users' states and data
- `ops`: health, models and limits
"""
