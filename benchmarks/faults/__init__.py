"""A campaign of faults against the commands; ``python -m benchmarks.faults``."""
