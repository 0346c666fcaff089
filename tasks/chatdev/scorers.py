"""The measures of ChatDev; see `agentopt.evaluation.checkers.programs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example, Score
from agentopt.evaluation.checkers import programs
from agentopt.evaluation.checkers.needs import needs
from agentopt.evaluation.checkers.programs import program

needs("wordllama")

__all__ = ["completeness", "consistency", "executability", "plausible", "program", "quality"]


async def quality(example: Example, output: str | None) -> Score:
    """Completeness x executability x consistency, with the problems as feedback."""
    if output is None:
        return Score(0.0, "no response had a program in it")
    run = await programs.sandbox().run(output)
    complaints = [*programs.placeholders(output)][:3] + ([] if run.ok else [programs.describe(run)[-600:]])
    value = programs.completeness(output) * float(run.ok) * programs.consistency(_requirement(example.inputs), output)
    return Score(value, "; ".join(complaints))


def completeness(example: Example, output: str | None) -> float:
    """1 if the program has no placeholders."""
    return programs.completeness(output) if output else 0.0


async def executability(example: Example, output: str | None) -> float:
    """1 if the program runs to its end in the sandbox."""
    return float((await programs.sandbox().run(output)).ok) if output else 0.0


def consistency(example: Example, output: str | None) -> float:
    """The cosine of the embeddings of requirement and code: the main measure of the AgentTTS paper."""
    return programs.consistency(_requirement(example.inputs), output) if output else 0.0


def plausible(inputs: Mapping[str, Any], output: str) -> float:
    """Rate a program without running it, to choose among samples."""
    readable = 0.0 if programs.is_broken(output) else 1.0
    return readable + programs.completeness(output) + programs.consistency(_requirement(inputs), output)


def _requirement(inputs: Mapping[str, Any]) -> str:
    return f"{inputs['name']}: {inputs['requirement']}"
