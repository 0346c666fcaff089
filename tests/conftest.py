"""Hypothesis without deadlines: the duration of an example depends on the machine."""

from hypothesis import settings

settings.register_profile("agentopt", deadline=None)
settings.load_profile("agentopt")
