"""Checks of an installation, for its operator.

In reading order:

- `settings`: the result of a check, and checks of names and values of settings
- `checks`: all checks, in order
- `model`: checks of bundle, encoder, FAISS and threads
"""
