"""What the search agent is told and the JSON schemas of its answers; pure text, kept short for small local models.

What stays the same in every round comes first, so that a server's prefix cache keeps it. A stage's choice is one
string wherever it stands, in the history, in the schemas and in the answers: `qwen x3` is three samples of the model
labelled qwen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any

from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial
from agentopt.models.base import Message
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.neighbourhood import affordable
from agentopt.search.settings import AgentSettings

BEST_SHOWN = 5
"""How many of the best trials the agent sees, besides the last batch."""
FLAT = 0.02
"""Scores of a batch closer together than this hardly vary: the agent is told to explore."""
LISTED = 150
"""Where no more candidates than this are left to try, the schema admits these alone; a longer list slows grammars."""
ADVICE_LENGTH = 80
"""Most characters of the advice in the guidelines."""
ADVICE = rf"^[A-Za-z0-9 ,.:'-]{{0,{ADVICE_LENGTH}}}$"
"""What the advice may look like: without + = and brackets, or a small model copies a line of the history."""
DIRECTIONS = ("more", "fewer", "same")

INSIGHTS = (
    "Stages prefer different models: a small one unless a larger one is clearly better.",
    "With more samples the score rises, peaks, then falls.",
    "After a better earlier stage a later one needs fewer samples.",
)


def labels(space: SearchSpace) -> dict[str, str]:
    """Model -> what the agent calls it: a start of its name that no other name shares, or else the name.

    The shortest one of two characters or more that ends before a number or one of - _ / :.
    """
    names = list(dict.fromkeys(model for subtask in space.subtasks for model in subtask.models))
    return {name: _label(name, [n.casefold() for n in names if n != name]) for name in names}


def _label(name: str, others: Sequence[str]) -> str:
    starts = (name[: end.start()] for end in re.finditer(r"(?<=[A-Za-z])(?=\d)|[-_/:]", name) if end.start() > 1)
    return next((s for s in starts if not any(other.startswith(s.casefold()) for other in others)), name)


def told(settings: AgentSettings) -> list[str]:
    """The insights that the agent is told."""
    switches = (settings.insight_1, settings.insight_2, settings.insight_3)
    return [text for text, on in zip(INSIGHTS, switches, strict=True) if on]


def introduction(space: SearchSpace, settings: AgentSettings, brief: str, experience: str = "") -> Message:
    """The task, what may be chosen, what it costs, the insights, and the experience: the same in every round."""
    called = labels(space)
    full = [f"{label} = {name}" for name, label in called.items() if label != name]
    limit = "" if space.max_units is None else f" All stages together cost at most {space.max_units:.4g} units."
    lines = [
        f"For each stage choose a model and how many samples of its answer to merge, for the best score.{limit}",
        *([f"Task: {brief}"] if brief else []),
        *([f"Models: {', '.join(full)}."] if full else []),
        *(_stage(s, called) for s in space.subtasks),
        *told(settings),
        *([experience] if experience else []),
    ]
    return Message("system", "\n".join(lines))


def _stage(subtask: SubtaskSpace, called: dict[str, str]) -> str:
    about = f" ({subtask.description})" if subtask.description else ""
    costs = ", ".join(_cost(subtask, model, called[model]) for model in subtask.models)
    return f"Stage {subtask.name}{about}: samples {_counts(subtask.num_samples)}; units for n: {costs}."


def _cost(subtask: SubtaskSpace, model: str, label: str) -> str:
    once, twice = (subtask.cost.units(model, n) for n in (1, 2))
    return f"{label} {_number(2 * once - twice)}+{_number(twice - once)}n"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _counts(counts: tuple[int, ...]) -> str:
    if len(counts) > 2 and _contiguous(counts):
        return f"{counts[0]} to {counts[-1]}"
    return ",".join(map(str, counts))


def _contiguous(counts: tuple[int, ...]) -> bool:
    return counts[-1] - counts[0] + 1 == len(counts)


def history(space: SearchSpace, trials: Sequence[Trial], last: Sequence[int]) -> str:
    """The best trials and the last batch, best first, one line each."""
    called = labels(space)
    scored = sorted((t for t in trials if t.score is not None), key=_rank)
    shown = [t for place, t in enumerate(scored) if place < BEST_SHOWN or t.number in last]
    lines = [_row(t, called, new=t.number in last) for t in shown]
    return "\n".join(["Tried, best score first (units):", *lines])


def _rank(trial: Trial) -> tuple[bool, float, int]:
    return trial.state != "complete", -(trial.score or 0.0), trial.number


def _row(trial: Trial, called: dict[str, str], *, new: bool) -> str:
    # A trial of an earlier run may use a model that this space no longer has.
    stages = " + ".join(
        f"{name} {called.get(c.model, c.model)} x{c.num_samples}" for name, c in trial.candidate.items()
    )
    flags = ["new"] * new + ["stopped early"] * (trial.state == "pruned") + ["failed"] * (trial.state == "incomplete")
    return f"{stages} = {trial.score:.2f} ({', '.join([_number(trial.units), *flags])})"


def ask_for_guidelines(
    space: SearchSpace, trials: Sequence[Trial], last: Sequence[int], settings: AgentSettings, *, first: bool
) -> str:
    """The question for guidelines; what is asked is what `guideline_schema` admits."""
    points = [
        *(["the model that suits each stage"] if _asks_models(settings, first=first) else []),
        *(["whether it needs more, fewer or the same samples"] if settings.insight_2 else []),
        *(["the stage to spend more on"] if _asks_spending(space, settings) else []),
        "advice in a few words: which model or samples to change next",
    ]
    lines = [history(space, trials, last), f"From these scores give, as JSON in one line: {'; '.join(points)}."]
    if not first and hardly_varies(trials, last):
        lines.append("The new scores hardly vary: advise what to explore instead, by crossing, mutating or at random.")
    return "\n".join(lines)


def _asks_models(settings: AgentSettings, *, first: bool) -> bool:
    """After the first round the preference for models is not asked again (METHODS, "Guidelines")."""
    return first and settings.insight_1


def _asks_spending(space: SearchSpace, settings: AgentSettings) -> bool:
    return settings.insight_3 and len(space.subtasks) > 1


def guideline_schema(space: SearchSpace, settings: AgentSettings, *, first: bool) -> str:
    """The canonical JSON text of the schema of the guidelines, as `read_guidelines` reads them.

    Per subtask its best `model` and whether it needs more, fewer or the same `samples`; the subtask to `spend` more on;
    last, so that it follows from the rest, the `advice`.
    """
    called = labels(space)
    points: dict[str, Any] = {}
    for subtask in space.subtasks:
        asked: dict[str, Any] = {}
        if _asks_models(settings, first=first):
            asked["model"] = _one_of(called[model] for model in subtask.models)
        if settings.insight_2:
            asked["samples"] = _one_of(DIRECTIONS)
        if asked:
            points[subtask.name] = _object(asked)
    if _asks_spending(space, settings):
        points["spend"] = _one_of(s.name for s in space.subtasks)
    return _text(_object({**points, "advice": {"type": "string", "pattern": ADVICE}}))


def hardly_varies(trials: Sequence[Trial], last: Sequence[int]) -> bool:
    """Whether the last batch has at least two scores, all within `FLAT`."""
    scores = [t.score for t in trials if t.number in last and t.score is not None]
    return len(scores) > 1 and max(scores) - min(scores) < FLAT


def ask_for_candidates(
    space: SearchSpace, trials: Sequence[Trial] | None, last: Sequence[int], guidelines: str, count: int
) -> str:
    """The question for `count` new candidates as JSON. Where `trials` is None it says nothing of a history."""
    shape = ",".join(f'"{s.name}":"model xN"' for s in space.subtasks)
    wish = [f"Propose {count} candidates, all different, that score best."]
    if trials is not None:
        wish = [
            f"Propose {count} new candidates, all different, none tried.",
            "Start from the best and change one thing: a model, or a number of samples by a step or two.",
        ]
    lines = [
        *([history(space, trials, last)] if trials is not None else []),
        *([f"Guidelines: {guidelines}"] if guidelines else []),
        *wish,
        f'Answer in JSON only, in one line: {{"candidates":[{{{shape}}},...]}}',
    ]
    return "\n".join(lines)


def ask_again(problem: str) -> str:
    """What is added after an answer that gave nothing to run."""
    return f"That did not work: {problem}. Answer again, in JSON only, with candidates that were not tried."


def proposal_schema(space: SearchSpace, tried: Collection[Candidate], count: int) -> str:
    """The canonical JSON text of the schema of `count` candidates; subtasks in the task's order.

    Where few candidates are left it admits only those that are affordable and not in `tried`; else every allowed choice
    of each subtask. Two alike in one answer it cannot rule out.
    """
    left = [c for c in islice(affordable(space), LISTED + len(tried) + 1) if c not in tried]
    called = labels(space)
    if 0 < len(left) <= LISTED:
        rows = [tuple(f"{called[c.model]} x{c.num_samples}" for c in row.values()) for row in left]
        candidate = _any_row([s.name for s in space.subtasks], rows)
    else:
        candidate = _object({s.name: _choice(s, called) for s in space.subtasks})
    listed = {"type": "array", "items": candidate, "minItems": count, "maxItems": count}
    return _text(_object({"candidates": listed}))


def _any_row(names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """An object that is one of the rows. Rows that differ only in their last entry share one alternative."""
    endings: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        endings.setdefault(row[:-1], []).append(row[-1])
    alternatives = [
        _object({name: _one_of(allowed) for name, allowed in zip(names, [*([v] for v in start), last], strict=True)})
        for start, last in endings.items()
    ]
    return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}


def _choice(subtask: SubtaskSpace, called: dict[str, str]) -> dict[str, Any]:
    models, counts = [called[model] for model in subtask.models], subtask.num_samples
    if len(models) * len(counts) <= LISTED:
        return _one_of(f"{model} x{count}" for model in models for count in counts)
    # A long enumeration makes a large grammar; the reader takes the nearest allowed count.
    digits = len(str(counts[-1])) - 1
    return {"type": "string", "pattern": f"^({'|'.join(map(_literal, models))}) x[1-9][0-9]{{0,{digits}}}$"}


def _literal(text: str) -> str:
    # `re.escape` also escapes the hyphen, which grammars made from patterns do not read.
    return re.sub(r"([\^$.|?*+()\[\]{}\\])", r"\\\1", text)


def _one_of(values: Iterable[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, separators=(",", ":"))
