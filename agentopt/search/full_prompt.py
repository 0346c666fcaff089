"""The prompt style `full`, for capable agents: every trial in one table, effects, what is left, and what the surrogate
expects; one call with a reason, candidates with a role, trials to complete, or a stop.

The constant part, the system message, comes first, so that a server's prefix cache can keep it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pvariance
from typing import Any

from agentopt.core.cost import SHOWN
from agentopt.core.json_text import repaired_json_values
from agentopt.core.records import Trial, by_score
from agentopt.models.base import Message
from agentopt.search.agent_prompts import (
    ROLES,
    enabled_insights,
    labels,
    one_of,
    schema_text,
    setting_text,
    strict_object,
)
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.run_view import FailedExample
from agentopt.search.settings import AgentSettings
from agentopt.search.surrogate import Expectation

PROMISING = 10
"""Candidates of the surrogate that the agent is shown."""
LONGEST = 400
"""Most characters of a text of an example."""
REASON = 400
"""Most characters of the reason."""

GOAL = (
    "You choose, for each subtask of a workflow of language models, a model and how many samples of its answer to "
    "merge, so that the score of the workflow is as high as possible in few trials."
)
REQUEST = (
    "Roles: exploit (near the best), combine (what was good in several trials), explore (what is not known). Bold "
    "changes are fine; scores that differ by less than their errors may be equal. In measure_again, name at most one "
    "trial that was stopped early and whose other examples should be evaluated. Set stop to true, with no candidates, "
    "if you expect nothing better."
)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the agent is shown beside the trials."""

    trials_left: int
    """Number of candidates that may still be tried."""
    usd_left: float | None = None
    """USD of the cap of the run beyond the cost of the trials; None without a cap."""
    expected: Sequence[Expectation] = ()
    """The surrogate's most promising candidates, best first."""
    failed: Sequence[FailedExample] = ()
    """Examples that the best candidate answers badly."""
    before: str = ""
    """The agent's previous reason."""


def full_system_message(space: SearchSpace, settings: AgentSettings, description: str) -> Message:
    """The task, its models and subtasks with a table of the costs, and the insights.

    Args:
        space: The search space, with the costs before any trial.
        settings: Which insights to show.
        description: Description of the task; left out if empty.
    """
    limits = [f"{SHOWN[of][0] * most:.4g} {SHOWN[of][1]}" for of, most in space.limits]
    insights = " ".join(enabled_insights(settings))
    lines = [
        GOAL,
        *([f"Task: {description}"] if description else []),
        *([f"All subtasks together may cost at most {' and '.join(limits)}."] if limits else []),
        *_models(space),
        *(line for s in space.subtasks for line in _subtask(s, labels(space))),
        *([f"Findings on such workflows: {insights}"] if insights else []),
    ]
    return Message("system", "\n".join(lines))


def _models(space: SearchSpace) -> Iterator[str]:
    """Each model with its size, under the label by which it is called."""
    yield "Models:"
    sizes = {model: s.cost.parameters.get(model) for s in space.subtasks for model in s.models}
    for model, label in labels(space).items():
        size = sizes[model]
        named = "" if label == model else f" = {model}"
        yield f"- {label}{named}{f', {size / 1e9:.3g} billion parameters' if size else ''}"


def _subtask(subtask: SubtaskSpace, label_of: Mapping[str, str]) -> Iterator[str]:
    about = f" ({subtask.description})" if subtask.description else ""
    after = f", after {', '.join(subtask.reads)}" if subtask.reads else ""
    factor, unit = SHOWN[subtask.cost.measure]
    yield f"Subtask {subtask.name}{about}{after}; cost in {unit} by the number of samples:"
    yield "  | n | " + " | ".join(map(str, subtask.num_samples)) + " |"
    for model in subtask.models:
        costs = (f"{factor * subtask.cost.units(model, n):.4g}" for n in subtask.num_samples)
        yield f"  | {label_of[model]} | " + " | ".join(costs) + " |"
    yield from (f"  setting {setting_text(subtask, axis, label_of)}" for axis in subtask.settings)


def full_prompt(space: SearchSpace, trials: Sequence[Trial], outlook: Outlook, count: int) -> str:
    """The prompt for at most `count` candidates, trials to complete, or a stop.

    Args:
        space: The search space.
        trials: All trials so far.
        outlook: What the agent is shown beside them.
        count: Most candidates.
    """
    label_of = labels(space)
    lines = [
        *_table(space, trials, label_of),
        *_effects(space, trials, label_of),
        *_left(space, trials, outlook),
        *_expected(outlook.expected, label_of),
        *(line for number, example in enumerate(outlook.failed, 1) for line in _failed(number, example)),
        *([f"Your previous reason: {outlook.before}"] if outlook.before else []),
        f"Give a short reason, then at most {count} candidates that were not tried, each with its role. {REQUEST}",
        f"Answer in JSON only: {_shape(space)}",
    ]
    return "\n".join(lines)


def _table(space: SearchSpace, trials: Sequence[Trial], label_of: Mapping[str, str]) -> Iterator[str]:
    factor, unit = SHOWN[space.measure]
    yield "Every trial:"
    yield f"| trial | {' | '.join(s.name for s in space.subtasks)} | score | +- error | n | cost in {unit} | state |"
    for trial in trials:
        scores = list(trial.evaluation.scores.values())
        error = math.sqrt(pvariance(scores) / len(scores)) if len(scores) > 1 else None
        choices = [_choice(trial, s.name, label_of) for s in space.subtasks]
        measured = ["-" if x is None else f"{x:.3f}" for x in (trial.score, error)]
        cells = [trial.number, *choices, *measured, len(scores), f"{factor * trial.units:.4g}", _state(trial)]
        yield f"| {' | '.join(map(str, cells))} |"


def _choice(trial: Trial, subtask: str, label_of: Mapping[str, str]) -> str:
    """A choice as `model xN`; a trial of an earlier run may lack the subtask, or have a model of its own."""
    choice = dict(trial.candidate.choices).get(subtask)
    return "-" if choice is None else str(replace(choice, model=label_of.get(choice.model, choice.model)))


def _state(trial: Trial) -> str:
    return {"pruned": "stopped early", "incomplete": "some examples failed"}.get(trial.state, trial.state)


def _effects(space: SearchSpace, trials: Sequence[Trial], label_of: Mapping[str, str]) -> Iterator[str]:
    """The mean score of each subtask's models, and the largest one; models without a trial are untried."""
    yield "Mean (best) score of the trials with each model, and their number:"
    for subtask in space.subtasks:
        cells = []
        for model in subtask.models:
            chosen = ((dict(trial.candidate.choices).get(subtask.name), trial.score) for trial in trials)
            mine = [score for choice, score in chosen if score is not None and choice and choice.model == model]
            shown = f"{fmean(mine):.3f} ({max(mine):.3f}) of {len(mine)}" if mine else "untried"
            cells.append(f"{label_of[model]} {shown}")
        yield f"- {subtask.name}: {'; '.join(cells)}"


def _left(space: SearchSpace, trials: Sequence[Trial], outlook: Outlook) -> Iterator[str]:
    left = [f"{outlook.trials_left} trials"]
    if outlook.usd_left is not None:
        left.append(f"about {outlook.usd_left:.2g} USD")
    yield f"Left: {' and '.join(left)}."
    best = by_score(trial for trial in trials if trial.state == "complete")[:1]
    if best and space.limits:
        measure, most = space.limits[0]
        factor, unit = SHOWN[measure]
        unused = factor * (most - space.cost(best[0].candidate, measure))
        yield f"Trial {best[0].number}, the best so far, leaves {unused:.4g} {unit} of the limit unused."


def _expected(expected: Sequence[Expectation], label_of: Mapping[str, str]) -> Iterator[str]:
    if expected:
        yield "A statistical model of the trials finds these most promising (expected score +- deviation):"
    for found in expected:
        choices = (f"{name}: {replace(c, model=label_of[c.model])}" for name, c in found.candidate.items())
        yield f"- {', '.join(choices)}: {found.mean:.3f} +- {found.deviation:.3f}"


def _failed(number: int, example: FailedExample) -> Iterator[str]:
    yield f"Failed example {number} of the best trial, score {example.score:.3f}:"
    parts = {"inputs": example.inputs, **{f"output of {name}": text for name, text in example.subtasks.items()}}
    parts |= {"output": example.output, "expected": example.target, "feedback": example.feedback}
    yield from (f"  {name}: {' '.join(text.split())[:LONGEST]}" for name, text in parts.items() if text)


def _shape(space: SearchSpace) -> str:
    choices = ",".join(f'"{s.name}":{{"model":"...","n":1{_settings(s)}}}' for s in space.subtasks)
    candidate = f'{{"role":"explore","choices":{{{choices}}}}}'
    return f'{{"reason":"...","candidates":[{candidate},...],"measure_again":[],"stop":false}}'


def _settings(subtask: SubtaskSpace) -> str:
    return ',"settings":{"name":"value"}' if subtask.settings else ""


def full_schema(space: SearchSpace, count: int) -> str:
    """JSON schema of the reply, as compact text.

    Args:
        space: The search space.
        count: Most candidates.
    """
    label_of = labels(space)
    choices = strict_object({s.name: _choice_schema(s, label_of) for s in space.subtasks})
    candidate = strict_object({"role": one_of(ROLES), "choices": choices})
    reply = {
        "reason": {"type": "string"},
        "candidates": {"type": "array", "items": candidate, "maxItems": count},
        "measure_again": {"type": "array", "items": {"type": "integer"}, "maxItems": 1},
        "stop": {"type": "boolean"},
    }
    return schema_text(strict_object(reply))


def _choice_schema(subtask: SubtaskSpace, label_of: Mapping[str, str]) -> dict[str, Any]:
    model = one_of(label_of[model] for model in subtask.models)
    counts = {"type": "integer", "enum": list(subtask.num_samples)}
    settings = strict_object({a.name: {"enum": list(a.values)} for a in subtask.settings})
    return strict_object({"model": model, "n": counts, **({"settings": settings} if subtask.settings else {})})


@dataclass(frozen=True, slots=True)
class FullReply:
    """What a reply has beside its candidates."""

    reason: str = ""
    """The reason, in one line."""
    again: tuple[int, ...] = ()
    """Numbers of trials whose other examples should be evaluated."""
    stops: bool = False
    """Whether the agent expects nothing better."""


def read_full(text: str) -> FullReply:
    """Read what a reply has beside its candidates; anything unreadable is left out.

    Args:
        text: The reply.
    """
    found = (value for value in repaired_json_values(text) if isinstance(value, Mapping))
    given = next((value for value in found if value.keys() & {"reason", "candidates", "measure_again", "stop"}), {})
    reason, again = given.get("reason"), given.get("measure_again")
    numbers = again if isinstance(again, list) else [again]
    return FullReply(
        " ".join(reason.split())[:REASON] if isinstance(reason, str) else "",
        tuple(n for n in numbers if isinstance(n, int) and not isinstance(n, bool)),
        given.get("stop") is True,
    )
