"""A one-subtask task whose right answers depend on the system prompt in a planted way, and a fake model for it.

User prompts are of four kinds. `dates` and `names` are answered right where the system prompt has their instruction,
`easy` ones nearly always, `hard` ones hardly ever: only the first two kinds tell system prompts apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentopt.core.cost import Unit
from agentopt.core.records import Split
from agentopt.core.task import Example, Subtask, Task, TokenLengths
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.testing.toy import LARGE, SMALL, draw

INSTRUCTIONS: Mapping[str, str] = {
    "dates": "Write dates as YYYY-MM-DD.",
    "names": "Begin names with a capital letter.",
}
"""What the system prompt must say; both stand in the authored bank of fragments."""

CHANCES: Mapping[str, tuple[float, float]] = {
    "dates": (0.1, 0.9),
    "names": (0.2, 0.85),
    "easy": (0.95, 0.95),
    "hard": (0.03, 0.03),
}
"""Kind -> chance of a right answer without its instruction, and with it."""


def prompt_task(
    *, train: int = 16, validation: int = 32, test: int = 32, kinds: Sequence[str] = tuple(CHANCES)
) -> Task:
    """The task, with so many examples, whose kinds take turns."""
    sizes: dict[Split, int] = {"train": train, "validation": validation, "test": test}
    return Task(
        name="prompt-toy",
        description="answers in the form that the house style asks for",
        subtasks=(
            Subtask(
                name="answer",
                render=lambda inputs, outputs: f"{inputs['kind']}|{inputs['number']}",
                models=(SMALL, LARGE),
                num_samples=(1, 2),
                max_tokens=8,
                system_prompt="Answer the question.",
                tokens=TokenLengths(16, 4),
            ),
        ),
        scorer=exact_match(),
        splits={split: _examples(split, size, kinds) for split, size in sizes.items()},
        unit=Unit(134.5e6, 16, 4),
        max_units=160,
    )


def prompt_model(
    chances: Mapping[str, tuple[float, float]] = CHANCES,
    *,
    instructions: Mapping[str, str] = INSTRUCTIONS,
    writes: str = "",
) -> ScriptedModel:
    """A fake that answers by the planted chances; asked to write a system prompt it writes `writes`."""

    def answer(request: Request, repeat: int) -> str:
        if request.purpose == "prompts":
            return writes
        *before, asked = request.messages
        kind, number = asked.content.split("|")
        told = kind in instructions and any(instructions[kind] in message.content for message in before)
        right = draw(before, asked, repeat, request.seed) < chances[kind][told]
        return f"right-{number}" if right else "wrong"

    return ScriptedModel(answer)


def _examples(split: Split, size: int, kinds: Sequence[str]) -> tuple[Example, ...]:
    numbers = (f"{split}-{i}" for i in range(size))
    return tuple(
        Example(number, {"kind": kinds[i % len(kinds)], "number": number}, target=f"right-{number}")
        for i, number in enumerate(numbers)
    )
