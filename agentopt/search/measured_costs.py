"""Costs by what the trials measured, in place of nominal token lengths. Pure functions of the space and the trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agentopt.core.axes import CASCADE, STOP
from agentopt.core.candidate import SubtaskChoice
from agentopt.core.cost import CostMeasure, Pass, SubtaskCost
from agentopt.core.records import Evaluation, SubtaskUse, Trial
from agentopt.search.base import BYTES_PER_TOKEN, SearchSpace, SubtaskSpace


def with_measured_costs(space: SearchSpace, trials: Sequence[Trial]) -> SearchSpace:
    """The same space, with the costs in USD and seconds that the trials measured for each subtask and model.

    Costs in units stay nominal, as in AgentTTS. A model that no trial has used keeps its nominal cost in USD, and its
    latency is not known.

    Args:
        space: The search space.
        trials: All trials so far; pruned and incomplete ones count with the examples that they have.
    """
    if space.measure == "units" and space.max_usd is None and space.max_seconds is None:
        return space
    subtasks = (replace(s, cost=_measured(s, trials)) for s in space.subtasks)
    return replace(space, subtasks=tuple(subtasks))


def measured_cost(space: SearchSpace, evaluation: Evaluation, measure: CostMeasure) -> float | None:
    """What an evaluated candidate cost per scored example in USD or seconds; None if that was not measured.

    Args:
        space: The search space.
        evaluation: The candidate's evaluation.
        measure: The measure; units are nominal, so they are never measured.
    """
    if measure == "usd" and all(s.cost.prices is not None for s in space.subtasks) and evaluation.scores:
        return evaluation.usd_per_example
    if measure == "seconds" and (latencies := evaluation.latencies):
        return sum(latencies) / len(latencies)
    return None


def within_limits(space: SearchSpace, trial: Trial) -> bool:
    """Whether the costs of a trial's candidate are within the limits of the space."""
    for measure, most in space.limits:
        measured = measured_cost(space, trial.evaluation, measure)
        if measured is None:  # a trial of an earlier run may use a model that the space no longer has
            measured = trial.units if measure == space.measure else space.cost(trial.candidate, measure)
        if measured > most:
            return False
    return True


@dataclass
class _Sums:
    """Sums over the examples of trials with one model, for one subtask."""

    examples: int = 0
    samples: int = 0
    prompt: float = 0.0
    cached: float = 0.0
    completion: float = 0.0
    reasoning: float = 0.0
    fused: int = 0
    fusion_usd: float = 0.0
    seconds: dict[int, list[float]] = field(default_factory=dict)

    def add(self, uses: Sequence[SubtaskUse], num_samples: int, longer: float, *, stops: bool = False) -> None:
        """Count the examples of a trial; its prompts are taken to be `longer` by so many tokens.

        If votes may stop early, the samples that were drawn count.
        """
        self.examples += len(uses)
        self.samples += sum(use.responses for use in uses) if stops else len(uses) * num_samples
        self.prompt += sum(use.prompt_tokens for use in uses) + longer * sum(use.responses > 0 for use in uses)
        self.cached += sum(use.cached_tokens for use in uses)
        self.completion += sum(use.completion_tokens for use in uses)
        self.reasoning += sum(use.reasoning_tokens for use in uses)
        if num_samples > 1:
            self.fused += len(uses) * num_samples
            self.fusion_usd += sum(use.fusion_usd for use in uses)
        self.seconds.setdefault(num_samples, []).extend(use.seconds for use in uses if use.seconds)

    def means(self) -> Pass:
        """The means of one example and of one sample."""
        seconds = ((count, sum(found) / len(found)) for count, found in self.seconds.items() if found)
        return Pass(
            max(self.prompt / self.examples, 0.0),
            self.completion / self.samples,
            self.cached / self.examples,
            self.reasoning / self.samples,
            self.fusion_usd / max(self.fused, 1),
            tuple(sorted(seconds)),
        )


def _measured(subtask: SubtaskSpace, trials: Sequence[Trial]) -> SubtaskCost:
    """The cost with what each model took: by the trials with the seed prompt, or else with the difference in length."""
    by_model: dict[str, list[_Measured]] = {}
    for trial in trials:
        choice = dict(trial.candidate.choices).get(subtask.name)
        if choice and (uses := _uses(trial, subtask.name)):
            by_model.setdefault(choice.model, []).append((choice, uses))
    passes, varied, seen = _with_prompt_of(subtask, trials), {}, {}
    for model, measured in by_model.items():
        same = [(choice, uses) for choice, uses in measured if choice.system_prompt == subtask.system_prompt]
        if one := _pass(subtask, same or measured):
            passes[model] = one
        for settings in dict.fromkeys(choice.settings for choice, _ in same if subtask.settings):
            alike = [(choice, uses) for choice, uses in same if choice.settings == settings]
            if one := _pass(subtask, alike, of_settings=True):
                varied[model, settings] = one
        for choice, uses in same:
            if subtask.stops or {STOP, CASCADE} & dict(choice.settings).keys():
                seen[model, choice.num_samples, choice.settings] = _seen(subtask, uses)
    return replace(subtask.cost, passes=passes, varied=varied, seen=seen)


_Measured = tuple[SubtaskChoice, list[SubtaskUse]]
"""A choice, and its use on each example of a trial."""


def _pass(subtask: SubtaskSpace, measured: Sequence[_Measured], *, of_settings: bool = False) -> Pass | None:
    """The means over all examples but those that a cascade escalated, whose use is that of two models.

    Demonstrations count only if the means are those of choices with equal settings.
    """
    sums = _Sums()
    for choice, uses in measured:
        own = [use for use in uses if not use.escalated]
        longer = _longer(subtask, choice) - (0.0 if of_settings else subtask.demo_tokens(choice))
        sums.add(own, choice.num_samples, longer, stops=subtask.stops)
    return sums.means() if sums.completion else None


def _seen(subtask: SubtaskSpace, uses: Sequence[SubtaskUse]) -> dict[CostMeasure, float]:
    """Mean cost of one choice, whatever it drew."""
    known = [use.seconds for use in uses if use.seconds]
    found: dict[CostMeasure, float] = {"seconds": sum(known) / len(known)} if known else {}
    if subtask.cost.prices is not None:
        found["usd"] = sum(use.usd + use.fusion_usd for use in uses) / len(uses)
    return found


def _uses(trial: Trial, subtask: str) -> list[SubtaskUse]:
    """The use of the subtask on every scored example, nothing on those that did not call it; none if none called it."""
    scored = [r.subtasks.get(subtask, _NOTHING) for r in trial.evaluation.results if r.score is not None]
    return scored if any(use.completion_tokens for use in scored) else []


_NOTHING = SubtaskUse()


def _with_prompt_of(subtask: SubtaskSpace, trials: Sequence[Trial]) -> dict[str, Pass]:
    """The nominal tokens with the seed prompt of the space, if it differs from that of the task, which trial 0 has."""
    first = dict(trials[0].candidate.choices).get(subtask.name) if trials else None
    longer = _longer(subtask, first) if first else 0.0
    cost = subtask.cost
    nominal = Pass(max(cost.prompt_tokens + longer, 1.0), cost.completion_tokens)
    return dict.fromkeys(subtask.models, nominal) if longer else {}


def _longer(subtask: SubtaskSpace, choice: SubtaskChoice) -> float:
    """Tokens that the seed prompt of the space has more than the prompt of a choice."""
    lengths = (len(text.encode(errors="replace")) for text in (subtask.system_prompt, choice.system_prompt))
    return (next(lengths) - next(lengths)) / BYTES_PER_TOKEN
