"""One optimisation run: its configuration, folder, trials, phases and result."""
