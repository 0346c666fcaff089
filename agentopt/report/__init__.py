"""Output for people: the live view of a run, and its result."""
