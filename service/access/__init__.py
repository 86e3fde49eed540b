"""Who may do how much.

In reading order:

- `scopes`: what a key may do
- `keyring`: from a key to its tenant and scopes
- `tenancy`: what differs from tenant to tenant
- `limits`: how often a tenant and a key may ask
- `quotas`: how much a tenant may use in a day
- `access`: all of them together, kept fresh
"""
