"""What the fleet should do: pure functions of what was observed and of the time.

No I/O, no clock, no random source, no logger: the same code runs on a cluster, on one machine and
on a recorded trace.
"""
