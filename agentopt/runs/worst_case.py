"""Worst-case usage of a run, computed before anything is spent. Makes no model call."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

from agentopt.core.axes import KNOBS, values_of
from agentopt.core.budget import Caps, Usage
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.demos import Demo, shows_targets
from agentopt.core.records import Split
from agentopt.core.task import Example, Subtask, Task
from agentopt.core.task_rules import CONTEXT
from agentopt.evaluation.judge import JUDGE_TRIES, Judge, judge_messages
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.charging import worst_case
from agentopt.models.journal import Journal
from agentopt.models.request_fitting import choices_per_request
from agentopt.prompts.optimizer import sampled_examples
from agentopt.prompts.race import LEAST_EACH
from agentopt.runs.agent_usage import agent_usage, phases_of, prompt_writing, prompted_subtasks, writer_usage
from agentopt.runs.config import BatchUse, Config
from agentopt.runs.demonstrations import examples_to_try, not_shown, runs_baseline
from agentopt.runs.evaluators import batched_models, priced_for
from agentopt.runs.pace import seconds_of
from agentopt.runs.prompt_share import Beside, left_beside, prompt_limits
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.workflow.sampling import configured, request_for, stop_of
from agentopt.workflow.templates import Record

FINALISTS = 3
"""Most candidates on the test split: baseline, best, recommended."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Worst-case usage by part of the run.

    `demos` is the baseline on train examples, and a judge on their targets. `prompts` is within `prompt_limits`, what
    the caps leave of `prompt_share` beside `beside`. `least_races` is that of the smallest race for every subtask, with
    the margin of its plan. `seconds` is the time at the pace of earlier calls and within the models'
    `requests_per_minute`; None if a model was never called.
    """

    search: Usage
    agent: Usage
    demos: Usage
    prompts: Usage
    test: Usage
    prompt_share: Caps
    prompt_limits: Caps
    least_races: Usage
    beside: Beside
    seconds: float | None

    @property
    def total(self) -> Usage:
        """Worst-case usage of the whole run."""
        return self.search + self.agent + self.demos + self.prompts + self.test


def estimate(
    task: Task, space: SearchSpace, specs: Mapping[str, ModelSpec], config: Config, journal: Journal | None
) -> Estimate:
    """The worst-case usage of `optimize` with this configuration, before its caps are applied.

    Prompts that depend on an earlier answer are measured with placeholder answers; retries are not counted.

    Args:
        task: The task.
        space: Its search space.
        specs: The catalogue entry of every model that may be called.
        config: The settings of the run.
        journal: Its mean seconds per call of each model, over the model's concurrency, give the time. None: no time,
            as with calls that wait in batches.
    """
    trials = min(config.budget.trials, space.size)
    priced = {use: priced_for(use, task, config, specs) for use in get_args(BatchUse)}
    search = usage_on_split(task, space, specs, "validation", priced["trials"]) * trials
    test = usage_on_split(task, space, specs, "test", priced["tests"]) * FINALISTS
    agent = agent_usage(specs, config, trials)
    demos = _demos_usage(task, space, specs, config.seed)
    before = search + agent + demos
    first = usage_of_candidate(task, specs, space.baseline, task.splits["validation"])
    beside = Beside(first + demos, kept_for_test(task, space, specs))
    most = prompt_limits(config, before + test)
    limits = left_beside(config.budget.caps(), beside, most)
    prompts, least = _prompts_usage(task, space, specs, config, limits)
    batched = batched_models(task, config, specs)
    seconds = None if batched else seconds_of(before + prompts + test, specs, journal)
    return Estimate(search, agent, demos, prompts, test, most, limits, least, beside, seconds)


def kept_for_test(task: Task, space: SearchSpace, specs: Mapping[str, ModelSpec]) -> Usage:
    """The worst case of testing all finalists, of which a run keeps at most half of each cap.

    Args:
        task: The task.
        space: Its search space.
        specs: The catalogue entry of every model that may be called.
    """
    return usage_on_split(task, space, specs, "test") * FINALISTS


def estimate_diagnosis(
    task: Task, specs: Mapping[str, ModelSpec], config: Config, candidate: Candidate, subtask: str
) -> tuple[Usage, Usage]:
    """The worst-case usage of the pilot of one subtask, before caps are applied. Retries are not counted.

    Args:
        task: The task, with a train split.
        specs: The catalogue entry of every model that may be called.
        config: The settings; `prompts` has the size of the pilot.
        candidate: Fixes the models and the other prompts.
        subtask: The subtask to diagnose.

    Returns:
        The usage of the responses, if every cell has `prompts.repeats` of them, and that of the prompt writer.
    """
    settings = config.prompts
    examples = sampled_examples(not_shown(candidate, task.splits["train"]), settings.pilot_user_prompts, config.seed)
    choices = {name: {choice.model: choice.num_samples} for name, choice in candidate.items()}
    demos = {name: choice.demos for name, choice in candidate.items()}
    once = _usage_of_examples(task, choices, specs, examples, demos)
    writing = writer_usage(specs, config, candidate[subtask].system_prompt, settings.variants - 1)
    return once * (settings.variants * settings.repeats), writing


def usage_of_candidate(
    task: Task, specs: Mapping[str, ModelSpec], candidate: Candidate, examples: Sequence[Example]
) -> Usage:
    """Worst-case usage of one candidate on some examples.

    Args:
        task: The task.
        specs: Catalogue name -> entry.
        candidate: The candidate.
        examples: The examples.
    """
    choices = {name: {choice.model: choice.num_samples} for name, choice in candidate.items()}
    demos = {name: choice.demos for name, choice in candidate.items()}
    task = replace(task, subtasks=tuple(configured(s, candidate[s.name]) for s in task.subtasks))
    return _usage_of_examples(task, choices, specs, examples, demos)


def usage_on_split(
    task: Task,
    space: SearchSpace,
    specs: Mapping[str, ModelSpec],
    split: Split,
    priced: Mapping[str, ModelSpec] | None = None,
) -> Usage:
    """Worst-case usage of any affordable candidate on a split.

    Args:
        task: The task.
        space: The search space.
        specs: Catalogue name -> entry.
        split: The split.
        priced: The entries of batched calls, if these are other ones.
    """
    choices = {s.name: affordable_samples(space, space[s.name]) for s in task.subtasks}
    demos = {s.name: _longest_demos(task, s) for s in task.subtasks}
    return _usage_of_examples(task, choices, specs, task.splits.get(split, ()), demos, priced)


def _demos_usage(task: Task, space: SearchSpace, specs: Mapping[str, ModelSpec], seed: int) -> Usage:
    """The baseline on every example that may be shown, and the judge on its target."""
    examples, total = examples_to_try(task, seed), Usage()
    if any(runs_baseline(task, subtask) for subtask in task.subtasks):
        total += usage_of_candidate(task, specs, space.baseline, examples)
    if any(shows_targets(subtask, task.output_subtask) for subtask in task.subtasks):
        total += sum((usage_of_judge(task, specs, example) for example in examples), Usage())
    return total


def _longest_demos(task: Task, subtask: Subtask) -> tuple[Demo, ...]:
    """As many demonstrations as a candidate may have, each as long as any."""
    if not subtask.demos or not task.splits.get("train"):
        return ()
    prompt = max((longest_prompt(task, subtask, example) for example in task.splits["train"]), key=len)
    return (Demo(prompt, "x" * (4 * _most_tokens(subtask))),) * subtask.demos.count[-1]


def _usage_of_examples(
    task: Task,
    choices: Mapping[str, Mapping[str, int]],
    specs: Mapping[str, ModelSpec],
    examples: Sequence[Example],
    demos: Mapping[str, tuple[Demo, ...]],
    priced: Mapping[str, ModelSpec] | None = None,
) -> Usage:
    """Worst-case usage of examples; each subtask uses one of its (model -> samples), and its demonstrations.

    `priced` are the entries of batched calls, if these are other ones; a judge is called directly.
    """
    total = Usage()
    # Each is built once: a subtask checks all of its fields, its functions' signatures included.
    longest = [replace(subtask, max_tokens=_most_tokens(subtask), settings=()) for subtask in task.subtasks]
    for example in examples:
        total += usage_of_judge(task, specs, example)
        for subtask, with_most in zip(task.subtasks, longest, strict=True):
            name = subtask.name
            prompt = longest_prompt(task, subtask, example)
            total += _usage_of_subtask(with_most, choices[name], priced or specs, prompt, demos[name])
    return total


def usage_of_judge(task: Task, specs: Mapping[str, ModelSpec], example: Example) -> Usage:
    """Worst-case usage of the judge on one example, retries of an unreadable verdict included.

    Args:
        task: The task.
        specs: Catalogue name -> entry.
        example: The example, whose inputs and target the judge reads.
    """
    judge = task.scorer
    if not isinstance(judge, Judge):
        return Usage()
    output = "x" * (4 * _most_tokens(task[task.output_subtask]))
    messages = judge_messages(judge.rubric, example, output)
    request = Request(judge.model, messages, judge.max_tokens, n=judge.samples)
    return worst_case(request, specs[judge.model]) * JUDGE_TRIES


def affordable_samples(space: SearchSpace, subtask: SubtaskSpace) -> dict[str, int]:
    """Model -> the most samples that the limit in units affords while every other subtask is as cheap as it can be.

    Costs in USD and seconds are not known before they are measured, so their limits do not lower the worst case.

    Args:
        space: The search space.
        subtask: One of its subtasks.
    """
    if space.max_units is None:
        return dict.fromkeys(subtask.models, subtask.num_samples[-1])
    others = sum(
        min(s.cost.of("units", model, s.num_samples[0]) for model in s.models)
        for s in space.subtasks
        if s.name != subtask.name
    )
    left = space.max_units - others + 1e-9
    affordable = {
        model: [n for n in subtask.num_samples if subtask.cost.of("units", model, n) <= left]
        for model in subtask.models
    }
    return {model: counts[-1] for model, counts in affordable.items() if counts}


def _usage_of_subtask(
    longest: Subtask,
    samples: Mapping[str, int],
    specs: Mapping[str, ModelSpec],
    prompt: str,
    demos: tuple[Demo, ...],
) -> Usage:
    """The maximum over the models, field by field, of a subtask without settings; a `fuse` call reads every sample."""
    usages = []
    for model, n in samples.items():
        request = request_for(longest, SubtaskChoice(model, n, longest.system_prompt, demos=demos), prompt)
        per_request = 1 if stop_of(longest) else choices_per_request(specs[model])
        usage = _in_requests(worst_case(request, specs[model]), n, per_request, specs[model])
        if longest.fusion.method == "fuse" and n > 1:
            fuser = specs[longest.fusion.model or model]
            answers = "x" * (4 * n * longest.max_tokens)
            read = request_for(longest, SubtaskChoice(fuser.name, demos=demos), prompt + answers)
            usage += worst_case(replace(read, n=1), fuser)
        if longest.cascade and model == longest.cascade.small:
            second = specs[longest.cascade.big]
            of_second = SubtaskChoice(second.name, 1, longest.system_prompt, demos=demos)
            usage += worst_case(request_for(longest, of_second, prompt), second)
        usages.append(usage)
    return Usage(*(max(getattr(u, name) for u in usages) for name in Usage.__dataclass_fields__))


def _in_requests(usage: Usage, n: int, most: int, spec: ModelSpec) -> Usage:
    """One request's worst case, for all requests of at most `most` samples that `n` need: each pays for the prompt."""
    requests = -(-n // most)
    prompt = usage.prompt_tokens * requests
    usd = spec.prices.worst_usd(prompt, usage.completion_tokens, requests=requests)
    return Usage(requests, prompt, usage.completion_tokens, usd)


def _most_tokens(subtask: Subtask) -> int:
    """Most tokens of one response, whatever a candidate's settings."""
    return int(max(values_of(subtask.settings, "max_tokens", subtask.max_tokens)))


def _knobs(subtask: Subtask) -> Iterator[dict[str, Any]]:
    """Yield every combination of the subtask's knobs."""
    values = [values_of(subtask.settings, f"{KNOBS}.{name}", own) for name, own in subtask.knobs.items()]
    return (dict(zip(subtask.knobs, given, strict=True)) for given in product(*values))


def longest_prompt(task: Task, subtask: Subtask, example: Example) -> str:
    """The longest prompt with any knobs if earlier subtasks' outputs are long, empty, a list, a number or an object.

    Args:
        task: The task.
        subtask: One of its subtasks.
        example: The example.
    """
    prompts = [""]
    names = (*subtask.reads, CONTEXT) if subtask.context else subtask.reads
    longest = "x" * (4 * max(map(_most_tokens, task.subtasks)))
    placeholders: tuple[Any, ...] = (longest, "", ["x"], 0, defaultdict(lambda: longest))
    for placeholder, knobs in product(placeholders, _knobs(subtask)):
        outputs: dict[str, Any] = dict.fromkeys(names, placeholder)
        outputs |= {KNOBS: Record(knobs)} if knobs else {}
        try:
            prompts.append(subtask.render(example.inputs, outputs))
        except Exception:  # noqa: BLE001, S112 - a user's function; another placeholder may fit it
            continue
    return max(filter(lambda prompt: isinstance(prompt, str), prompts), key=len)


def _prompts_usage(
    task: Task, space: SearchSpace, specs: Mapping[str, ModelSpec], config: Config, limits: Caps
) -> tuple[Usage, Usage]:
    """Every phase of prompt optimisation: the race, the validation of its winner, and the writer's calls.

    Returns their usage within the limits, which make the races smaller, and the usage of the smallest races.
    """
    settings, train = config.prompts, task.splits.get("train", ())
    if settings.when == "never" or len(train) < 2:
        return Usage(), Usage()

    def per_split(split: Split) -> Usage:
        if settings.when == "before":
            return usage_of_candidate(task, specs, space.baseline, task.splits[split])
        return usage_on_split(task, space, specs, split)  # a phase after the search may use any models

    written = settings.rounds * settings.batch_size
    cells = min(settings.user_prompts, len(train)) * settings.repeats
    draws = per_split("train") * -(-(1 + written) * min(settings.responses, cells) // len(train))
    prompted, phases = len(prompted_subtasks(task, config)), phases_of(config)
    final, least = per_split("validation"), min(LEAST_EACH, settings.responses)
    smallest = per_split("train") * -(-2 * least // len(train)) + final
    writing = prompt_writing(task, specs, config)
    races = (draws + final) * prompted * phases
    return _races_within(limits, races, writing), smallest.longer() * prompted * phases + writing


def _races_within(limits: Caps, races: Usage, writing: Usage) -> Usage:
    """The part of the races that the limits leave beside the writer's calls, with those."""
    fits = 1.0
    for name in ("calls", "tokens", "usd"):
        limit, each = getattr(limits, name), getattr(races, name)
        if limit is not None and each:
            fits = min(fits, (limit - getattr(writing, name)) / each)
    if fits <= 0 and writing.calls:
        return _races_within(limits, races + writing, Usage())
    calls, prompt, completion = (
        math.floor(n * fits) for n in (races.calls, races.prompt_tokens, races.completion_tokens)
    )
    return Usage(calls, prompt, completion, races.usd * fits) + writing
