"""A candidate for use elsewhere: as a file, as a Python module of its own, as a configuration of litellm's router."""
