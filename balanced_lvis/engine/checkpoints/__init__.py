"""Checkpoints: whose weights they hold, how they are read safely, written whole and found again."""
