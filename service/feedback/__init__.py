"""The way of an event into the log and into the user's state.

In reading order:

- `schemas`: the models that validate events
- `events`: parsing a request's body into valid events
- `jobs`: the requests that are passed to the writer, and its answers
- `history`: what was learned from a user's history of single days
- `learner`: a request's way to the writer
- `work`: what waits for the writer, and in which groups it is written
- `writer`: the thread that owns the write connection
- `commits`: the transactions
- `chores`: what the writer's thread does between groups, in small steps
- `expiry`: removal of rankings and stored answers
- `event_ids`: which event an id names, and when it can be used again
- `ledger`: a group of requests: duplicates, conflicts, answers
- `recorder`: one event: its place in the log, its weight, and the state after it
- `trust`: how much a judgement counts
"""
