"""Runs untrusted programs in a sandbox: `sandbox.Sandbox`."""
