"""Checkpoints: identity, safe reading, atomic writing, search and conversion."""
