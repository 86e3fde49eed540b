"""The endpoints, one file a group of paths.

In reading order:

- `rank`: ranking, in every dialect
- `feedback`: feedback
- `users`: what is known of a user
- `ops`: for operators, and what is served
"""
