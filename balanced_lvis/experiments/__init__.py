"""Experiments of several training runs: the quick start and the method comparison, their tables and plots."""
