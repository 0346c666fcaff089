"""Hypothesis without deadlines: how long an example takes is the machine's business, never a test's."""

from hypothesis import settings

settings.register_profile("agentopt", deadline=None)
settings.load_profile("agentopt")
