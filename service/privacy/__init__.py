"""A user's rights: to see, take along, join and delete what is stored.

In reading order:

- `user_data`: export, merge and deletion
- `user_export`: all that is held on a user, as plain data
- `forgotten`: what a server remembers, and dropping it
- `retention`: what is older than a tenant keeps it
"""
