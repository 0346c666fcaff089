"""Several processes, also on several hosts, that evaluate the examples of one run."""
