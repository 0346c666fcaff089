"""What the search agent is told and the JSON schema of its answer; pure text, kept short for small local models.

What stays the same in every round comes first, so that a server's prefix cache keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentopt.models.base import Message
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.settings import AgentSettings
from agentopt.trial import Trial

BEST_SHOWN = 8
"""How many of the best trials the agent sees, besides the last batch."""
FLAT = 0.02
"""Scores of a batch closer together than this hardly vary: the agent is told to explore."""

INSIGHTS = (
    "Stages prefer different models: take a small one unless a larger one is clearly better.",
    "With more samples the score rises, peaks, then is flat or falls.",
    "A better earlier stage lowers the best num_samples of a later stage.",
)
REASON = r"^[A-Za-z0-9 ,.:()+-]{0,100}$"


def told(settings: AgentSettings) -> list[str]:
    """The insights that the agent is told."""
    switches = (settings.insight_1, settings.insight_2, settings.insight_3)
    return [text for text, on in zip(INSIGHTS, switches, strict=True) if on]


def introduction(space: SearchSpace, settings: AgentSettings, brief: str) -> Message:
    """The task, what may be chosen, what it costs, and the insights: the same in every round."""
    limit = "" if space.max_units is None else f" A trial may cost at most {space.max_units:.4g} units in total."
    goal = "Choose each stage's model and num_samples, how many answers are drawn and merged, for the highest score."
    lines = [
        f"You tune a pipeline of stages. {goal}{limit}",
        *([f"Task: {brief}"] if brief else []),
        *(_stage(s) for s in space.subtasks),
        *told(settings),
    ]
    return Message("system", "\n".join(lines))


def _stage(subtask: SubtaskSpace) -> str:
    about = f" ({subtask.description})" if subtask.description else ""
    models = "; ".join(_model(subtask, model) for model in subtask.models)
    return f"Stage {subtask.name}{about}: num_samples {_counts(subtask.num_samples)}. Models: {models}."


def _model(subtask: SubtaskSpace, model: str) -> str:
    once, twice = (subtask.cost.units(model, n) for n in (1, 2))
    return f"{model} costs {once:.3g} for 1 sample, {twice - once:.3g} per further one"


def _counts(counts: tuple[int, ...]) -> str:
    if len(counts) > 2 and _contiguous(counts):
        return f"{counts[0]} to {counts[-1]}"
    return ", ".join(map(str, counts))


def _contiguous(counts: tuple[int, ...]) -> bool:
    return counts[-1] - counts[0] + 1 == len(counts)


def history(trials: Sequence[Trial], last: Sequence[int]) -> str:
    """The best trials and the last batch as a table, best first, one line each."""
    scored = sorted((t for t in trials if t.score is not None), key=_rank)
    shown = [t for place, t in enumerate(scored) if place < BEST_SHOWN or t.number in last]
    lines = [_row(t, new=t.number in last) for t in shown]
    return "\n".join(["Tried, best first (score, cost):", *lines])


def _rank(trial: Trial) -> tuple[bool, float, int]:
    return trial.state != "complete", -(trial.score or 0.0), trial.number


def _row(trial: Trial, *, new: bool) -> str:
    choices = ", ".join(f"{name} {c.model} x{c.num_samples}" for name, c in trial.candidate.items())
    flags = ["new"] * new + ["stopped early"] * (trial.state == "pruned") + ["failed"] * (trial.state == "incomplete")
    return f"{trial.score:.3f} {trial.units:.4g} {choices}" + (f" ({', '.join(flags)})" if flags else "")


def ask_for_guidelines(trials: Sequence[Trial], last: Sequence[int], settings: AgentSettings, *, first: bool) -> str:
    """The question for guidelines; after the first round the preference for models is not asked again."""
    points = [
        *(["which model each stage prefers"] if first and settings.insight_1 else []),
        *(["whether each stage needs more or fewer samples"] if settings.insight_2 else []),
        *(["which stage deserves more of the cost"] if settings.insight_3 else []),
    ]
    subject = ", ".join(points) or "what to try next"
    lines = [history(trials, last), f"From these scores say in one short sentence per stage, no list: {subject}."]
    if not first and hardly_varies(trials, last):
        lines.append("The new scores hardly vary: say what to explore instead, by crossing, mutating or at random.")
    return "\n".join(lines)


def hardly_varies(trials: Sequence[Trial], last: Sequence[int]) -> bool:
    """Whether the last batch has at least two scores, all within `FLAT`."""
    scores = [t.score for t in trials if t.number in last and t.score is not None]
    return len(scores) > 1 and max(scores) - min(scores) < FLAT


def ask_for_candidates(
    space: SearchSpace, trials: Sequence[Trial], last: Sequence[int], guidelines: str, count: int
) -> str:
    """The question for `count` new candidates as JSON."""
    shape = ", ".join(f'"{s.name}": {{"model": "...", "num_samples": ...}}' for s in space.subtasks)
    lines = [
        history(trials, last),
        *([f"Guidelines: {guidelines}"] if guidelines else []),
        f"Propose {count} new candidates, different from each other and from all tried.",
        "Start from the best ones and change one thing: a model, or a num_samples by a step or two.",
        f'Answer in JSON only: {{"candidates": [{{{shape}}}, ...], "reason": "a few words"}}',
    ]
    return "\n".join(lines)


def ask_again(problem: str) -> str:
    """What is added after an answer that gave nothing to run."""
    return f"That did not work: {problem}. Answer again, in JSON only, with candidates that were not tried."


def proposal_schema(space: SearchSpace, count: int) -> str:
    """The canonical JSON text of the schema of `count` candidates and a reason; subtasks in the task's order."""
    candidate = _object({s.name: _choice(s) for s in space.subtasks})
    listed = {"type": "array", "items": candidate, "minItems": count, "maxItems": count}
    schema = _object({"candidates": listed, "reason": {"type": "string", "pattern": REASON}})
    return json.dumps(schema, separators=(",", ":"))


def _choice(subtask: SubtaskSpace) -> dict[str, Any]:
    counts = subtask.num_samples
    # A long run of numbers as an enumeration makes a large grammar; its bounds say the same.
    allowed = (
        {"minimum": counts[0], "maximum": counts[-1]}
        if len(counts) > 20 and _contiguous(counts)
        else {"enum": list(counts)}
    )
    return _object(
        {"model": {"type": "string", "enum": list(subtask.models)}, "num_samples": {"type": "integer", **allowed}}
    )


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
