"""Strategies that decide which candidate to try next."""
