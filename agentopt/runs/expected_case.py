"""The expected usage of a run, and what its caps afford, computed before anything is spent. Makes no model call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from agentopt.core.axes import DEMOS, values_of
from agentopt.core.budget import Usage
from agentopt.core.cost import format_cost
from agentopt.core.demos import shows_targets
from agentopt.core.errors import TaskError
from agentopt.core.message_text import counted, plain_number
from agentopt.core.records import Evaluation
from agentopt.core.task import Subtask, Task, TokenLengths
from agentopt.core.usd_text import format_usd, usd_at_least
from agentopt.evaluation.judge import Judge
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal
from agentopt.models.request_fitting import requests_for
from agentopt.runs.agent_usage import expected_agent_usage, expected_judge_usage, expected_writer_usage, prompt_writing
from agentopt.runs.config import Config
from agentopt.runs.demonstrations import runs_baseline
from agentopt.runs.evaluators import priced_for
from agentopt.runs.expected_lengths import CallLengths, ExpectedLengths, completion_tokens, prompt_tokens
from agentopt.runs.recorded_lengths import with_lengths
from agentopt.runs.worst_case import FINALISTS, Estimate, affordable_samples, usage_of_judge
from agentopt.search.base import SearchSpace
from agentopt.search.from_task import cost_measure, fitted_to, needs_measuring, search_space, unit_note
from agentopt.search.unmet_limits import unmet_limits


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
    lengths: ExpectedLengths | None = None,
) -> ExpectedCase:
    """The expected usage of `optimize` with this configuration, before its caps are applied.

    A candidate is taken to be a random affordable one, the baseline to answer half of the train examples right that it
    is run on for demonstrations, and every target to be right. Trials share the responses of a subtask that reads no
    other; what they share of later subtasks depends on how often outputs agree, which is not known. The calls of the
    agent, the writer and the judge are those of `expected_agent_usage` and its siblings.

    Args:
        task: The task.
        space: Its search space.
        specs: The catalogue entry of every model that may be called.
        config: The settings of the run.
        worst: The worst case, which bounds each part.
        journal: Has the agent's calls so far. None: there are none.
        lengths: The token lengths. Default: those without a journal.
    """
    lengths = lengths or ExpectedLengths(task, specs)
    trials = min(config.budget.trials, space.size)
    rows = {split: len(examples) for split, examples in task.splits.items()}
    search, test = Usage(), Usage()
    of_trials, of_tests = (priced_for(use, task, config, specs) for use in ("trials", "tests"))
    for subtask in task.subtasks:
        by_model = _uses(lengths, subtask, space, of_trials)
        spent = _scaled(_mean(by_model), trials)
        # Which of several subtasks of a program read others is not known.
        if not subtask.reads and not (task.program and len(task.subtasks) > 1):
            spent = _bounded(spent, sum((of[-1] for of in by_model.values() if of), Usage()))
        search += _scaled(spent, rows["validation"] / _FINE)
        mean = _mean(_uses(lengths, subtask, space, of_tests))
        test += _scaled(mean, FINALISTS * rows.get("test", 0) / _FINE)
    if isinstance(task.scorer, Judge):
        judge, verdict = specs[task.scorer.model], usage_of_judge(task, specs, task.splits["validation"][0])
        search += expected_judge_usage(judge, verdict, trials * rows["validation"], journal)
        test += expected_judge_usage(judge, verdict, FINALISTS * rows.get("test", 0), journal)
    share = min(search.calls / max(worst.search.calls, 1), 1.0)
    writing = _cut_to(prompt_writing(task, specs, config), worst.prompts)
    prompts = _scaled(worst.prompts - writing, share) + expected_writer_usage(specs, config, writing, journal)
    return ExpectedCase(
        _bounded(search, worst.search),
        _bounded(expected_agent_usage(specs, config, worst.agent, journal), worst.agent),
        _bounded(_usage_of_demos(task, space, specs, lengths), worst.demos),
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
    return [s.tokens or TokenLengths(prompt_tokens(task, s), completion_tokens(s)) for s in task.subtasks]


def _usage_of_demos(task: Task, space: SearchSpace, specs: Mapping[str, ModelSpec], lengths: ExpectedLengths) -> Usage:
    """The baseline on two train examples for each demonstration; on one if its target may be shown."""
    running = [s for s in task.subtasks if s.demos and runs_baseline(task, s)]
    rows = ((1 if shows_targets(s, task.output_subtask) else 2) * s.demos.count[-1] for s in running if s.demos)
    total = Usage()
    for subtask in task.subtasks:
        choice = space.baseline[subtask.name]
        total += _use(subtask, specs, choice.model, choice.num_samples, lengths)
    return _scaled(total, max(rows, default=0) / _FINE)


_FINE = 1000
"""Examples that a `Usage` of `_use` is for, so that its counts are not rounded."""


def _uses(
    lengths: ExpectedLengths, subtask: Subtask, space: SearchSpace, specs: Mapping[str, ModelSpec]
) -> dict[str, list[Usage]]:
    """Model -> usage with each affordable number of samples, ascending; for `_FINE` examples."""
    counts, demos = space[subtask.name].num_samples, values_of(subtask.settings, DEMOS, 0)
    shown = sum(map(float, demos)) / len(demos)
    return {
        model: [_use(subtask, specs, model, n, lengths, shown) for n in counts if n <= most]
        for model, most in affordable_samples(space, space[subtask.name]).items()
    }


def _use(
    subtask: Subtask, specs: Mapping[str, ModelSpec], model: str, n: int, lengths: ExpectedLengths, demos: float = 0
) -> Usage:
    """The usage of `n` samples after `demos` demonstrations, and of their fusion call; for `_FINE` examples."""
    one = lengths.of(subtask, model)
    prompt = one.prompt + demos * (one.prompt + one.answer)
    use = _usage(specs[model], requests_for(n, specs[model]), prompt, one, n)
    if subtask.fusion.method == "fuse" and n > 1:
        fuser = subtask.fusion.model or model
        use += _usage(specs[fuser], 1, prompt + n * one.answer, lengths.of(subtask, fuser))
    return use


def _usage(spec: ModelSpec, requests: int, prompt: float, one: CallLengths, n: int = 1) -> Usage:
    """The usage of `requests` for `n` responses."""
    thoughts = n * one.thoughts
    whole = n * one.answer + thoughts
    usd = spec.prices.usd(requests * prompt, whole, requests=requests, reasoning_tokens=thoughts)
    return _scaled_parts(requests, requests * prompt, whole, usd, _FINE)


def _scaled(usage: Usage, factor: float) -> Usage:
    return _scaled_parts(usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.usd, factor)


def _scaled_parts(calls: float, prompt: float, completion: float, usd: float, factor: float) -> Usage:
    return Usage(round(calls * factor), round(prompt * factor), round(completion * factor), usd * factor)


def _bounded(usage: Usage, most: Usage) -> Usage:
    """The lower of each field."""
    return Usage(*(min(getattr(usage, name), getattr(most, name)) for name in Usage.__dataclass_fields__))


def _cut_to(usage: Usage, most: Usage) -> Usage:
    """The usage, or the largest part of it that has no field above `most`; its fields keep their ratios."""
    pairs = ((getattr(usage, name), getattr(most, name)) for name in Usage.__dataclass_fields__)
    fits = min((limit / amount for amount, limit in pairs if amount > limit), default=1.0)
    calls, prompt, completion = (int(n * fits) for n in (usage.calls, usage.prompt_tokens, usage.completion_tokens))
    return Usage(calls, prompt, completion, usage.usd * fits)


def expected_usd(task: Task, space: SearchSpace, lengths: ExpectedLengths) -> Iterator[str]:
    """Yield the expected USD of each subtask's models, with the token lengths of the expected case.

    Args:
        task: The task.
        space: Its search space.
        lengths: The token lengths.
    """
    specs = lengths.specs
    if not all(specs[model].is_priced for subtask in task.subtasks for model in subtask.models):
        return
    for s in task.subtasks:
        most = values_of(s.settings, DEMOS, 0)[-1]
        shown = [(model, n, demos) for model in s.models for n, demos in _shown(s, int(most))]
        usd = {
            space[s.name].choice(model, n, {DEMOS: demos}): _use(s, specs, model, n, lengths, demos).usd / _FINE
            for model, n, demos in shown
        }
        if not any(usd.values()):  # all models are free
            continue
        costs = (f"{choice} {format_cost(cost, 'usd')}" for choice, cost in usd.items())
        yield f"expected USD per 1,000 requests of {s.name}: {', '.join(costs)}"


def _shown(subtask: Subtask, demos: int) -> list[tuple[int, int]]:
    """The fewest and the most samples, and the fewest with the most demonstrations."""
    fewest, most = subtask.num_samples[0], subtask.num_samples[-1]
    return list(dict.fromkeys(((fewest, 0), (most, 0), (fewest, demos))))


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
    if trials < config.budget.trials:
        yield f"The search space has {counted(trials, 'candidate')}, fewer than budget.trials ({config.budget.trials})"
    free = "; those whose answers are in the journal cost nothing, and come on top" if has_answers else ""
    for name, unit in (("usd", "USD"), ("tokens", "tokens"), ("calls", "calls")):
        cap = getattr(config.budget, name)
        if cap is None:
            continue
        shown, most = f"budget.{name} ({plain_number(cap)})", getattr(worst.total, name)
        if most <= cap:
            bound = format_usd(most) if name == "usd" else f"{most:,}"
            yield f"Warning: {shown} cannot bind, as the run takes at most {bound} {unit} without retries"
            continue
        paid = [_trials_within(cap, name, case, trials) for case in (expected, worst)]
        most_paid = f"{paid[0]} of {counted(trials, 'trial')}"
        yield f"{shown} pays for about {most_paid} in the expected case, {paid[1]} in the worst{free}"
        if (test := getattr(expected.test, name)) > cap / 2:
            whole = format_usd(test) if name == "usd" else f"{math.ceil(test):,}"
            enough = usd_at_least(2 * test) if name == "usd" else f"{math.ceil(2 * test):,}"
            yield (
                f"Warning: {shown} keeps at most half for the test, which takes {whole} {unit} in the expected case, "
                f"so it may be cut short; raise it to {enough}"
            )
    cap = config.budget.seconds
    if cap is not None and worst.seconds is not None and worst.seconds <= cap:
        yield f"Warning: budget.seconds ({plain_number(cap)}) cannot bind, as the run takes about {worst.seconds:.0f} s"


def _trials_within(cap: float, name: str, case: Estimate | ExpectedCase, trials: int) -> int:
    """Number of trials beside the test, for which at most half of the cap is kept, and the other parts."""
    test, others = min(getattr(case.test, name), cap / 2), getattr(case.agent + case.demos + case.prompts, name)
    each = getattr(case.search, name) / trials
    return trials if not each else max(0, min(trials, int((cap - test - others) / each)))
