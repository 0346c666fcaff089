"""Drafts a task from recorded calls: its subtasks, seeds and examples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from agentopt.core.errors import TaskError
from agentopt.core.message_text import counted
from agentopt.core.power import power_advice
from agentopt.core.yaml_text import to_yaml
from agentopt.taskfile.profile import answer_kind
from agentopt.taskfile.scaffold import Draft, ModelsDraft, json_line, split_rows
from agentopt.taskfile.traces import Call

CHARACTERS = 4
"""Characters of a token, roughly, for the lengths that are expected until they are measured."""

HEAD = """# Made by `agentopt init` from recorded calls: a subtask for each name, in the order of their calls.
# The target is the recorded output of the last one: a score is the agreement with what was recorded, right or wrong,
# until you correct the targets in data/. The module agentopt.taskfile.schema documents
# every key.
"""


def draft_trace_task(name: str, calls: Sequence[Call], models: ModelsDraft, where: str) -> Draft:
    """Draft task.yaml and the splits.

    The most frequent sequence of calls is the workflow; other traces are left out. A later prompt reads the output of
    the call before it in place of the recorded one, and has it at its end if the recorded prompt did not contain it.

    Args:
        name: Name of the task.
        calls: The calls, sorted by trace and start.
        models: The models to choose from.
        where: The source of the calls, for messages.

    Raises:
        TaskError: There are too few traces with distinct inputs.
    """
    traces: dict[str, list[Call]] = {}
    for call in calls:
        traces.setdefault(call.trace, []).append(call)
    flows = Counter(tuple(call.name for call in trace) for trace in traces.values())
    flow = flows.most_common(1)[0][0]
    if len(set(flow)) < len(flow) or "inputs" in flow:
        rule = f"each call of a trace needs its own name, other than `inputs`, but got {', '.join(flow)}"
        raise TaskError(rule, where=where, remedy="name the spans by their step, or export the traces without loops")
    used = {key: trace for key, trace in traces.items() if tuple(call.name for call in trace) == flow}
    splits = split_rows([_example(key, trace) for key, trace in used.items()], where)
    data = {f"data/{split}.jsonl": "".join(map(json_line, rows)) for split, rows in splits.items()}
    task = {
        "name": name,
        "description": "Give the recorded answer.",
        "data": {split: f"data/{split}.jsonl" for split in splits},
        "subtasks": [_subtask(place, flow, used, models) for place in range(len(flow))],
        "scorer": "token_f1" if answer_kind([trace[-1].output for trace in used.values()]) == "long" else "exact_match",
        "cost": {"measure": "seconds" if models.is_local else "auto"},
    }
    notes = [
        f"The subtasks are {', '.join(flow)}, from {counted(len(used), 'trace')}.",
        "The target is the recorded output, right or wrong: a score is the agreement with it.",
        f"In the test, {power_advice(len(splits['test']))}.",
    ]
    if len(used) < len(traces):
        notes.append(f"{counted(len(traces) - len(used), 'trace')} with other calls left out.")
    return Draft({"task.yaml": HEAD + to_yaml(task), **data}, tuple(notes))


def _example(key: str, trace: Sequence[Call]) -> dict[str, Any]:
    row: dict[str, Any] = {"id": key, f"{trace[0].name}_prompt": trace[0].prompt}
    for earlier, call in pairwise(trace):
        before, found, after = call.prompt.partition(earlier.output.strip())
        row[f"{call.name}_before"], row[f"{call.name}_after"] = (before, after) if found else (f"{call.prompt}\n\n", "")
    return {**row, "target": trace[-1].output}


def _subtask(place: int, flow: Sequence[str], used: dict[str, list[Call]], models: ModelsDraft) -> dict[str, Any]:
    name, recorded = flow[place], [trace[place] for trace in used.values()]
    before, after = f"{{{{ inputs.{name}_before }}}}", f"{{{{ inputs.{name}_after }}}}"
    return {
        "name": name,
        "system_prompt": Counter(call.system for call in recorded).most_common(1)[0][0],
        "prompt": f"{before}{{{{ {flow[place - 1]}.output }}}}{after}" if place else f"{{{{ inputs.{name}_prompt }}}}",
        "models": list(models.names),
        "num_samples": [1, 3],
        "max_tokens": 256 if models.is_local else 2000,
        "tokens": {
            "prompt": _tokens([call.system + call.prompt for call in recorded]),
            "completion": _tokens([call.output for call in recorded]),
        },
    }


def _tokens(texts: Sequence[str]) -> int:
    return math.ceil(fmean(map(len, texts)) / CHARACTERS)
