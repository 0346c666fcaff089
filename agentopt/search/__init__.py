"""Search strategies: which candidate to evaluate next."""
