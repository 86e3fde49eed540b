"""Fault injection: kill servers, restart databases, fill disks and turn clocks while clients send feedback.

In reading order:

- `server`, `processes`: a real server process, with faults that its environment switches on
- `stores`: the store of the servers, either a SQLite file or a PostgreSQL server started for this benchmark
- `events`, `load`: clients that send every kind of event and record what was acknowledged
- `audit`: reads the log back, and learns every state again from it
- `outcome`: the result of one part
- `proxy`: a proxy in front of PostgreSQL that can stop forwarding
- `crashes`, `sharing`, `slowness`, `hostile`: the parts
- `report`: writes the results
"""
