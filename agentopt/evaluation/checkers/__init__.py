"""Judging by libraries that the extra `tasks` brings: mathematics, instructions, programs."""
