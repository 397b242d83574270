"""Drivers of peers, run with the Python of the peer's own environment; see protocol.py."""
