"""Datasets: annotation files, their checks, indexes and class counts; loaders and samplers for training."""
