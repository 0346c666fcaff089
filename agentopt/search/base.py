"""The search space, and the interfaces of a search: `Strategy`, `Runner` and `Search`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import prod
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from agentopt.core.axes import CASCADE, DEMOS, OFF, STOP, Axis, SettingValue, as_pairs
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import CostMeasure, SubtaskCost, critical_path
from agentopt.core.demos import Demo
from agentopt.core.events import Event
from agentopt.core.records import Trial
from agentopt.core.task_rules import unknown_subtask
from agentopt.search.belief import Belief

ESCALATED = 0.5
"""Share of the examples that a cascade is taken to escalate before it was tried."""

BYTES_PER_TOKEN = 4.0
"""Bytes of a prompt that count as one token, where its length was not measured."""

NO_SETTINGS: Mapping[str, SettingValue] = MappingProxyType({})


@dataclass(frozen=True)
class SubtaskSpace:
    """What may vary in one subtask."""

    name: str
    """Name of the subtask."""
    models: tuple[str, ...]
    """Catalogue names; the first one is the baseline's."""
    num_samples: tuple[int, ...]
    """Allowed sample counts, ascending."""
    system_prompt: str
    """The seed prompt, which every candidate of the space uses."""
    cost: SubtaskCost
    """Cost of a choice in the measure of the space."""
    description: str = ""
    """Description of the subtask that is shown to the search agent."""
    reads: tuple[str, ...] = ()
    """The subtasks that it waits for; a cost in seconds is that of the critical path."""
    settings: tuple[Axis, ...] = ()
    """Further choices. A choice has the settings that differ from the first value of their axis."""
    lacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> the settings that do not apply to it; a choice of that model has none of them."""
    big: str = ""
    """The model that a cascade escalates to, if there is one."""
    stops: bool = False
    """Whether its votes may stop before all samples are drawn."""
    demos: tuple[Demo, ...] = ()
    """The demonstrations; a choice has the first ones. None before they are bootstrapped."""
    belief: Belief | None = None
    """What an agent expected of it before any trial."""

    def units(self, choice: SubtaskChoice) -> float:
        """Cost of a choice in the measure of the space."""
        return self.cost_of(self.cost.measure, choice)

    def cost_of(self, measure: CostMeasure, choice: SubtaskChoice) -> float:
        """Cost of a choice in some measure; a cascade that was not tried is taken to escalate half of the examples."""
        seen = self.cost.seen.get((choice.model, choice.num_samples, choice.settings), {})
        if measure in seen:
            return seen[measure]
        longer = self.demo_tokens(choice)
        own = self.cost.of(measure, choice.model, choice.num_samples, choice.settings, longer)
        escalates = any(name == CASCADE for name, _ in choice.settings)
        return own + (ESCALATED * self.cost.of(measure, self.big, 1, (), longer) if escalates else 0.0)

    def demo_tokens(self, choice: SubtaskChoice) -> float:
        """Estimated tokens of the demonstrations of a choice; of nominal length before they are bootstrapped."""
        if choice.demos:
            return sum(len((d.prompt + d.response).encode()) for d in choice.demos) / BYTES_PER_TOKEN
        count = float(dict(choice.settings).get(DEMOS, 0))
        return count * (self.cost.prompt_tokens + self.cost.completion_tokens)

    def axes(self, model: str, num_samples: int) -> tuple[Axis, ...]:
        """The axes of the settings that make a difference to a model and a sample count.

        A vote of one sample is decided, and its agreement is the same at every threshold of a cascade.

        Args:
            model: Catalogue name.
            num_samples: Number of samples.
        """
        axes = tuple(axis for axis in self.settings if axis.name not in self.lacks.get(model, ()))
        return axes if num_samples > 1 else tuple(map(self._of_one, (axis for axis in axes if axis.name != STOP)))

    def _of_one(self, axis: Axis) -> Axis:
        kept = (OFF, self._first_threshold)
        return replace(axis, values=tuple(v for v in axis.values if v in kept)) if axis.name == CASCADE else axis

    @cached_property
    def _first_threshold(self) -> SettingValue:
        values = (value for axis in self.settings if axis.name == CASCADE for value in axis.values)
        return next((value for value in values if value != OFF), OFF)

    def choice(self, model: str, num_samples: int, settings: Mapping[str, SettingValue] = NO_SETTINGS) -> SubtaskChoice:
        """The choice with the seed prompt.

        Args:
            model: Catalogue name.
            num_samples: Number of samples.
            settings: Values by the name of their axis; those that are the first of their axis, or that make no
                difference, are left out of the choice.
        """
        wanted = dict(settings)
        if num_samples == 1 and wanted.get(CASCADE, OFF) != OFF:
            wanted[CASCADE] = self._first_threshold
        axes = self.axes(model, num_samples)
        varied = {axis.name: wanted[axis.name] for axis in axes if wanted.get(axis.name) in axis.values[1:]}
        shown = self.demos[: int(varied.get(DEMOS, 0))]
        return SubtaskChoice(model, num_samples, self.system_prompt, as_pairs(varied), shown)

    def choices(self) -> Iterator[SubtaskChoice]:
        """Yield every choice with the seed prompt, in lexicographic order."""
        for model, count in product(self.models, self.num_samples):
            axes = self.axes(model, count)
            for values in product(*(axis.values for axis in axes)):
                yield self.choice(model, count, {axis.name: value for axis, value in zip(axes, values, strict=True)})

    def choice_at(self, place: int) -> SubtaskChoice:
        """The choice at a place in the order of `choices`."""
        for model, count in product(self.models, self.num_samples):
            axes, size = self.axes(model, count), self._size_of(model, count)
            if place < size:
                named = {}
                for axis in reversed(axes):
                    place, index = divmod(place, len(axis.values))
                    named[axis.name] = axis.values[index]
                return self.choice(model, count, named)
            place -= size
        raise IndexError(place)

    def allows(self, choice: SubtaskChoice) -> bool:
        """Whether the choice is one of `choices`, whatever its system prompt."""
        if choice.model not in self.models or choice.num_samples not in self.num_samples:
            return False
        axes = self._varied[choice.model, choice.num_samples > 1]
        return all(value in axes.get(name, ()) for name, value in choice.settings) and (
            not self.demos or len(choice.demos) == dict(choice.settings).get(DEMOS, 0)
        )

    @cached_property
    def _varied(self) -> Mapping[tuple[str, bool], Mapping[str, tuple[SettingValue, ...]]]:
        """The values of each setting but the first, by the model and whether there are several samples."""
        both = product(self.models, (False, True))
        return {(m, several): {a.name: a.values[1:] for a in self.axes(m, 1 + several)} for m, several in both}

    def _size_of(self, model: str, num_samples: int) -> int:
        return prod(len(axis.values) for axis in self.axes(model, num_samples))

    @cached_property
    def size(self) -> int:
        """Number of choices."""
        return sum(self._size_of(model, count) for model, count in product(self.models, self.num_samples))

    @property
    def largest_model(self) -> str:
        """The dearest model for one pass; with costs in units the one with the most parameters."""
        return max(self.models, key=lambda model: self.cost.units(model, 1))

    def with_demos(self, demos: tuple[Demo, ...]) -> SubtaskSpace:
        """The same space with these demonstrations, and without the numbers of them above theirs."""
        enough = (
            replace(a, values=tuple(v for v in a.values if int(v) <= len(demos))) if a.name == DEMOS else a
            for a in self.settings
        )
        settings = tuple(axis for axis in enough if axis.name != DEMOS or len(axis.values) > 1)
        return replace(self, settings=settings, demos=demos)

    def nearest_num_samples(self, wanted: float) -> int:
        """The greatest allowed sample count not above `wanted`, or the smallest one."""
        return max((n for n in self.num_samples if n <= wanted), default=self.num_samples[0])


@dataclass(frozen=True)
class SearchSpace:
    """What may vary in a task, and the cost limits of its candidates."""

    subtasks: tuple[SubtaskSpace, ...]
    """One space per subtask, in the order of the task."""
    max_units: float | None = None
    """Most units that a candidate may cost per example; None for no limit."""
    measure: CostMeasure = "units"
    """The measure of the costs, in which candidates are compared."""
    max_usd: float | None = None
    """Most USD that a candidate may cost per example."""
    max_seconds: float | None = None
    """Longest mean latency of a candidate per example."""

    def __getitem__(self, name: str) -> SubtaskSpace:
        for subtask in self.subtasks:
            if subtask.name == name:
                return subtask
        raise unknown_subtask(name, [s.name for s in self.subtasks])

    @property
    def size(self) -> int:
        """Number of candidates with the seed prompts, including those above the cost limit."""
        return prod(s.size for s in self.subtasks)

    @property
    def baseline(self) -> Candidate:
        """The candidate with one sample of every subtask's first model, and the seed prompts."""
        return self.candidate({s.name: (s.models[0], s.num_samples[0]) for s in self.subtasks})

    def candidate(self, allocation: Mapping[str, tuple[str, int] | tuple[str, int, Mapping[str, Any]]]) -> Candidate:
        """The candidate with these choices and the seed prompts.

        Args:
            allocation: The arguments of `SubtaskSpace.choice`, such as (model, num_samples), for each subtask's name.
        """
        return Candidate.of({s.name: s.choice(*allocation[s.name]) for s in self.subtasks})

    def with_prompts(self, candidate: Candidate) -> SearchSpace:
        """The same space with the candidate's system prompts as seed prompts."""
        subtasks = (replace(s, system_prompt=candidate[s.name].system_prompt) for s in self.subtasks)
        return replace(self, subtasks=tuple(subtasks))

    def with_demos(self, found: Mapping[str, Sequence[Demo]]) -> SearchSpace:
        """The same space with demonstrations, and without the numbers of them that there are not enough for.

        Args:
            found: Subtask -> its demonstrations.
        """
        return replace(self, subtasks=tuple(s.with_demos(tuple(found.get(s.name, ()))) for s in self.subtasks))

    def units(self, candidate: Candidate) -> float:
        """Cost of a candidate per example in the measure of the space."""
        return self.cost(candidate, self.measure)

    def cost(self, candidate: Candidate, measure: CostMeasure) -> float:
        """Cost of a candidate per example: summed over the subtasks, or in seconds, that of the critical path.

        Args:
            candidate: The candidate.
            measure: The measure.
        """
        choices = ((s, candidate[s.name]) for s in self.subtasks)
        return float(self.total(measure, [s.cost_of(measure, c) for s, c in choices]))

    def total(self, measure: CostMeasure, each: Sequence[Any], maximum: Callable[[Any, Any], Any] = max) -> Any:
        """The cost of the whole workflow.

        Args:
            measure: The measure.
            each: Cost of each subtask; numbers, or arrays with numpy's `maximum`.
            maximum: The larger of two costs.
        """
        if measure != "seconds":
            return sum(each)
        named = {s.name: cost for s, cost in zip(self.subtasks, each, strict=True)}
        return critical_path(named, {s.name: s.reads for s in self.subtasks}, maximum)

    @property
    def limits(self) -> list[tuple[CostMeasure, float]]:
        """The limits, each in its measure and with some room for rounding errors."""
        limits: list[tuple[CostMeasure, float]] = []
        if self.max_units is not None:
            limits.append(("units", self.max_units + 1e-9))
        if self.max_usd is not None:
            limits.append(("usd", self.max_usd * (1 + 1e-9)))
        if self.max_seconds is not None:
            limits.append(("seconds", self.max_seconds * (1 + 1e-9)))
        return limits

    def affords(self, candidate: Candidate) -> bool:
        """Whether the candidate's costs are within the limits."""
        return all(self.cost(candidate, measure) <= most for measure, most in self.limits)

    def contains(self, candidate: Candidate) -> bool:
        """Whether every choice is allowed and the candidate is within the cost limits."""
        return list(candidate) == [s.name for s in self.subtasks] and all(
            s.allows(candidate[s.name]) for s in self.subtasks
        ) and self.affords(candidate)  # fmt: skip

    def candidates(self) -> list[Candidate]:
        """All affordable candidates with seed prompts, in lexicographic order; at most `size`."""
        choices = [[(s.name, choice) for choice in s.choices()] for s in self.subtasks]
        within = []
        for measure, most in self.limits:
            # Each choice is priced once: pricing each candidate takes a hundred times as long.
            each = ([s.cost_of(measure, c) for _, c in of] for s, of in zip(self.subtasks, choices, strict=True))
            within.append([self.total(measure, costs) <= most for costs in product(*each)])
        return [Candidate(point) for i, point in enumerate(product(*choices)) if all(of[i] for of in within)]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to evaluate, and its origin."""

    candidate: Candidate
    """The candidate."""
    proposer: str
    """Name of the strategy that proposed it, such as `agent`, `fallback` or `random`."""
    note: str = ""
    """Why it was proposed, or how the reply was repaired, in a few words."""
    fallback: str = ""
    """Why the fallback strategy proposed it in place of the agent; empty for proposals of the agent itself."""
    completed_in_search: bool = False
    """Whether it is a trial that was stopped early and that the agent has completed."""


class Strategy(Protocol):
    """Proposes candidates from the history of trials.

    A strategy is a pure function of its arguments and its seed: the same space, trials and `k` give the same
    proposals, so a run is resumed by replaying it. Implementations keep no state between calls, and pass the
    checks of `agentopt.testing.strategies`.
    """

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        """Propose at most `k` candidates to evaluate next.

        Args:
            space: The search space. Every proposal must be in it, that is, allowed and within the cost limit.
            trials: All earlier trials, oldest first. Their scores are to be maximised; a pruned trial has the score of
                some examples only, and an incomplete one may have none. Candidates of earlier runs may lie outside
                `space`.
            k: Most proposals to return, at least 1.

        Returns:
            Distinct candidates that none of `trials` has; fewer than `k` only if no more affordable ones are untried.
            An empty list ends the search.
        """


class Runner(Protocol):
    """Evaluates proposals and keeps their trials. All side effects of a search go through it."""

    @property
    def trials(self) -> Sequence[Trial]:
        """All recorded trials, oldest first; number 0 is the baseline."""

    @property
    def trials_left(self) -> int:
        """Number of trials that the caps on trials and on time still allow; 0 ends the search."""

    async def run(self, proposal: Proposal) -> Trial:
        """Evaluate a proposal and record its trial.

        Args:
            proposal: The candidate to evaluate. A candidate that has a finished trial is not evaluated again.

        Returns:
            The new trial, or the recorded one of the same candidate.

        Raises:
            BudgetExceeded: A cap of the run is reached. The search should let it pass.
        """

    def emit(self, event: Event) -> None:
        """Pass `event` to the log and the observers."""


@runtime_checkable
class Ordering(Protocol):
    """A `Runner` that knows which proposals cost nothing."""

    async def in_order(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The proposals of a batch in the order in which they are run: those whose answers are at hand first."""


async def in_order(runner: Runner, proposals: Sequence[Proposal]) -> list[Proposal]:
    """The proposals of a batch in the order in which they are run, if the runner has one."""
    return await runner.in_order(proposals) if isinstance(runner, Ordering) else list(proposals)


class Search(Protocol):
    """Decides how the trials are spent: calls a model or a strategy for proposals, and the runner to evaluate them."""

    async def run(self, space: SearchSpace, runner: Runner) -> None:
        """Run proposals until `runner.trials_left` is 0 or nothing is left to try.

        Called again after an interruption, it continues from `runner.trials`.

        Args:
            space: The search space, with the system prompts of this search as seed prompts.
            runner: Evaluates the proposals and holds the history.

        Raises:
            BudgetExceeded: A cap of the run is reached, as raised by `runner.run`.
        """
