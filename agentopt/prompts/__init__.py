"""Whether a task's system prompts can be optimised, on which user prompts, and doing it."""
