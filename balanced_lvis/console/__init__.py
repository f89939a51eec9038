"""What a command line prints and how it reports errors."""
