"""What a finished run would choose under other limits, prices or models: from its trials alone, without a call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

from agentopt.core.axes import escalating
from agentopt.core.called_models import called_models
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.message_text import in_words
from agentopt.core.records import ExampleResult, SubtaskUse, Trial
from agentopt.core.stopping import bounded
from agentopt.core.task import Subtask, Task
from agentopt.core.ties import is_higher
from agentopt.core.yaml_models import Strict, did_you_mean, validate
from agentopt.core.yaml_text import load_yaml
from agentopt.models.catalog import ModelSpec
from agentopt.models.prices import FreeOrPriced, Usd
from agentopt.models.request_fitting import requests_for
from agentopt.runs.demonstrations import demonstrations_of
from agentopt.runs.folder import RunFolder
from agentopt.runs.promising_candidates import promising, rows_to_call
from agentopt.runs.trial_store import recorded_trials
from agentopt.search.base import SearchSpace
from agentopt.search.from_task import search_space
from agentopt.search.measured_costs import measured_cost, with_measured_costs, within_limits
from agentopt.search.posterior import Choice, choose

SUGGESTIONS = 3
"""Untried candidates that are suggested."""
MOST_COUNTED = 20_000
"""Largest space whose untried candidates are counted."""


class NewPrice(FreeOrPriced):
    """The prices of one model, as in its catalogue entry; those that are not given stay."""

    usd_per_1m_prompt: Usd | None = None
    usd_per_1m_completion: Usd | None = None
    usd_per_1m_cached_prompt: Usd | None = None
    usd_per_1m_reasoning: Usd | None = None
    usd_per_request: Usd | None = None
    price: Literal["free"] | None = None


class _PriceFile(Strict):
    models: dict[str, NewPrice]


@dataclass(frozen=True, slots=True)
class Question:
    """What is different from the run.

    Attributes:
        max_usd: Most USD of an example; the task's limit unless given.
        max_seconds: Longest mean latency of an example; the task's limit unless given.
        min_score: Least posterior mean score: the cheapest candidate that has it is chosen. Default: within
            `search.tolerance` of the best one.
        prices: Catalogue name -> its new prices.
        models: The models that may be used; None for all.
    """

    max_usd: float | None = None
    max_seconds: float | None = None
    min_score: float | None = None
    prices: Mapping[str, NewPrice] | None = None
    models: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate, and what is known of it.

    Attributes:
        candidate: The candidate.
        trial: Number of its trial; None if it was not tried.
        score: Posterior mean score on the validation split; None if it was not tried.
        cost: Cost of an example in the measure of the answer, measured or predicted.
        usd: USD of an example; None if a price is not known.
        seconds: Mean latency of an example; None if it is not known.
        is_allowed: Whether it has the models and is within the limits.
        to_call: Validation rows of which the journal lacks a response, for those of `WhatIf.promising`; None for
            others.
    """

    candidate: Candidate
    trial: int | None
    score: float | None
    cost: float
    usd: float | None
    seconds: float | None
    is_allowed: bool
    to_call: int | None = None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The answer to a `Question`.

    Attributes:
        cost_in: Measure of the costs: usd, seconds or units.
        chosen: The candidate to use; None if no trial qualifies.
        best: The allowed one with the highest score; None if none is allowed.
        before: The one that the run recommends, at the new prices.
        front: The allowed ones on the Pareto front of score and cost, cheapest first.
        untried: Number of candidates within the limits that have no complete trial; None in a very large space.
        promising: Those of them that are most worth measuring: trials that were stopped early, cheaper than `chosen`
            that may be good enough, then others with their predicted costs, by the posterior of their scores.
        rows: Examples of the validation split, which measuring one takes; those of which the journal has every
            response cost nothing.
        nearest: If no trial is allowed, the complete one with the allowed models that is nearest to the limits: the
            fastest if the question limits the latency alone, otherwise the cheapest. None if there is none.
        unpriced: Numbers of trials that have no cost at the new prices: their cascades escalated, and the run, of an
            earlier version, has the tokens of both models as one sum.
    """

    cost_in: str
    chosen: Option | None
    best: Option | None
    before: Option
    front: tuple[Option, ...]
    untried: int | None
    promising: tuple[Option, ...]
    rows: int
    nearest: Option | None = None
    unpriced: tuple[int, ...] = ()


def read_prices(path: Path, known: Mapping[str, ModelSpec]) -> dict[str, NewPrice]:
    """Read a file of prices: `models`, then for each name the price keys of a catalogue entry.

    Args:
        path: The file.
        known: The models of the run, by catalogue name.

    Raises:
        ConfigError: A mistake in the file, or a model that the run does not have.
    """
    prices = validate(_PriceFile, load_yaml(path, ConfigError), path, ConfigError).models
    for name in prices:
        if name not in known:
            raise ConfigError(
                f"the run has no model {name!r}", where=f"{path}: models", remedy=did_you_mean(name, known)
            )
    return prices


def what_if(run: RunFolder, task: Task, specs: Mapping[str, ModelSpec], question: Question) -> WhatIf:
    """Choose among the trials of a run as it would have under other limits, prices or models. Nothing is called.

    Args:
        run: The run.
        task: Its task.
        specs: Catalogue entries of its models, by name.
        question: What is different.

    Raises:
        UserError: The run has no complete trial, its task has changed since, or a subtask is left without a model.
    """
    recorded = recorded_trials(run, task, specs)
    if not recorded:
        raise ConfigError("the run has no trials", where=run.path, remedy=f"resume it: {run.resuming}")
    scores = [score for trial in recorded for score in trial.evaluation.scores.values()]
    if question.min_score is not None and question.min_score > 1 and bounded(scores):
        raise UserError(
            f"the least score must be at most 1, which no score of the run is above, but got {question.min_score:g}",
            remedy="write --min-score 0.8",
        )
    tolerance, first = run.config.search.tolerance, recorded[0].evaluation
    before = choose(search_space(task, specs, first), recorded, tolerance=tolerance)
    if before is None:
        raise ConfigError("the run has no complete trial", where=run.path, remedy=f"resume it: {run.resuming}")
    priced = {name: _repriced(spec, (question.prices or {}).get(name)) for name, spec in specs.items()}
    limited = replace(
        task,
        max_usd=task.max_usd if question.max_usd is None else question.max_usd,
        max_seconds=task.max_seconds if question.max_seconds is None else question.max_seconds,
    )
    space = search_space(limited, priced, first).with_demos(demonstrations_of(run))
    changed = frozenset(question.prices or ())
    trials = [_with_prices(trial, task, priced, space, changed) for trial in recorded]
    unpriced = frozenset(trial.number for trial in recorded if _is_unpriced(trial, task, changed))
    archive = _Archive(space, trials, unpriced, task, question, tolerance, run.config.seed)
    found = archive.answer(before.recommended.number)
    to_call = rows_to_call(run, task, priced, [option.candidate for option in found.promising])
    priced_options = zip(found.promising, to_call, strict=True)
    return replace(found, promising=tuple(replace(option, to_call=rows) for option, rows in priced_options))


@dataclass(frozen=True)
class _Archive:
    """The trials of a run, at the prices of a question."""

    space: SearchSpace
    trials: Sequence[Trial]
    unpriced: frozenset[int]
    task: Task
    question: Question
    tolerance: float
    seed: int

    def answer(self, before: int) -> WhatIf:
        """The answer; `before` is the number of the trial that the run recommends."""
        # A trial that cannot be chosen informs the scores all the same.
        usable = [trial if self._is_usable(trial) else _not_complete(trial) for trial in self.trials]
        choice = choose(self.space, usable, tolerance=self.tolerance)
        shrunk = choice.shrunk if choice else {}
        options = {t.number: self._option(t, shrunk) for t in self.trials if t.state == "complete"}
        allowed = {number: option for number, option in options.items() if option.is_allowed}
        chosen, best = self._chosen(choice, allowed), allowed.get(choice.best.number) if choice else None
        pruned = [self._option(t, shrunk) for t in self.trials if t.state == "pruned"]
        return WhatIf(
            self.space.measure,
            chosen,
            best,
            options[before],
            tuple(allowed[number] for number in choice.pareto if number in allowed) if choice else (),
            self._untried(),
            (*self._worth_completing(pruned, chosen, best), *self._promising(chosen, best)),
            len(self.task.splits["validation"]),
            None if best else self._nearest(options),
            tuple(sorted(self.unpriced)),
        )

    def _nearest(self, options: Mapping[int, Option]) -> Option | None:
        usable = [options[trial.number] for trial in self.trials if trial.number in options and self._is_usable(trial)]
        by_seconds = self.question.max_seconds is not None and self.question.max_usd is None
        return min(
            usable, key=lambda o: (math.inf if o.seconds is None else o.seconds) if by_seconds else o.cost, default=None
        )

    def _chosen(self, choice: Choice | None, allowed: Mapping[int, Option]) -> Option | None:
        least = self.question.min_score
        if least is None:
            return allowed.get(choice.recommended.number) if choice else None
        good = [o for o in allowed.values() if o.score is not None and not is_higher(least, o.score)]
        return min(good, key=lambda option: (option.cost, -(option.score or 0.0), option.trial), default=None)

    def _worth_completing(
        self, pruned: Sequence[Option], chosen: Option | None, best: Option | None
    ) -> tuple[Option, ...]:
        least = self._least(best)
        good = (o for o in pruned if o.is_allowed and o.score is not None and not is_higher(least, o.score))
        return tuple(sorted((o for o in good if not chosen or o.cost < chosen.cost), key=lambda o: o.cost))

    def _option(self, trial: Trial, shrunk: Mapping[int, float]) -> Option:
        usd = measured_cost(self.space, trial.evaluation, "usd")
        seconds = measured_cost(self.space, trial.evaluation, "seconds")
        is_known = seconds is not None or self.space.max_seconds is None
        within = is_known and within_limits(with_measured_costs(self.space, self.trials), trial)
        score = shrunk.get(trial.number)
        return Option(
            trial.candidate, trial.number, score, trial.units, usd, seconds, self._is_usable(trial) and within
        )

    def _is_usable(self, trial: Trial) -> bool:
        return self._has_models(trial.candidate) and trial.number not in self.unpriced

    def _has_models(self, candidate: Candidate) -> bool:
        names = self.question.models
        return names is None or set(called_models(self.task, candidate)) <= {*names}

    @cached_property
    def _allowed(self) -> SearchSpace:
        """The space with the allowed models, and the costs that the trials measured."""
        names, measured = self.question.models, with_measured_costs(self.space, self.trials)
        subtasks = []
        for of_space, subtask in zip(measured.subtasks, self.task.subtasks, strict=True):
            models = tuple(model for model in of_space.models if names is None or model in names)
            if not models:
                raise UserError(
                    f"subtask {subtask.name} may use {in_words(of_space.models)}, none of which is in --models",
                    remedy=f"add one of them: --models {','.join((*(names or ()), of_space.models[0]))}",
                )
            subtasks.append(replace(of_space, models=models))
        return replace(measured, subtasks=tuple(subtasks))

    def _untried(self) -> int | None:
        if self._allowed.size > MOST_COUNTED:
            return None
        complete = {trial.candidate for trial in self.trials if trial.state == "complete"}
        return len([one for one in self._allowed.candidates() if one not in complete and self._has_models(one)])

    def _least(self, best: Option | None) -> float:
        """The score that is good enough."""
        if self.question.min_score is not None:
            return self.question.min_score
        return (best.score or 0.0) - self.tolerance if best else -math.inf

    def _promising(self, chosen: Option | None, best: Option | None) -> tuple[Option, ...]:
        """The untried candidates that probably save most, or else have the highest expected scores."""
        dearest = chosen.cost if chosen else None
        found = promising(self._allowed, self.trials, self._least(best), dearest, self.seed)
        # A cascade may escalate to a model that is not allowed.
        possible = (candidate for candidate in found if self._has_models(candidate))
        return tuple(map(self._predicted, islice(possible, SUGGESTIONS)))

    def _predicted(self, candidate: Candidate) -> Option:
        space = self._allowed
        usd = space.cost(candidate, "usd") if all(s.cost.prices is not None for s in space.subtasks) else None
        return Option(
            candidate, None, None, space.units(candidate), usd, space.cost(candidate, "seconds") or None, True
        )


def _repriced(spec: ModelSpec, new: NewPrice | None) -> ModelSpec:
    if new is None:
        return spec
    given = new.model_dump(exclude_none=True)
    if new.price == "free":
        given |= {name: 0.0 for name in type(spec).model_fields if name.startswith("usd_per_")}
    return spec.model_copy(update=given)


def _with_prices(
    trial: Trial, task: Task, specs: Mapping[str, ModelSpec], space: SearchSpace, changed: frozenset[str]
) -> Trial:
    """The trial at the prices of `specs`: of the tokens that each subtask took on each example."""
    evaluation = trial.evaluation
    if changed & set(called_models(task, trial.candidate)):
        results = tuple(_with_usd(result, trial.candidate, task, specs, changed) for result in evaluation.results)
        evaluation = replace(evaluation, results=results)
    measured = measured_cost(space, evaluation, space.measure)
    return replace(trial, evaluation=evaluation, units=space.units(trial.candidate) if measured is None else measured)


def _is_unpriced(trial: Trial, task: Task, changed: frozenset[str]) -> bool:
    uses = (use for result in trial.evaluation.results for use in result.subtasks.values())
    as_one_sum = any(use.escalated and not use.big_prompt_tokens for use in uses)
    return bool(changed & set(called_models(task, trial.candidate))) and as_one_sum


def _with_usd(
    result: ExampleResult, candidate: Candidate, task: Task, specs: Mapping[str, ModelSpec], changed: frozenset[str]
) -> ExampleResult:
    uses = dict(result.subtasks)
    for name, use in uses.items():
        if changed & {candidate[name].model, task[name].fusion.model, escalating(task[name], candidate[name])}:
            uses[name] = _use_at(use, task[name], candidate[name], specs)
    return replace(result, subtasks=uses)


def _use_at(use: SubtaskUse, subtask: Subtask, choice: SubtaskChoice, specs: Mapping[str, ModelSpec]) -> SubtaskUse:
    """The use with its USD at the prices of `specs`."""
    spec, has_fusion = specs[choice.model], use.fusion_tokens > 0
    samples = max(use.responses - has_fusion - use.escalated, 1)
    calls = max(1, round(samples / choice.num_samples))
    requests = use.requests - use.escalated or calls * requests_for(math.ceil(samples / calls), spec)
    usd = spec.prices.usd(
        (use.prompt_tokens - use.big_prompt_tokens) * requests / calls,
        use.completion_tokens - use.big_completion_tokens,
        cached_tokens=(use.cached_tokens - use.big_cached_tokens) * requests / calls,
        reasoning_tokens=use.reasoning_tokens - use.big_reasoning_tokens,
        requests=requests,
    )
    if big := escalating(subtask, choice):
        usd += specs[big].prices.usd(
            use.big_prompt_tokens,
            use.big_completion_tokens,
            cached_tokens=use.big_cached_tokens,
            reasoning_tokens=use.big_reasoning_tokens,
            requests=use.escalated,
        )
    # Of a fusion, only the sum of its tokens is recorded; nearly all are those of its prompt, which has the samples.
    fusion = specs[subtask.fusion.model or choice.model]
    fusion_usd = fusion.prices.usd(use.fusion_tokens, 0) if has_fusion else 0.0
    return replace(use, usd=usd, fusion_usd=fusion_usd)


def _not_complete(trial: Trial) -> Trial:
    return replace(trial, evaluation=replace(trial.evaluation, state="incomplete"))
