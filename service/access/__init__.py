"""Who may do how much.

In reading order:

- `keyring`: what a key may do, and whose it is
- `tenancy`: what differs from tenant to tenant
- `limits`: requests a minute, and candidates, events and users of a tenant
- `access`: all of them together, kept fresh
"""
