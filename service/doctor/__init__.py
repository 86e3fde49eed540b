"""Checks of an installation, for its operator.

In reading order:

- `findings`: the result of a check
- `checks`: all checks, in order
- `settings`: checks of names and values of settings
- `model`: checks of bundle, encoder, FAISS and threads
"""
