"""Optimisation of system prompts: the pilot that decides whether and on which user prompts, and the optimiser."""
