"""Who may do how much: keys, scopes, tenants, limits and quotas."""
