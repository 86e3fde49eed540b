"""Does it hold? Servers are killed, databases restarted, disks filled and clocks turned while clients send feedback.

server, processes   a real server process, with the faults that its environment asks for
stores              what it writes to: a SQLite file, or a PostgreSQL server of this benchmark's own
events, load        clients that send every kind of event, and know what was acknowledged
audit               the log read back, and every state learned again from it
crashes, sharing, slowness   the parts
"""
