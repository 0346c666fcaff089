"""The prompts of AgentTTS (arXiv 2508.00890), for capable agents: the history with every metric of each trial, the
insights in full, the formula of the budget, and guidelines in free text, of which the first and the last two are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from agentopt.core.cost import SHOWN
from agentopt.core.records import Trial
from agentopt.models.base import Message
from agentopt.search.agent_prompts import labels, setting_text
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.settings import AgentSettings

INSIGHT_1 = (
    "Subtasks prefer different models. Some gain much from a large model; others score as well or better with a small "
    "model that draws several samples at the cost of one pass of the large one. Prefer the small model of a subtask "
    "unless the trials show that a larger one is clearly better there."
)
INSIGHT_2 = (
    "With more samples the score of a subtask rises, reaches a peak, and then stays or falls, because merging many "
    "samples becomes the bottleneck. Find for each subtask in which direction its best number of samples is, and how "
    "far; do not spend on samples beyond the peak."
)
INSIGHT_3 = (
    "All subtasks share one budget, and they depend on each other. After a better earlier subtask, which its metrics "
    "show, a later one needs fewer samples; after a worse one it gains from more. If the budget does not cover the "
    "best choice of every subtask, decide which subtask matters most and try different ways to divide the budget."
)
"""The insights of the paper, in our words."""

GOAL = (
    "You allocate test-time compute. A complex task is solved in subtasks. For each subtask you choose a model and a "
    "number of samples, which are merged into one output, so that the main score of the task is as high as possible "
    "within the budget."
)


def paper_system_message(
    space: SearchSpace, settings: AgentSettings, description: str, experience: str, *, insights: bool
) -> Message:
    """The system message: the task, its subtasks, models and sample counts, how costs are counted, and the insights.

    Args:
        space: The search space.
        settings: Which insights to show.
        description: Description of the task; left out if empty.
        experience: Text about a similar task; left out if empty.
        insights: Whether insights are shown at all.
    """
    label_of = labels(space)
    switches = {INSIGHT_1: settings.insight_1, INSIGHT_2: settings.insight_2, INSIGHT_3: settings.insight_3}
    shown = [text for text, on in switches.items() if on and insights]
    lines = [
        GOAL,
        *([f"Task: {description}"] if description else []),
        *(line for s in space.subtasks for line in _subtask(s, label_of)),
        *_budget(space),
        *(["Insights:"] if shown else []),
        *(f"{number}. {text}" for number, text in enumerate(shown, 1)),
        *([experience] if experience else []),
    ]
    return Message("system", "\n".join(lines))


def _subtask(subtask: SubtaskSpace, label_of: Mapping[str, str]) -> Iterator[str]:
    about = f" ({subtask.description})" if subtask.description else ""
    after = f", after {', '.join(subtask.reads)}" if subtask.reads else ""
    sizes = subtask.cost.parameters
    models = (f"{label_of[m]} = {m}" + (f" ({sizes[m] / 1e9:.3g}B)" if m in sizes else "") for m in subtask.models)
    yield f"Subtask {subtask.name}{about}{after}:"
    yield f"  models: {'; '.join(models)}"
    counts, cost = subtask.num_samples, subtask.cost
    contiguous = len(counts) == counts[-1] - counts[0] + 1
    yield f"  samples: {f'{counts[0]} to {counts[-1]}' if contiguous else ', '.join(map(str, counts))}"
    yield f"  tokens: {cost.prompt_tokens:.0f} of the prompt, {cost.completion_tokens:.0f} of each sample"
    yield from (f"  setting {setting_text(subtask, axis, label_of)}" for axis in subtask.settings)


def _budget(space: SearchSpace) -> Iterator[str]:
    """The formula of the costs in units, or where costs in USD or seconds come from; and the limits."""
    if space.measure == "units":
        unit = space.subtasks[0].cost.unit
        yield (
            "The cost of a subtask in units is (a * (P + S * D) - "
            f"{unit.prompt_tokens:.0f}) / {unit.completion_tokens:.0f}, where a is the size of the model over "
            f"{unit.parameters / 1e9:.3g}B, S the number of samples, P the tokens of the prompt and D those of one "
            "sample. The cost of a candidate is the sum over its subtasks."
        )
    else:
        yield f"Costs are in {SHOWN[space.measure][1]}, summed over the subtasks."
    for measure, most in space.limits:
        factor, unit_name = SHOWN[measure]
        yield f"The budget: at most {factor * most:.4g} {unit_name}."


def paper_history(space: SearchSpace, trials: Sequence[Trial]) -> str:
    """Every trial, oldest first: its choices, the main score, every metric, and its cost.

    Args:
        space: The search space.
        trials: The trials.
    """
    factor, unit = SHOWN[space.measure]
    label_of = labels(space)
    lines = []
    for trial in trials:
        choices = ", ".join(
            f"{name}: {label_of.get(choice.model, choice.model)} x{choice.num_samples}"
            + "".join(f" {setting}={value}" for setting, value in choice.settings)
            for name, choice in trial.candidate.items()
        )
        metrics = "".join(f", {name} {fmean(of.values()):.3f}" for name, of in trial.evaluation.metrics.items() if of)
        score = "none" if trial.score is None else f"{trial.score:.3f}"
        lines.append(
            f"{trial.number}. {choices} | main score {score}{metrics} | cost {factor * trial.units:.4g} {unit}"
        )
    return "\n".join(lines)


def paper_guideline_prompt(
    space: SearchSpace, trials: Sequence[Trial], last: Sequence[int], settings: AgentSettings, *, first: bool
) -> str:
    """The prompt for guidelines in free text.

    Args:
        space: The search space.
        trials: All trials so far.
        last: Numbers of the trials of the last batch.
        settings: Which insights are on.
        first: Whether this is the first round. Only then preferred models are requested; later rounds may explore.
    """
    new = [trial for trial in trials if trial.number in last]
    old = [trial for trial in trials if trial.number not in last]
    possible = (
        (first and settings.insight_1, "which model size each subtask should be searched with"),
        (settings.insight_2, "for each subtask, whether to try more or fewer samples, and where its score levels off"),
        (settings.insight_3, "how to divide the budget between the subtasks, given what each gains from it"),
        (not first, "whether the new scores hardly vary: then explore, by crossing, mutating or at random"),
    )
    points = [point for wanted, point in possible if wanted]
    lines = [
        *(["Earlier trials:", paper_history(space, old)] if old else []),
        "New trials:",
        paper_history(space, new),
        "Write short guidelines for the next candidates, point by point:",
        *(f"- {point}" for point in points),
    ]
    return "\n".join(lines)


def paper_proposal_prompt(
    space: SearchSpace, trials: Sequence[Trial] | None, guidelines: Sequence[str], count: int
) -> str:
    """The prompt for exactly `count` candidates as strict JSON, in the form of `agent_prompts.proposal_prompt`.

    Args:
        space: The search space.
        trials: All trials so far, or None to show no history.
        guidelines: Every text of guidelines so far, oldest first.
        count: Number of candidates to request.
    """
    kept = [*guidelines[:1], *guidelines[1:][-2:]]
    shape = ",".join(f'"{s.name}":"model xN{" setting=value" if s.settings else ""}"' for s in space.subtasks)
    new = ", none of which was tried" if trials is not None else ""
    lines = [
        *(["Every trial so far:", paper_history(space, trials)] if trials else []),
        *(f"Guidelines {number}:\n{text}" for number, text in enumerate(kept, 1)),
        f"Generate exactly {count} different candidates{new}, within the budget.",
        f'Answer in strict JSON only: {{"candidates":[{{{shape}}},...]}}',
    ]
    return "\n".join(lines)
