"""agentopt, gepa, MIPROv2 and Opik beside each other on `tasks/house_style`, at equal numbers of model calls."""
