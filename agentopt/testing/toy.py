"""A small two-subtask task and a fake model with planted qualities: what tests and examples run when no model should.

Each example asks for a secret word. `find` should name its key, `answer` should give the word; a model gets an
answer right with its planted quality, independently for each repeat, the same each time it is asked.
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
"""Names of the built-in catalogue, so that the toy task loads anywhere; the fake answers in their place."""

QUALITY: Mapping[tuple[str, str], float] = {
    ("find", SMALL): 0.3,
    ("find", LARGE): 0.9,
    ("answer", SMALL): 0.7,
    ("answer", LARGE): 0.75,
}


def toy_task(
    *, validation: int = 16, test: int = 16, num_samples: Sequence[int] = (1, 2, 3, 5, 8), method: str = "vote"
) -> Task:
    """The task, with so many examples."""
    return Task(
        name="toy",
        description="find a key, then give the word behind it",
        subtasks=(
            _subtask("find", _ask_key, num_samples, Fusion(method), ()),
            _subtask("answer", _ask_word, num_samples, Fusion(), ("find",)),
        ),
        scorer=exact_match(),
        splits=_splits({"validation": validation, "test": test}),
        unit=Unit(134.5e6, 16, 4),
        max_units=160,
    )


def toy_model(quality: Mapping[tuple[str, str], float] = QUALITY) -> ScriptedModel:
    """A fake that answers the toy task's questions with the planted qualities."""

    def answer(request: Request, repeat: int) -> str:
        subtask, example, key = request.messages[-1].content.split("|")
        right = f"key-{example}" if subtask == "find" else f"word-{example}"
        known = subtask == "find" or key == f"key-{example}"
        luck = draw(request.model, subtask, example, repeat, request.seed)
        return right if known and luck < quality[subtask, request.model] else f"wrong-{int(luck * 5)}"

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


def _ask_key(inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> str:
    return f"find|{inputs['number']}|"


def _ask_word(inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> str:
    return f"answer|{inputs['number']}|{outputs['find']}"


def _splits(sizes: Mapping[Split, int]) -> dict[Split, tuple[Example, ...]]:
    return {
        split: tuple(
            Example(f"{split}-{i}", {"number": f"{split}-{i}"}, target=f"word-{split}-{i}") for i in range(size)
        )
        for split, size in sizes.items()
    }


def draw(*what: object) -> float:
    """A number in [0, 1) that is a fixed function of `what`."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8]) / 2**64
