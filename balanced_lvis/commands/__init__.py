"""The commands that the tools call."""
