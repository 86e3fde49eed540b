"""Models of the answers, for the OpenAPI document and for tests.

In reading order:

- `base`: what all of them are made from, and errors
- `ranking`: what the dialects share
- `feedback`: what became of events
- `users`: what is known of a user
- `ops`: health, models and limits
"""
