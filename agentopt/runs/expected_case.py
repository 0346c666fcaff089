"""The expected usage of a run, and what its caps afford, computed before anything is spent. Makes no model call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from agentopt.core.axes import DEMOS, SettingValue, values_of
from agentopt.core.budget import Usage
from agentopt.core.cost import format_cost
from agentopt.core.demos import shows_targets
from agentopt.core.errors import TaskError
from agentopt.core.phrases import in_words, plain_number
from agentopt.core.records import Evaluation
from agentopt.core.task import Example, Subtask, Task, TokenLengths
from agentopt.core.usd import format_usd, usd_at_least
from agentopt.models.catalog import ModelSpec
from agentopt.models.fitting import requests_for
from agentopt.models.journal import Journal
from agentopt.runs.agent_calls import expected_agent_usage, expected_writer_usage, prompt_writing
from agentopt.runs.config import Config
from agentopt.runs.demonstrations import runs_baseline
from agentopt.runs.evaluators import priced_for
from agentopt.runs.recorded_lengths import with_lengths
from agentopt.runs.worst_case import FINALISTS, Estimate, affordable_samples, longest_prompt, usage_of_judge
from agentopt.search.base import BYTES_PER_TOKEN, SearchSpace, SubtaskSpace
from agentopt.search.from_task import cost_measure, fitted_to, needs_measuring, search_space, unit_note
from agentopt.search.unmet_limits import unmet_limits

ROWS = 20
"""Rows of the validation split whose prompts are measured."""

RESPONSE = 0.5
"""Share of `max_tokens` that a response is expected to take if the task has no `tokens`."""

THOUGHTS = 0.5
"""Share of the rest of `max_tokens` that the thoughts of a model that thinks are expected to take."""


@dataclass(frozen=True, slots=True)
class ExpectedCase:
    """Expected usage by part of the run, before early stopping, which lowers it further."""

    search: Usage
    agent: Usage
    demos: Usage
    prompts: Usage
    test: Usage

    @property
    def total(self) -> Usage:
        """Expected usage of the whole run."""
        return self.search + self.agent + self.demos + self.prompts + self.test


def expected_case(
    task: Task,
    space: SearchSpace,
    specs: Mapping[str, ModelSpec],
    config: Config,
    worst: Estimate,
    journal: Journal | None = None,
) -> ExpectedCase:
    """The expected usage of `optimize` with this configuration, before its caps are applied.

    A candidate is taken to be a random affordable one, the baseline to answer half of the train examples right that it
    is run on for demonstrations, and every target to be right. Trials share the responses of a subtask that reads no
    other. Prompts have four bytes per token, responses the task's `tokens` or half of `max_tokens`; the thoughts of a
    model that is known to think take half of what is left of `max_tokens`. The calls of the agent and the writer are
    those of `expected_agent_usage` and `expected_writer_usage`.

    Args:
        task: The task.
        space: Its search space.
        specs: The catalogue entry of every model that may be called.
        config: The settings of the run.
        worst: The worst case, which bounds each part.
        journal: Has the agent's calls so far. None: there are none.
    """
    trials = min(config.budget.trials, space.size)
    rows = {split: len(examples) for split, examples in task.splits.items()}
    search, test = Usage(), Usage()
    of_trials, of_tests = (priced_for(use, task, config, specs) for use in ("trials", "tests"))
    for subtask in task.subtasks:
        by_model = _uses(task, subtask, space, of_trials)
        spent = _scaled(_mean(by_model), trials)
        # Which of several subtasks of a program read others is not known.
        if not subtask.reads and not (task.program and len(task.subtasks) > 1):
            spent = _bounded(spent, sum((of[-1] for of in by_model.values() if of), Usage()))
        search += _scaled(spent, rows["validation"] / _FINE)
        mean = _mean(_uses(task, subtask, space, of_tests))
        test += _scaled(mean, FINALISTS * rows.get("test", 0) / _FINE)
    judge = usage_of_judge(task, specs, task.splits["validation"][0])
    search += judge * (trials * rows["validation"])
    test += judge * (FINALISTS * rows.get("test", 0))
    share = min(search.calls / max(worst.search.calls, 1), 1.0)
    writing = _bounded(prompt_writing(task, specs, config), worst.prompts)
    prompts = _scaled(worst.prompts - writing, share) + expected_writer_usage(specs, config, writing)
    return ExpectedCase(
        _bounded(search, worst.search),
        _bounded(expected_agent_usage(specs, config, worst.agent, journal), worst.agent),
        _bounded(_usage_of_demos(task, space, specs), worst.demos),
        _bounded(prompts, worst.prompts),
        _bounded(test, worst.test),
    )


def _mean(by_model: Mapping[str, list[Usage]]) -> Usage:
    uses = [use for of_model in by_model.values() for use in of_model]
    return _scaled(sum(uses, Usage()), 1 / max(len(uses), 1))


def unmet_limits_in(task: Task, specs: Mapping[str, ModelSpec], recorded: Evaluation | None = None) -> str | None:
    """The limits in USD or units that no candidate meets by the token lengths that are known; see `unmet_limits`.

    Those in seconds need measured latencies, and those of a program its prompts.

    Args:
        task: The task.
        specs: Catalogue name -> entry.
        recorded: `recorded_baseline`.
    """
    if task.program and needs_measuring(task):
        return None
    try:
        space = _expected_space(task, specs, recorded)
    except TaskError:  # the limit in units; see `costly_baseline`
        return None
    if not (unmet := unmet_limits(space)):
        return None
    if needs_measuring(task) and not recorded:
        unknown = "the lengths are not known before the baseline is measured"
        return f"Warning: if responses have half of max_tokens, {unmet}; {unknown}"
    source = f"by the {_SOURCES[True]}, " if recorded else ""
    return f"Warning: {source}{unmet}; raise the limit, or add a cheaper model to a subtask"


_SOURCES = {True: "token lengths of the baseline in the journal", False: "expected token lengths"}
"""Whether the baseline is recorded -> the source of its token lengths, in words."""


def costly_baseline(task: Task, specs: Mapping[str, ModelSpec], recorded: Evaluation | None = None) -> str | None:
    """The note on a baseline above the limit in units by the expected token lengths, if they are measured; or None.

    Args:
        task: The task. The prompts of a program are not known.
        specs: Catalogue name -> entry.
        recorded: `recorded_baseline`.
    """
    is_limited = task.max_units is not None or cost_measure(task, specs) == "units"
    if task.program or not is_limited or not needs_measuring(task):
        return None
    try:
        _expected_space(task, specs, recorded)
    except TaskError as error:
        ends = "if the baseline measures such lengths, the run ends after it"
        return f"Warning: by the {_SOURCES[bool(recorded)]}, {error.message}; {ends}: {error.remedy}"
    return None


def _expected_space(task: Task, specs: Mapping[str, ModelSpec], recorded: Evaluation | None) -> SearchSpace:
    """The search space with the expected token lengths. Raises `TaskError` if the baseline is above its limit."""
    lengths = _expected_lengths(with_lengths(task, specs, recorded))
    return search_space(replace(task, max_seconds=None), specs, expected=lengths)


def expected_unit_note(task: Task, specs: Mapping[str, ModelSpec], recorded: Evaluation | None = None) -> str | None:
    """The note on a unit that is too large for passes of the expected lengths, if the lengths are measured; or None.

    Args:
        task: The task. The prompts of a program are not known.
        specs: Catalogue name -> entry.
        recorded: `recorded_baseline`.
    """
    if task.program or cost_measure(task, specs) != "units" or not needs_measuring(task):
        return None
    lengths = _expected_lengths(with_lengths(task, specs, recorded))
    note = unit_note(task, fitted_to(task, specs, lengths))
    return f"By the {_SOURCES[bool(recorded)]}, {note}" if note else None


def _expected_lengths(task: Task) -> list[TokenLengths]:
    return [s.tokens or TokenLengths(_prompt_tokens(task, s), _completion_tokens(s)) for s in task.subtasks]


def _usage_of_demos(task: Task, space: SearchSpace, specs: Mapping[str, ModelSpec]) -> Usage:
    """The baseline on two train examples for each demonstration; on one if its target may be shown."""
    running = [s for s in task.subtasks if s.demos and runs_baseline(task, s)]
    rows = ((1 if shows_targets(s, task.output_subtask) else 2) * s.demos.count[-1] for s in running if s.demos)
    total = Usage()
    for subtask in task.subtasks:
        prompt, completion = _prompt_tokens(task, subtask), _completion_tokens(subtask)
        choice = space.baseline[subtask.name]
        total += _use(subtask, specs, choice.model, choice.num_samples, prompt, completion)
    return _scaled(total, max(rows, default=0) / _FINE)


_FINE = 1000
"""Examples that a `Usage` of `_uses` is for, so that its counts are not rounded."""


def _uses(task: Task, subtask: Subtask, space: SearchSpace, specs: Mapping[str, ModelSpec]) -> dict[str, list[Usage]]:
    """Model -> usage with each affordable number of samples, ascending; for `_FINE` examples."""
    prompt, completion = _prompt_tokens(task, subtask), _completion_tokens(subtask)
    counts, demos = space[subtask.name].num_samples, values_of(subtask.settings, DEMOS, 0)
    prompt += (prompt + completion) * sum(map(float, demos)) / len(demos)
    return {
        model: [_use(subtask, specs, model, n, prompt, completion) for n in counts if n <= most]
        for model, most in affordable_samples(space, space[subtask.name]).items()
    }


def _use(
    subtask: Subtask, specs: Mapping[str, ModelSpec], model: str, n: int, prompt: float, completion: float
) -> Usage:
    spec = specs[model]
    requests = requests_for(n, spec)
    use = _usage(subtask, spec, requests, prompt, completion, n)
    if subtask.fusion.method == "fuse" and n > 1:
        use += _usage(subtask, specs[subtask.fusion.model or model], 1, prompt + n * completion, completion)
    return use


def _usage(subtask: Subtask, spec: ModelSpec, requests: int, prompt: float, completion: float, n: int = 1) -> Usage:
    """The usage of `requests` for `n` responses; thoughts take `THOUGHTS` of what is left of `max_tokens`."""
    thoughts = n * THOUGHTS * max(0.0, subtask.max_tokens - completion) if spec.has_effort else 0.0
    whole = n * completion + thoughts
    usd = spec.prices.usd(requests * prompt, whole, requests=requests, reasoning_tokens=thoughts)
    return _scaled_parts(requests, requests * prompt, whole, usd, _FINE)


def _prompt_tokens(task: Task, subtask: Subtask) -> float:
    rows = task.splits["validation"][:ROWS]
    sizes = [len((subtask.system_prompt + _prompt(task, subtask, row)).encode()) for row in rows]
    return sum(sizes) / len(sizes) / BYTES_PER_TOKEN


def _prompt(task: Task, subtask: Subtask, row: Example) -> str:
    """The prompt if the earlier outputs are texts of the expected length; the longest one if they cannot be texts."""
    outputs = {name: "x" * int(BYTES_PER_TOKEN * _completion_tokens(task[name])) for name in subtask.reads}
    if subtask.context is None:
        with suppress(Exception):  # a user's function
            return subtask.render(row.inputs, outputs)
    return longest_prompt(task, subtask, row)


def _completion_tokens(subtask: Subtask) -> float:
    return subtask.tokens.completion if subtask.tokens else RESPONSE * subtask.max_tokens


def _scaled(usage: Usage, factor: float) -> Usage:
    return _scaled_parts(usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.usd, factor)


def _scaled_parts(calls: float, prompt: float, completion: float, usd: float, factor: float) -> Usage:
    return Usage(round(calls * factor), round(prompt * factor), round(completion * factor), usd * factor)


def _bounded(usage: Usage, most: Usage) -> Usage:
    """The lower of each field."""
    return Usage(*(min(getattr(usage, name), getattr(most, name)) for name in Usage.__dataclass_fields__))


def predicted_usd(space: SearchSpace) -> Iterator[str]:
    """Yield the USD of each subtask's models that the search predicts before it has measured them.

    Args:
        space: The search space, with the token lengths of the task.
    """
    if any(subtask.cost.prices is None for subtask in space.subtasks):
        return
    for s in space.subtasks:
        most = next((axis.values[-1] for axis in s.settings if axis.name == DEMOS), None)
        shown = [s.choice(model, n, named) for model in s.models for n, named in _shown(s, most)]
        usd = {choice: s.cost_of("usd", choice) for choice in shown}
        if not any(usd.values()):  # all models are free
            continue
        costs = (f"{choice} {format_cost(cost, 'usd')}" for choice, cost in usd.items())
        yield f"USD per 1,000 requests of {s.name}, predicted from the task's tokens: {', '.join(costs)}"


def _shown(subtask: SubtaskSpace, demos: SettingValue | None) -> list[tuple[int, dict[str, SettingValue]]]:
    """The fewest and the most samples, and the fewest with the most demonstrations."""
    fewest, most = subtask.num_samples[0], subtask.num_samples[-1]
    counts: list[tuple[int, dict[str, SettingValue]]] = [(count, {}) for count in dict.fromkeys((fewest, most))]
    return counts if demos is None else [*counts, (fewest, {DEMOS: demos})]


def thought_notes(specs: Mapping[str, ModelSpec]) -> list[str]:
    """The note on the thoughts in the expected case, if a model is known to think."""
    thinking = [name for name, spec in specs.items() if spec.has_effort]
    if not thinking:
        return []
    rule = f"{in_words(thinking)} may think before answering"
    return [f"{rule}: the expected case counts thoughts of half of the rest of max_tokens, which may be far off"]


def cap_notes(
    worst: Estimate, expected: ExpectedCase, config: Config, space: SearchSpace, *, has_answers: bool = False
) -> Iterator[str]:
    """What each cap of the run affords, and which cannot bind.

    Args:
        worst: The worst case.
        expected: The expected case.
        config: The settings of the run.
        space: The search space.
        has_answers: Whether the journal has answers of the task's models.
    """
    trials = min(config.budget.trials, space.size)
    free = "; those whose answers are in the journal cost nothing, and come on top" if has_answers else ""
    for name, unit in (("usd", "USD"), ("tokens", "tokens"), ("calls", "calls")):
        cap = getattr(config.budget, name)
        if cap is None:
            continue
        shown, most = f"budget.{name} ({plain_number(cap)})", getattr(worst.total, name)
        if most <= cap:
            bound = format_usd(most) if name == "usd" else f"{most:,}"
            yield f"Warning: {shown} cannot bind: without retries, the run takes at most {bound} {unit}"
            continue
        paid = [_trials_within(cap, name, case, trials) for case in (expected, worst)]
        yield f"{shown} pays for about {paid[0]} of {trials} trials in the expected case, {paid[1]} in the worst{free}"
        if (test := getattr(expected.test, name)) > cap / 2:
            whole, enough = (usd_at_least(n) if name == "usd" else f"{math.ceil(n):,}" for n in (test, 2 * test))
            yield (
                f"Warning: {shown} keeps at most half for the test, which takes {whole} {unit} in the expected case, "
                f"so it may be cut short; raise it to {enough}"
            )
    cap = config.budget.seconds
    if cap is not None and worst.seconds is not None and worst.seconds <= cap:
        yield f"Warning: budget.seconds ({plain_number(cap)}) cannot bind: the run takes about {worst.seconds:.0f} s"


def _trials_within(cap: float, name: str, case: Estimate | ExpectedCase, trials: int) -> int:
    """Number of trials beside the test, for which at most half of the cap is kept, and the other parts."""
    test, others = min(getattr(case.test, name), cap / 2), getattr(case.agent + case.demos + case.prompts, name)
    each = getattr(case.search, name) / trials
    return trials if not each else max(0, min(trials, int((cap - test - others) / each)))
