"""Everything durable, on SQLite or PostgreSQL; one file a noun.

In reading order:

- `tables`: what is stored
- `database`: connections, transactions, and bringing the tables up to date
- `engines`: how connections are made to either database
- `statements`: inserts, and asking in portions
- `locks`: who may change a user
- `failures`: what a failure of the database means
- `events`: the feedback log
- `judged`: events with the texts that they judged
- `features`: features of texts
- `users`: users, and what bundles made of their logs
- `user_data`: all that is stored of one user
- `rankings`: what was shown
- `answers`: answers kept under idempotency keys
- `keys`: keys, tenants, and what they use
- `bundles`: bundles, with their preparation
- `activations`: which of them ranks
- `feed`: changes that others must hear of
- `archive`: a whole store in one file
- `inspection`: a look that changes nothing
- `migrations`: how the tables came to be
"""
