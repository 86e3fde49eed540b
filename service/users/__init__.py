"""The state of each user, which is a fold over the user's log.

In reading order:

- `fold`: the fold that computes a state from the log
- `states`: a user's state, forgetting, and the cache of states
- `completion`: features and match of logged events that a bundle reads and the store lacks
- `catching_up`: bringing a saved state up to the end of the log
- `current`: access to current states from the event loop
- `replayer`: a background thread that saves current states of users who are behind
- `verify`: comparing saved states with the log
"""
