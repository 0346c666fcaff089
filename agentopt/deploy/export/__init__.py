"""Exports a candidate as a file, as a standalone Python module or as a configuration of litellm's router."""
