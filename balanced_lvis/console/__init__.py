"""Output, error reporting and signal handling of commands."""
