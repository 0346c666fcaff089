"""Prompts of the search agent and the JSON schemas of its replies, kept short for small local models.

The constant part comes first, so that a server's prefix cache can keep it. A subtask's choice is written the same way
in the history, in the schemas and in the replies: `qwen x3` is three samples of the model labelled qwen, and
`qwen x3 temperature=0.7` has a setting. A setting at its first value is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from agentopt.core.axes import Axis
from agentopt.core.candidate import Candidate
from agentopt.core.cost import SHOWN, CostMeasure
from agentopt.core.records import Trial, by_score
from agentopt.models.base import Message
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.neighbourhood import affordable
from agentopt.search.settings import AgentSettings

BEST_SHOWN = 5
"""Number of the best trials that the agent is shown, besides the last batch."""
FLAT = 0.02
"""If the scores of a batch are closer together than this, the agent is prompted to explore."""
LISTED = 150
"""Most untried candidates that a schema lists one by one; a longer list slows down grammars."""
ADVICE_LENGTH = 80
"""Most characters of the advice in the guidelines."""
ADVICE = rf"^[A-Za-z0-9 ,.'-]{{0,{ADVICE_LENGTH}}}$"
"""Pattern of the advice. Without colon, equals sign and brackets, a small model cannot copy a line of the history."""
ROLES = ("exploit", "combine", "explore")
"""What a candidate is proposed for, in the prompt style `full`."""
DIRECTIONS = ("more", "fewer", "same")
"""Values of `samples` in the guidelines."""

INSIGHTS = (
    "Subtasks prefer different models: a small one unless a larger one is clearly better.",
    "With more samples the score rises, peaks, then falls.",
    "After a better earlier subtask a later one needs fewer samples.",
)
"""The insights of AgentTTS (arXiv 2508.00890), as shown to the agent."""


def labels(space: SearchSpace) -> dict[str, str]:
    """Map each model to its label in prompts: a prefix of its name that no other name shares, or else the name.

    The label is the shortest such prefix of two characters or more that ends before a digit or one of - _ / :.
    """
    names = list(dict.fromkeys(model for subtask in space.subtasks for model in subtask.models))
    return {name: _label(name, [n.casefold() for n in names if n != name]) for name in names}


def _label(name: str, others: Sequence[str]) -> str:
    starts = (name[: end.start()] for end in re.finditer(r"(?<=[A-Za-z])(?=\d)|[-_/:]", name) if end.start() > 1)
    return next((s for s in starts if not any(other.startswith(s.casefold()) for other in others)), name)


def enabled_insights(settings: AgentSettings) -> list[str]:
    """The insights that the settings leave on."""
    switches = (settings.insight_1, settings.insight_2, settings.insight_3)
    return [text for text, on in zip(INSIGHTS, switches, strict=True) if on]


def system_message(space: SearchSpace, settings: AgentSettings, description: str, experience: str = "") -> Message:
    """The system message: the task, the choices and their costs, and the insights. It is the same in every round.

    Args:
        space: The search space.
        settings: Which insights to show.
        description: Description of the task; left out if empty.
        experience: Text about a similar task; left out if empty.
    """
    label_of = labels(space)
    full = [f"{label} = {name}" for name, label in label_of.items() if label != name]
    limits = [f"{SHOWN[of][0] * most:.4g} {SHOWN[of][1]}" for of, most in space.limits]
    limit = f" All subtasks together may cost at most {' and '.join(limits)}." if limits else ""
    lines = [
        f"For each subtask choose a model and how many samples of its answer to merge, for the best score.{limit}",
        *([f"Task: {description}"] if description else []),
        *([f"Models: {', '.join(full)}."] if full else []),
        *(_subtask(s, label_of, space.measure) for s in space.subtasks),
        *enabled_insights(settings),
        *([experience] if experience else []),
    ]
    return Message("system", "\n".join(lines))


def _subtask(subtask: SubtaskSpace, label_of: Mapping[str, str], measure: CostMeasure) -> str:
    about = f" ({subtask.description})" if subtask.description else ""
    costs = ", ".join(_cost(subtask, model, label_of[model]) for model in subtask.models)
    settings = "".join(f"; {setting_text(subtask, axis, label_of)}" for axis in subtask.settings)
    samples = f"samples {_counts(subtask.num_samples)}; {SHOWN[measure][1]} for n: {costs}{_source(subtask, label_of)}"
    return f"Subtask {subtask.name}{about}: {samples}{settings}."


def _source(subtask: SubtaskSpace, label_of: Mapping[str, str]) -> str:
    """Which costs in USD were measured on trials; the others are those of the task's tokens."""
    if subtask.cost.measure != "usd":
        return ""
    measured = [label_of[model] for model in subtask.models if model in subtask.cost.passes]
    if len(measured) in (0, len(subtask.models)):
        return " (measured)" if measured else " (from the task's tokens)"
    return f" (measured: {', '.join(measured)}; others from the task's tokens)"


def setting_text(subtask: SubtaskSpace, axis: Axis, label_of: Mapping[str, str]) -> str:
    """The values of a setting, the one that may be left out first, and the models that have it if not all do.

    Args:
        subtask: The subtask.
        axis: The setting.
        label_of: Model -> its label.
    """
    first, *others = axis.values
    models = [label_of[model] for model in subtask.models if axis.name not in subtask.lacks.get(model, ())]
    only = "" if len(models) == len(subtask.models) else f" (only {', '.join(models)})"
    return f"{axis.name} {first} unless given, or {', '.join(map(str, others))}{only}"


def _cost(subtask: SubtaskSpace, model: str, label: str) -> str:
    once, twice = (SHOWN[subtask.cost.measure][0] * subtask.cost.units(model, n) for n in (1, 2))
    return f"{label} {_number(2 * once - twice)}+{_number(twice - once)}n"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _counts(counts: tuple[int, ...]) -> str:
    contiguous = len(counts) > 2 and counts[-1] - counts[0] + 1 == len(counts)
    return f"{counts[0]} to {counts[-1]}" if contiguous else ",".join(map(str, counts))


def history(space: SearchSpace, trials: Sequence[Trial], last: Sequence[int]) -> str:
    """The best trials and the last batch, best first, one per line.

    Args:
        space: The search space, for the labels of its models.
        trials: All trials so far.
        last: Numbers of the trials of the last batch.
    """
    label_of = labels(space)
    complete, others = ([t for t in trials if (t.state == "complete") is wanted] for wanted in (True, False))
    scored = [*by_score(complete), *by_score(others)]
    shown = [t for rank, t in enumerate(scored) if rank < BEST_SHOWN or t.number in last]
    lines = [_row(t, label_of, SHOWN[space.measure][0], new=t.number in last) for t in shown]
    return "\n".join([f"Tried, best score first ({SHOWN[space.measure][1]}):", *lines])


def _row(trial: Trial, label_of: Mapping[str, str], examples: float, *, new: bool) -> str:
    # A trial of an earlier run may use a model that this space no longer has.
    choices = {name: replace(c, model=label_of.get(c.model, c.model)) for name, c in trial.candidate.items()}
    flags = ["new"] * new + ["stopped early"] * (trial.state == "pruned") + ["failed"] * (trial.state == "incomplete")
    return f"{Candidate.of(choices)} = {trial.score:.2f} ({', '.join([_number(examples * trial.units), *flags])})"


def guideline_prompt(
    space: SearchSpace, trials: Sequence[Trial], last: Sequence[int], settings: AgentSettings, *, first: bool
) -> str:
    """The prompt for guidelines; it requests the points that `guideline_schema` allows.

    Args:
        space: The search space.
        trials: All trials so far.
        last: Numbers of the trials of the last batch.
        settings: Which insights are on.
        first: Whether this is the first round. Only then the preferred models are requested.
    """
    points = [
        *(["the model that suits each subtask"] if _requests_models(settings, first=first) else []),
        *(["whether it needs more, fewer or the same samples"] if settings.insight_2 else []),
        *(["the subtask to spend more on"] if _requests_spending(space, settings) else []),
        "advice in a few words: which model or samples to change next",
    ]
    lines = [history(space, trials, last), f"From these scores derive, as JSON in one line: {'; '.join(points)}."]
    if not first and hardly_varies(trials, last):
        lines.append("The new scores hardly vary: advise what to explore instead, by crossing, mutating or at random.")
    return "\n".join(lines)


def _requests_models(settings: AgentSettings, *, first: bool) -> bool:
    return first and settings.insight_1


def _requests_spending(space: SearchSpace, settings: AgentSettings) -> bool:
    return settings.insight_3 and len(space.subtasks) > 1


def guideline_schema(space: SearchSpace, settings: AgentSettings, *, first: bool) -> str:
    """JSON schema of the guidelines that `read_guidelines` reads, as compact text.

    It has, for each subtask, its best `model` and whether it needs more, fewer or the same `samples`; the subtask to
    `spend` more on; and last, so that it follows from the rest, the `advice`. For `first` see `guideline_prompt`.

    Args:
        space: The search space.
        settings: The settings of the agent.
        first: See `guideline_prompt`.
    """
    label_of = labels(space)
    points: dict[str, Any] = {}
    for subtask in space.subtasks:
        properties: dict[str, Any] = {}
        if _requests_models(settings, first=first):
            properties["model"] = one_of(label_of[model] for model in subtask.models)
        if settings.insight_2:
            properties["samples"] = one_of(DIRECTIONS)
        if properties:
            points[subtask.name] = strict_object(properties)
    if _requests_spending(space, settings):
        points["spend"] = one_of(s.name for s in space.subtasks)
    return schema_text(strict_object({**points, "advice": {"type": "string", "pattern": ADVICE}}))


def hardly_varies(trials: Sequence[Trial], last: Sequence[int]) -> bool:
    """Whether the last batch has at least two scores, all within a range of `FLAT`."""
    scores = [t.score for t in trials if t.number in last and t.score is not None]
    return len(scores) > 1 and max(scores) - min(scores) < FLAT


def proposal_prompt(
    space: SearchSpace, trials: Sequence[Trial] | None, last: Sequence[int], guidelines: str, count: int
) -> str:
    """The prompt for `count` new candidates as JSON.

    Args:
        space: The search space.
        trials: All trials so far, or None to show no history.
        last: Numbers of the trials of the last batch.
        guidelines: The agent's guidelines; left out if empty.
        count: Number of candidates to request.
    """
    shape = ",".join(f'"{s.name}":"model xN{" setting=value" if s.settings else ""}"' for s in space.subtasks)
    instructions = [f"Propose {count} candidates, all different, that score best."]
    if trials is not None:
        instructions = [
            f"Propose {count} new candidates, all different, none tried.",
            f"Start from the best and change one thing: {_changes(space)}.",
        ]
    lines = [
        *([history(space, trials, last)] if trials is not None else []),
        *([f"Guidelines: {guidelines}"] if guidelines else []),
        *instructions,
        f'Answer in JSON only, in one line: {{"candidates":[{{{shape}}},...]}}',
    ]
    return "\n".join(lines)


def _changes(space: SearchSpace) -> str:
    has_settings = any(subtask.settings for subtask in space.subtasks)
    return f"a model, {'a setting, ' if has_settings else ''}or a number of samples by a step or two"


def retry_message(problem: str) -> str:
    """The text to append to the prompt after a reply without a usable candidate."""
    return f"That did not work: {problem}. Answer again, in JSON only, with candidates that were not tried."


def proposal_schema(space: SearchSpace, tried: Collection[Candidate], count: int) -> str:
    """JSON schema of a reply with `count` candidates, as compact text; subtasks in the task's order.

    If at most `LISTED` candidates are left, the schema allows only those that are affordable and not in `tried`;
    otherwise it allows every combination of choices. It cannot rule out equal candidates in one reply.

    Args:
        space: The search space.
        tried: Candidates that are not to be proposed again.
        count: Number of candidates in the reply.
    """
    left = [c for c in islice(affordable(space), LISTED + len(tried) + 1) if c not in tried]
    label_of = labels(space)
    if 0 < len(left) <= LISTED:
        rows = [tuple(str(replace(c, model=label_of[c.model])) for c in row.values()) for row in left]
        candidate = _any_row([s.name for s in space.subtasks], rows)
    else:
        candidate = strict_object({s.name: _choice(s, label_of) for s in space.subtasks})
    listed = {"type": "array", "items": candidate, "minItems": count, "maxItems": count}
    return schema_text(strict_object({"candidates": listed}))


def _any_row(names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Schema of an object that is one of the rows. Rows that differ only in their last entry share one alternative."""
    endings: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        endings.setdefault(row[:-1], []).append(row[-1])
    alternatives = [
        strict_object(
            {name: one_of(allowed) for name, allowed in zip(names, [*([v] for v in start), last], strict=True)}
        )
        for start, last in endings.items()
    ]
    return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}


def _choice(subtask: SubtaskSpace, label_of: Mapping[str, str]) -> dict[str, Any]:
    if subtask.size <= LISTED:
        return one_of(str(replace(choice, model=label_of[choice.model])) for choice in subtask.choices())
    # A long enumeration makes a large grammar; `agent_reply` rounds to the nearest allowed count, and leaves out a
    # setting that the model does not have.
    models = "|".join(_literal(label_of[model]) for model in subtask.models)
    digits = len(str(subtask.num_samples[-1])) - 1
    settings = (
        f"( {_literal(axis.name)}=({'|'.join(_literal(str(value)) for value in axis.values[1:])}))?"
        for axis in sorted(subtask.settings, key=lambda axis: axis.name)
        if len(axis.values) > 1
    )
    return {"type": "string", "pattern": f"^({models}) x[1-9][0-9]{{0,{digits}}}{''.join(settings)}$"}


def _literal(text: str) -> str:
    # `re.escape` also escapes the hyphen, which converters from patterns to grammars do not accept.
    return re.sub(r"([\^$.|?*+()\[\]{}\\])", r"\\\1", text)


def one_of(values: Iterable[str]) -> dict[str, Any]:
    """Schema of one of some strings.

    Args:
        values: The strings.
    """
    return {"type": "string", "enum": list(values)}


def strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """Schema of an object that has exactly these properties.

    Args:
        properties: Name -> schema.
    """
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as compact text.

    Args:
        schema: The schema.
    """
    return json.dumps(schema, separators=(",", ":"))
