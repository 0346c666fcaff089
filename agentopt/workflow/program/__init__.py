"""A user's own program as the workflow."""
