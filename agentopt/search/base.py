"""The search space and the seam to a strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Protocol

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import SubtaskCost
from agentopt.core.records import Trial


@dataclass(frozen=True)
class SubtaskSpace:
    """What may vary in one subtask: models (the first is the baseline's), sample counts (ascending), the prompt.

    `cost` prices a choice in units. `description` is what the agent is told about the subtask.
    """

    name: str
    models: tuple[str, ...]
    num_samples: tuple[int, ...]
    system_prompt: str
    cost: SubtaskCost
    description: str = ""

    @property
    def largest_model(self) -> str:
        return max(self.models, key=lambda model: self.cost.parameters[model])

    def nearest_num_samples(self, wanted: float) -> int:
        """The greatest allowed sample count not above `wanted`, or the smallest one."""
        return max((n for n in self.num_samples if n <= wanted), default=self.num_samples[0])


@dataclass(frozen=True)
class SearchSpace:
    """Everything that may vary, and the most units that a candidate may cost per example (None: no limit)."""

    subtasks: tuple[SubtaskSpace, ...]
    max_units: float | None = None

    def __getitem__(self, name: str) -> SubtaskSpace:
        return next(s for s in self.subtasks if s.name == name)

    @property
    def size(self) -> int:
        """Number of allocations, the ones above the cost limit included."""
        return prod(len(s.models) * len(s.num_samples) for s in self.subtasks)

    @property
    def baseline(self) -> Candidate:
        """Every subtask's first model once, with its seed prompt."""
        return self.candidate({s.name: (s.models[0], s.num_samples[0]) for s in self.subtasks})

    def candidate(self, allocation: Mapping[str, tuple[str, int]]) -> Candidate:
        """The candidate with these (model, num_samples) and every subtask's seed prompt."""
        return Candidate.of({s.name: SubtaskChoice(*allocation[s.name], s.system_prompt) for s in self.subtasks})

    def with_prompts(self, candidate: Candidate) -> SearchSpace:
        """The same space with the candidate's system prompts instead of the seed prompts."""
        subtasks = (replace(s, system_prompt=candidate[s.name].system_prompt) for s in self.subtasks)
        return replace(self, subtasks=tuple(subtasks))

    def units(self, candidate: Candidate) -> float:
        """Cost per example in units: the sum over the subtasks."""
        return sum(s.cost.units(candidate[s.name].model, candidate[s.name].num_samples) for s in self.subtasks)

    def affords(self, candidate: Candidate) -> bool:
        return self.max_units is None or self.units(candidate) <= self.max_units + 1e-9

    def contains(self, candidate: Candidate) -> bool:
        """Whether every choice is allowed and the whole is within the cost limit."""
        return list(candidate) == [s.name for s in self.subtasks] and all(
            candidate[s.name].model in s.models and candidate[s.name].num_samples in s.num_samples
            for s in self.subtasks
        ) and self.affords(candidate)  # fmt: skip

    def candidates(self) -> list[Candidate]:
        """Every affordable candidate with seed prompts, in a fixed order. Its length is at most `size`."""
        axes = [[(m, n) for m in s.models for n in s.num_samples] for s in self.subtasks]
        names = [s.name for s in self.subtasks]
        every = (self.candidate(dict(zip(names, point, strict=True))) for point in product(*axes))
        return [candidate for candidate in every if self.affords(candidate)]


BASELINE, ARCHIVE, PROMPTS = "baseline", "archive", "prompts before"
"""The proposers of the trials that a search begins with: trial 0, what earlier runs found, and better prompts."""

INITIAL = "initial"
"""The proposer of the agent's first trials."""

PROMPTS_AFTER = "prompts after"
"""The proposer of better prompts for what the search found."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to try, who asked for it, and why in a few words."""

    candidate: Candidate
    proposer: str
    note: str = ""


class Strategy(Protocol):
    """A pure function of the history: the same space, trials and k give the same proposals, so resume is replay.

    Returns at most `k` proposals, all in the space, none tried before and no two alike; an empty list says that
    nothing is left to try.
    """

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]: ...


class Runner(Protocol):
    """What a search may do to the world: run a proposal, and say what happened."""

    @property
    def trials(self) -> Sequence[Trial]:
        """Every recorded trial, oldest first; number 0 is the baseline."""

    @property
    def trials_left(self) -> int:
        """How many more trials the caps on trials and on time allow; 0 ends the search."""

    async def run(self, proposal: Proposal) -> Trial:
        """Evaluate and record, or return the recorded trial of a candidate that was tried before.

        Raises `BudgetExceeded` when a cap of the whole run is reached; the search then ends.
        """

    def say(self, event: str, message: str) -> None:
        """Tell the log and the live view: `event` is a short fixed word (such as fall_back)."""


class Search(Protocol):
    """A way of spending the trials: runs proposals until `runner.trials_left` is 0 or nothing is left to try."""

    async def run(self, space: SearchSpace, runner: Runner) -> None: ...
