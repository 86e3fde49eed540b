"""From an event that arrives to the log and to what is learned from it.

In reading order:

- `schemas`: what events look like
- `checks`: what must hold of them beyond that
- `events`: bodies as valid events
- `references`: the user and the texts that an event refers to
- `judged`: what an event says, all references resolved
- `jobs`: what is handed to the writer
- `learner`: the way of a request up to the writer
- `writer`: the one thread that writes
- `commits`: the transactions
- `ledger`: one group of feedback: duplicates, conflicts, lessons
- `apply`: one judgement: its place in the log, and what is learned
- `trust`: how much a judgement counts
- `unit_of_work`: what a group changes
"""
