"""What the agent expects before any trial: its prompt, the schema of the reply, and how that is read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from agentopt.core.json_text import repaired_json_values
from agentopt.search.agent_prompts import labels, one_of, schema_text, strict_object
from agentopt.search.agent_reply import UnreadableError, read_count, read_model
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.belief import Belief

PRIOR_PROMPT = (
    "Nothing was tried yet. From the names, sizes and costs of the models and from what each subtask does, rank its "
    "models by the score that you expect of them (best first), and give the fewest and the most samples that are "
    "plausible for the best score. Scores will show how far you are right. Answer in JSON only, in one line."
)


def prior_schema(space: SearchSpace) -> str:
    """JSON schema of the reply: for each subtask its models, the best first, and a range of sample counts.

    Args:
        space: The search space.
    """
    label_of = labels(space)
    return schema_text(strict_object({s.name: _of_subtask(s, label_of) for s in space.subtasks}))


def _of_subtask(subtask: SubtaskSpace, label_of: Mapping[str, str]) -> dict[str, Any]:
    models, count = one_of(label_of[model] for model in subtask.models), {"type": "integer"}
    ranking = {"type": "array", "items": models, "minItems": len(subtask.models), "maxItems": len(subtask.models)}
    return strict_object({"ranking": ranking, "fewest": count, "most": count})


def read_prior(text: str, space: SearchSpace) -> dict[str, Belief]:
    """The beliefs in a reply by subtask; subtasks without a readable one are left out.

    Args:
        text: The reply.
        space: The search space.
    """
    answer = next((value for value in repaired_json_values(text) if isinstance(value, Mapping)), {})
    given = {str(key).casefold(): value for key, value in answer.items()}
    found = {}
    for subtask in space.subtasks:
        with suppress(UnreadableError):
            found[subtask.name] = _belief(given.get(subtask.name.casefold()), subtask, labels(space))
    return found


def _belief(value: Any, subtask: SubtaskSpace, label_of: Mapping[str, str]) -> Belief:
    if not isinstance(value, Mapping) or not isinstance(value.get("ranking"), list):
        raise UnreadableError(f"{subtask.name} has no ranking")
    ranking = dict.fromkeys(read_model(model, subtask, label_of) for model in value["ranking"])
    counts = sorted(read_count(value.get(end), subtask) for end in ("fewest", "most"))
    return Belief(tuple(ranking), counts[0], counts[1])


def with_beliefs(space: SearchSpace, beliefs: Mapping[str, Belief]) -> SearchSpace:
    """The same space with what the agent expects of its subtasks.

    Args:
        space: The search space.
        beliefs: Subtask -> belief.
    """
    return replace(space, subtasks=tuple(replace(s, belief=beliefs.get(s.name)) for s in space.subtasks))
