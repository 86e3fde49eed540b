"""Reading the feedback log.

In reading order:

- `reading`: which events are in force, and the texts in their payloads
- `rows`: an event as rows of the store
- `stored_features`: the stored features of logged texts, as a fit reads them
- `judgements`: the log as judgements that a bundle can be fitted to
"""
