"""Benchmarks: each prints a table, and exits with code 1 if a stated figure is not reached."""

import os

# The matrices are small: with several threads each operation takes six times as long on a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
