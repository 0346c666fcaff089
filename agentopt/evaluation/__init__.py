"""Scores candidates: the evaluator, scorers, checkers, and the sandbox for generated programs."""
