"""General helpers: errors, files, text, random states."""
