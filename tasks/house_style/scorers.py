"""The house style is exact: another case, a full stop or a word too many is a wrong answer."""

from agentopt import Example, Score


def in_style(example: Example, output: str | None) -> Score:
    """1 for exactly the target, else 0 with both texts."""
    if output == example.target:
        return Score(1.0)
    return Score(0.0, f"expected {example.target}, got {output or 'nothing'}")
