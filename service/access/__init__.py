"""Access control: API keys, the settings of tenants, and limits.

In reading order:

- `keyring`: API keys, their tenants and their scopes
- `limits`: settings of tenants, rate limits of keys and tenants, and quotas of tenants
- `access`: all of these in one value, kept up to date by the change feed
"""
