"""One module for each optimiser; each runs as a process of its own, see `benchmarks.peers.protocol`."""
