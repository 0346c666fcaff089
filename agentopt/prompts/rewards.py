"""Rewards of system prompts on user prompts, sampled by the task's evaluator.

A cell is one system prompt on one example, and a reward is the task's score with the other subtasks unchanged. Each
repeat samples the subtask and those that depend on it again; the subtasks before it are sampled once, because a cell's
user prompt must not change between repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentopt.core.candidate import Candidate
from agentopt.core.message_text import counted
from agentopt.core.records import UNUSABLE_SHARE, ExampleResult
from agentopt.core.stats import Floats
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.workflow.base import Draw, SubtaskAnswer


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One system prompt on one example (by position), and the index of the repeat."""

    system_prompt: str
    example: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Reward:
    """One sampled reward of a cell, with the response that it is for."""

    reward: float | None
    """The task's score; None if there was an `error`."""
    user_prompt: str
    """The user message of the subtask; empty if the subtask was not called."""
    output: str
    """The answer of the subtask."""
    feedback: str
    """The scorer's feedback, or why the answer was unusable."""
    tokens: int
    """Output tokens of the subtask."""
    error: str | None
    """Why there is no reward; None if there is one."""
    is_called: bool = True
    """Whether the subtask was called; it is not if a subtask before it has no value."""
    unparsed: Mapping[str, str] = field(default_factory=dict)
    """Subtask -> the reason why none of its responses was parsable."""


class Rewards:
    """Samples and caches rewards for one subtask's system prompts.

    Args:
        evaluator: Runs examples of the task.
        candidate: The models and system prompts of the other subtasks.
        subtask: Name of the subtask.
        examples: The examples whose user prompts are used.
        on_reward: Called with each new reward.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        candidate: Candidate,
        subtask: str,
        examples: Sequence[Example],
        on_reward: Callable[[Reward], None] = lambda _: None,
    ) -> None:
        self.examples, self.subtask, self.candidate = tuple(examples), subtask, candidate
        self._evaluator, self._on_reward = evaluator, on_reward
        self._resampled = resampled_subtasks(evaluator.task, subtask)
        self._known: dict[str, dict[Cell, Reward]] = {}  # by system prompt

    async def sample(self, cells: Iterable[Cell]) -> None:
        """Sample the cells that are not cached yet, concurrently.

        A call that failed permanently gives a `Reward` without a value.

        Args:
            cells: The cells; known ones are skipped.

        Raises:
            BudgetExceeded: A cap is reached. Rewards that were sampled before are kept.
        """
        missing = sorted({cell for cell in cells if cell not in self._known.get(cell.system_prompt, {})})
        outcomes = await asyncio.gather(*(self._sample(cell) for cell in missing), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _sample(self, cell: Cell) -> None:
        answers: dict[str, SubtaskAnswer] = {}
        result = await self._evaluator.run_example(
            self.candidate.having(self.subtask, system_prompt=cell.system_prompt),
            self.examples[cell.example],
            Draw(self._evaluator.seed, cell.repeat, self._resampled),
            on_answer=lambda answered: answers.update({answered.subtask: answered}),
        )
        reward = _reward(result, answers.get(self.subtask))
        self._known.setdefault(cell.system_prompt, {})[cell] = reward
        self._on_reward(reward)

    def table(self, system_prompts: Sequence[str], examples: Sequence[int]) -> Floats:
        """The rewards as an array of shape (system prompts, examples, repeats), NaN if unknown.

        Args:
            system_prompts: The system prompts, in the order of axis 0.
            examples: Positions of the examples, in the order of axis 1.
        """
        known = [(n, cell, r) for n, p in enumerate(system_prompts) for cell, r in self._known.get(p, {}).items()]
        position = {example: k for k, example in enumerate(examples)}
        repeats = 1 + max((cell.repeat for _, cell, _ in known), default=0)
        found = np.full((len(system_prompts), len(position), repeats), np.nan)
        for n, cell, reward in known:
            if cell.example in position and reward.reward is not None:
                found[n, position[cell.example], cell.repeat] = reward.reward
        return found

    def of(self, system_prompt: str, examples: Sequence[int]) -> dict[Cell, Reward]:
        """The known rewards of one system prompt on these examples, in the order of examples and repeats."""
        wanted, mine = set(examples), self._known.get(system_prompt, {})
        return {cell: mine[cell] for cell in sorted(mine, key=_in_order) if cell.example in wanted}

    def mean_tokens(self, system_prompt: str, examples: Sequence[int]) -> float:
        """Mean output tokens of a system prompt on these examples; 0 without a response."""
        lengths = [reward.tokens for reward in self.of(system_prompt, examples).values() if reward.error is None]
        return sum(lengths) / len(lengths) if lengths else 0.0

    def user_prompt(self, example: int) -> str:
        """The user message of an example; empty if the subtask was never called on it."""
        rewards = (reward for mine in self._known.values() for cell, reward in mine.items() if cell.example == example)
        return next((reward.user_prompt for reward in rewards if reward.user_prompt), "")

    @property
    def responses(self) -> int:
        """Number of rewards for which the subtask was called."""
        return sum(reward.is_called and reward.reward is not None for _, reward in self._all())

    def without_verdict(self) -> str | None:
        """Why these rewards say nothing of the subtask's system prompts; None if they do.

        It was never called, or it or a subtask before it has no parsable response for more than half of the examples.
        """
        scored = [(cell.example, reward) for cell, reward in self._all() if reward.reward is not None]
        examples = {example for example, _ in scored}
        for subtask in self._evaluator.task.subtasks:
            parsed = {example for example, reward in scored if subtask.name not in reward.unparsed}
            unparsed = len(examples) - len(parsed)
            if unparsed > UNUSABLE_SHARE * len(examples):
                reason = next(r.unparsed[subtask.name] for example, r in scored if example not in parsed)
                of = f"{unparsed} of {counted(len(examples), 'example')}"
                return (
                    f"{subtask.name}: no response could be parsed for {of}, such as: "
                    f"{reason.removeprefix(f'{subtask.name}: ')}"
                )
        return None if self.responses else f"{self.subtask} was called on none of {counted(len(examples), 'example')}"

    def _all(self) -> Iterator[tuple[Cell, Reward]]:
        return (known for mine in self._known.values() for known in mine.items())


def _in_order(cell: Cell) -> tuple[int, int]:
    return cell.example, cell.repeat


def resampled_subtasks(task: Task, subtask: str) -> frozenset[str]:
    """The subtask and those that depend on it, directly or indirectly."""
    affected = {subtask}
    for later in task.subtasks:  # in topological order
        if affected & set(later.reads):
            affected.add(later.name)
    return frozenset(affected)


def _reward(result: ExampleResult, answered: SubtaskAnswer | None) -> Reward:
    use = result.subtasks
    if answered is None:
        return Reward(result.score, "", result.output, result.feedback, 0, result.error, False, result.unparsed)
    answer = answered.answer
    value = "" if answer.value is None else str(answer.value)
    tokens = answer.use.completion_tokens if use else 0
    note = answer.note or result.feedback
    return Reward(result.score, answered.user_message, value, note, tokens, result.error, unparsed=result.unparsed)
