"""General helpers: errors, files, text, memory limits, random states."""
