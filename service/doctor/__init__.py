"""Checks of an installation, for its operator.

In reading order:

- `findings`: what a check found
- `checks`: all of them, in order
- `settings`: whether the settings are what was meant
- `model`: whether the model would work here
"""
