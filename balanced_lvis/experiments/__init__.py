"""Several trainings beside each other: the quick start and the comparison."""
