"""From an event that arrives to the log and to what is learned from it.

In reading order:

- `schemas`: the models that validate events
- `events`: from a request's body to valid events
- `jobs`: what is handed to the writer
- `learner`: a request's way to the writer
- `writer`: the one thread that writes
- `commits`: the transactions
- `ledger`: one group of feedback: duplicates, conflicts, answers
- `recorder`: one event: its place in the log, and what is learned from it
- `trust`: how much a judgement counts
"""
