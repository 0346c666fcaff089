"""Rewards of system prompts on user prompts, drawn through the same evaluation as everything else.

A cell is one system prompt on one example, and a reward is the task's score when the other subtasks stay as they
are. Repeats draw the subtask and all that comes after it anew; what comes before it is drawn once, because a cell's
user prompt must not change between its repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from agentopt.core.candidate import Candidate
from agentopt.core.records import ExampleResult
from agentopt.core.stats import Floats
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.workflow.base import Draw, SubtaskAnswer


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One system prompt, one example by its position, and which of the repeats."""

    system_prompt: str
    example: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Reward:
    """What came of one cell. `reward` is None exactly when `error` says why; `tokens` is what the subtask wrote."""

    reward: float | None
    user_prompt: str
    output: str
    feedback: str
    tokens: int
    error: str | None


class Rewards:
    """Draws and keeps the rewards of one subtask's system prompts on `examples`."""

    def __init__(
        self,
        evaluator: Evaluator,
        candidate: Candidate,
        subtask: str,
        examples: Sequence[Example],
        on_draw: Callable[[Reward], None] = lambda _: None,
    ) -> None:
        self.examples, self.subtask, self.candidate = tuple(examples), subtask, candidate
        self._evaluator, self._on_draw = evaluator, on_draw
        self._drawn_anew = drawn_anew(evaluator.task, subtask)
        self._draws: dict[str, dict[Cell, Reward]] = {}  # by system prompt

    async def draw(self, cells: Iterable[Cell]) -> None:
        """Draw the cells that are not known yet, all at once.

        Raises `BudgetExceeded` after what could still be drawn is kept. A cell that failed for good has no reward.
        """
        missing = sorted({cell for cell in cells if cell not in self._draws.get(cell.system_prompt, {})})
        outcomes = await asyncio.gather(*(self._draw(cell) for cell in missing), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _draw(self, cell: Cell) -> None:
        answers: dict[str, SubtaskAnswer] = {}
        result = await self._evaluator.run_example(
            self.candidate.having(self.subtask, system_prompt=cell.system_prompt),
            self.examples[cell.example],
            Draw(self._evaluator.seed, cell.repeat, self._drawn_anew),
            on_answer=lambda answered: answers.update({answered.subtask: answered}),
        )
        draw = _draw_of(result, answers.get(self.subtask))
        self._draws.setdefault(cell.system_prompt, {})[cell] = draw
        self._on_draw(draw)

    def table(self, system_prompts: Sequence[str], examples: Sequence[int]) -> Floats:
        """Rewards of shape (system prompts, examples, repeats), NaN where nothing is known."""
        known = [(n, cell, draw) for n, p in enumerate(system_prompts) for cell, draw in self._draws.get(p, {}).items()]
        position = {example: k for k, example in enumerate(examples)}
        repeats = 1 + max((cell.repeat for _, cell, _ in known), default=0)
        found = np.full((len(system_prompts), len(position), repeats), np.nan)
        for n, cell, draw in known:
            if cell.example in position and draw.reward is not None:
                found[n, position[cell.example], cell.repeat] = draw.reward
        return found

    def of(self, system_prompt: str, examples: Sequence[int]) -> dict[Cell, Reward]:
        """What is known of one system prompt on these examples, in order."""
        wanted, mine = set(examples), self._draws.get(system_prompt, {})
        return {cell: mine[cell] for cell in sorted(mine, key=_in_order) if cell.example in wanted}

    def user_prompt(self, example: int) -> str:
        """The user message that the example gives; empty where the subtask was never asked on it."""
        draws = (draw for mine in self._draws.values() for cell, draw in mine.items() if cell.example == example)
        return next((draw.user_prompt for draw in draws if draw.user_prompt), "")


def _in_order(cell: Cell) -> tuple[int, int]:
    return cell.example, cell.repeat


def drawn_anew(task: Task, subtask: str) -> frozenset[str]:
    """The subtask and all that read it, also by way of others."""
    affected = {subtask}
    for later in task.subtasks:  # in an order in which each comes after all it reads
        if affected & set(later.reads):
            affected.add(later.name)
    return frozenset(affected)


def _draw_of(result: ExampleResult, answered: SubtaskAnswer | None) -> Reward:
    use = result.subtasks
    if answered is None:
        return Reward(result.score, "", result.output, result.feedback, 0, result.error)
    answer = answered.answer
    value = "" if answer.value is None else str(answer.value)
    tokens = answer.use.completion_tokens if use else 0
    return Reward(result.score, answered.user_message, value, answer.note or result.feedback, tokens, result.error)
