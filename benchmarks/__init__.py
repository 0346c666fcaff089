"""Benchmarks that are kept: each prints a table and exits with 1 when a stated figure is not reached."""
