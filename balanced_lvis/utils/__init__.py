"""Helpers without a subject of their own: errors, files, text, memory limits, random states."""
