"""Hostile requests, and how long an innocent client waits beside them.

In reading order:

- `innocent`: a client in a process of its own, which asks for the same small ranking again and again
- `memory`: the peak memory of a server
- `sending`: requests as bytes, and their answers
- `cases`: what a case of an attack is, and the measurement of one
- `refused`, `enormous`, `connections`, `logs`, `hanging`: the attacks
- `seeding`: fills a store with long logs and stored answers
- `part`: all attacks on one store
"""
