"""Hostile peers against a gateway that runs: what they do, and what it costs honest devices."""
