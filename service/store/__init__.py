"""Everything durable, on SQLite or PostgreSQL, with one file per noun.

In reading order:

- `tables`: the tables
- `statements`: inserts, and keys in chunks
- `database`: the `Store`, with its connections, transactions, migrations and failures
- `engines`: connections to both databases, with their time limits
- `limited`: a PostgreSQL connection on which no call waits for ever
- `expiry_clock`: the clock by which data expires, which does not follow jumps
- `probe`: whether the store answers
- `users`: users, their states, and their locks
- `events`: the feedback log: what it holds, and what is removed from it
- `judgements`: judgements as the user model learns from them, with the features of the texts that they judged
- `event_ids`: which events of the log ids name
- `features`: features of texts and prompts
- `judged_items`: the texts that events judged, as keys, and their match with the prompt
- `long_logs`: reading and changing a user's long log in parts
- `requests`: rankings and answers of past requests
- `keys`: API keys, tenants and their usage
- `bundles`: bundles and their preparation
- `activations`: which bundle ranks
- `feed`: changes that other servers must learn of
- `archive`: a whole store in one file
- `inspection`: an inspection that changes nothing
- `migrations`: the history of the tables
"""
