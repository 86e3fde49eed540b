"""What the feedback log says, and how it is read.

In reading order:

- `reading`: what a logged event says, and which events count
- `rows`: an event as rows of the store
- `textless`: events of tenants that keep no texts
- `judgements`: the log as judgements that a bundle can be fitted to
"""
