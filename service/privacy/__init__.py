"""A user's rights: export, merge and deletion of the user's data, and retention limits.

In reading order:

- `user_data`: merge and deletion
- `deleting`: one transaction of a deletion
- `merging`: one transaction of a merge
- `unfinished`: what the transactions of a change do, and continuing interrupted ones
- `exports`: exports, which are written before they are sent
- `user_export`: everything that is stored about a user, as one JSON document
- `invalidation`: deleted data in the caches of all servers
- `retention`: deletion of data that is older than its tenant keeps it
"""
