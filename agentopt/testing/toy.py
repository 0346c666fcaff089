"""A small two-subtask task and a scripted model with planted quality, for tests and examples without a real model.

The answer to each example is a secret word. `find` should return its key, `answer` the word. A model answers correctly
with its planted probability, independently for each repeat; the same request always gets the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from agentopt.core.cost import Unit
from agentopt.core.records import Split
from agentopt.core.task import Example, Fusion, Subtask, Task, TokenLengths, Value
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel

SMALL, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b"
"""Names from the built-in catalogue, so that the toy task loads anywhere; the scripted model replaces them."""

QUALITY: Mapping[tuple[str, str], float] = {
    ("find", SMALL): 0.3,
    ("find", LARGE): 0.9,
    ("answer", SMALL): 0.7,
    ("answer", LARGE): 0.75,
}
"""(subtask, model) -> probability of a correct answer."""


def toy_task(
    *, validation: int = 16, test: int = 16, num_samples: Sequence[int] = (1, 2, 3, 5, 8), method: str = "vote"
) -> Task:
    """Build the task.

    Args:
        validation: Number of validation examples.
        test: Number of test examples.
        num_samples: Allowed sample counts of both subtasks, ascending.
        method: Fusion method of `find`.
    """
    return Task(
        name="toy",
        description="find a key, then give the word behind it",
        subtasks=(
            _subtask("find", _key_prompt, num_samples, Fusion(method), ()),
            _subtask("answer", _word_prompt, num_samples, Fusion(), ("find",)),
        ),
        scorer=exact_match(),
        splits=_splits({"validation": validation, "test": test}),
        unit=Unit(134.5e6, 16, 4),
        max_units=160,
    )


def toy_model(quality: Mapping[tuple[str, str], float] = QUALITY) -> ScriptedModel:
    """Build a scripted model that answers the toy task with the planted quality.

    Args:
        quality: (subtask, model) -> probability of a correct answer.
    """

    def answer(request: Request, repeat: int) -> str:
        subtask, example, key = request.messages[-1].content.split("|")
        right = f"key-{example}" if subtask == "find" else f"word-{example}"
        known = subtask == "find" or key == f"key-{example}"
        chance = draw(request.model, subtask, example, repeat, request.seed)
        return right if known and chance < quality[subtask, request.model] else f"wrong-{int(chance * 5)}"

    return ScriptedModel(answer)


def _subtask(name: str, render: Any, counts: Sequence[int], fusion: Fusion, reads: tuple[str, ...]) -> Subtask:
    return Subtask(
        name=name,
        render=render,
        models=(SMALL, LARGE),
        num_samples=tuple(counts),
        fusion=fusion,
        max_tokens=4,
        reads=reads,
        tokens=TokenLengths(16, 4),
    )


def _key_prompt(inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> str:
    return f"find|{inputs['number']}|"


def _word_prompt(inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> str:
    return f"answer|{inputs['number']}|{outputs['find']}"


def _splits(sizes: Mapping[Split, int]) -> dict[Split, tuple[Example, ...]]:
    return {
        split: tuple(
            Example(f"{split}-{i}", {"number": f"{split}-{i}"}, target=f"word-{split}-{i}") for i in range(size)
        )
        for split, size in sizes.items()
    }


def draw(*what: object) -> float:
    """Return a pseudo-random number in [0, 1) that is a pure function of the `repr` of `what`."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8]) / 2**64
