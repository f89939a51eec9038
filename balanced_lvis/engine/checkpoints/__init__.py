"""Checkpoints: identity, reading, atomic writing, search and conversion."""
