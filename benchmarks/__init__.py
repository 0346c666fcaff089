"""Benchmarks that are kept: each prints a table and exits with 1 when a stated figure is not reached."""

import os

# Matrices are small here: several threads for each take six times as long on a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
