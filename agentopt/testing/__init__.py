"""What tests of agentopt, and of code built on it, share: loopback servers and conformance suites.

Nothing is imported here, so that `python -m agentopt.testing.servers` loads its module once.
"""
