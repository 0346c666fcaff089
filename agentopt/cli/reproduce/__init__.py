"""`agentopt reproduce`: the tables of the papers as grids of runs."""
