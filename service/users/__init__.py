"""What is known of each user: states, which are folds over the log.

In reading order:

- `fold`: what a state is
- `states`: a user's state, how it ages, and states in memory
- `catching_up`: from a saved state to what the log says now
- `current`: the event loop's way to a state
- `replayer`: states that were left behind, caught up in the background
- `verify`: whether the log says what was saved
"""
