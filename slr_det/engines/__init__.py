"""A network in every engine that runs on this CPU: how fast, in how much memory, and with the same answers."""
