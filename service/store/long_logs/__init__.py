"""What keeps work on a user's long log short: reading and changing it in parts, and what need not be read again.

In reading order:

- `user_log`: what is stored about one user, read in parts that are bounded in bytes
- `user_changes`: deleting a user and moving a log, in parts
- `checkpoints`: earlier states of users, from which logs are replayed
- `history`: what was learned from events of the past
"""
