"""Test helpers for agentopt and for code built on it: loopback servers, conformance suites, toy tasks and models.

This module imports nothing, so that `python -m agentopt.testing.servers` loads that module once.
"""
