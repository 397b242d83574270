"""Drivers of peers, run by path with the Python of the peer's own environment; see protocol.py."""
