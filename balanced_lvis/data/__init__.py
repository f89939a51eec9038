"""Data sets, their class counts and the checks made before any work starts."""
