"""The ZeRO-2 engine, its schedule, and the group of ranks that share it."""
