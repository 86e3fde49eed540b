"""What one connection, and all of them together, may cost before any key is checked.

In reading order:

- `limits`: the limits, and how many files the process may open
- `registry`: all open connections: whether there is room for another one, and which have been too slow
- `protocol`: one connection: uvicorn's HTTP protocol within the limits
- `refusals`: the answers and the log of what is refused
"""
