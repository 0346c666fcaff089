"""A one-subtask task on which the system prompt has a planted effect, and a scripted model for it.

User prompts are of four kinds. `dates` and `names` are usually answered correctly if the system prompt contains their
instruction, `easy` ones nearly always and `hard` ones rarely: only the first two kinds distinguish system prompts.
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
"""Kind -> the instruction that its user prompts need; both are in the authored bank of fragments."""

CHANCES: Mapping[str, tuple[float, float]] = {
    "dates": (0.1, 0.9),
    "names": (0.2, 0.85),
    "easy": (0.95, 0.95),
    "hard": (0.03, 0.03),
}
"""Kind -> probability of a correct answer without its instruction, and with it."""


def prompt_task(
    *, train: int = 16, validation: int = 32, test: int = 32, kinds: Sequence[str] = tuple(CHANCES)
) -> Task:
    """Build the task.

    Args:
        train: Number of train examples.
        validation: Number of validation examples.
        test: Number of test examples.
        kinds: Kinds of the examples, in turn.
    """
    sizes: dict[Split, int] = {"train": train, "validation": validation, "test": test}
    return Task(
        name="prompt-toy",
        description="answers in the form that the house style requires",
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
    """Build a scripted model that answers with the planted probabilities.

    Args:
        chances: Kind -> probability of a correct answer without its instruction, and with it.
        instructions: Kind -> the instruction that its user prompts need.
        writes: Reply to a request for a new system prompt.
    """

    def answer(request: Request, repeat: int) -> str:
        if request.purpose == "prompts":
            return writes
        *before, question = request.messages
        kind, number = question.content.split("|")
        instructed = kind in instructions and any(instructions[kind] in message.content for message in before)
        right = draw(before, question, repeat, request.seed) < chances[kind][instructed]
        return f"right-{number}" if right else "wrong"

    return ScriptedModel(answer)


def _examples(split: Split, size: int, kinds: Sequence[str]) -> tuple[Example, ...]:
    numbers = (f"{split}-{i}" for i in range(size))
    return tuple(
        Example(number, {"kind": kinds[i % len(kinds)], "number": number}, target=f"right-{number}")
        for i, number in enumerate(numbers)
    )
