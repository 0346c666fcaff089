"""Checks that a candidate fits its task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from agentopt.core.axes import DEMOS
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import CandidateError
from agentopt.core.message_text import counted
from agentopt.core.task import Subtask, Task
from agentopt.models.catalog import ModelSpec


def checked_candidate(candidate: Candidate, task: Task) -> Candidate:
    """Return the candidate without the settings that are its subtask's own, so that equal candidates are equal.

    Raises:
        CandidateError: It does not choose, for every subtask, a model and settings of the task.
    """
    wanted = [s.name for s in task.subtasks]
    if sorted(candidate) != sorted(wanted):
        raise CandidateError(
            f"a candidate names every subtask of task {task.name} ({', '.join(wanted)}), but got "
            f"{', '.join(candidate) or 'none'}",
            remedy="use a best.yaml that a run of this task wrote",
        )
    for subtask in task.subtasks:
        if candidate[subtask.name].model not in subtask.models:
            raise CandidateError(
                f"subtask {subtask.name} may use {', '.join(subtask.models)}, but the candidate has "
                f"{candidate[subtask.name].model}",
                remedy=f"choose one of them, or add the model to the `models` of {subtask.name}; "
                "a candidate that a run found with -c settings needs these settings too",
            )
        allowed = {axis.name: axis.values for axis in subtask.settings}
        for name, value in candidate[subtask.name].settings:
            if value not in allowed.get(name, ()):
                values = ", ".join(map(str, allowed.get(name, ()))) or "no values"
                rule = f"`{name}` of subtask {subtask.name} may be {values}, but the candidate has {value}"
                raise CandidateError(rule, remedy=f"add it to the list of `{name}` in the task, or remove it")
        given, wanted_demos = len(candidate[subtask.name].demos), dict(candidate[subtask.name].settings).get(DEMOS, 0)
        if given != wanted_demos:
            rule = (
                f"the candidate has {counted(given, 'demonstration')} of subtask {subtask.name}, but its setting is "
                f"{wanted_demos}"
            )
            raise CandidateError(rule, remedy="use a best.yaml that a run wrote, which has the demonstrations")
    return Candidate.of({s.name: _without_own(candidate[s.name], s) for s in task.subtasks})


def candidate_notes(candidate: Candidate, task: Task, specs: Mapping[str, ModelSpec]) -> Iterator[str]:
    """Yield a note on each choice that a search of the task does not try, though it can be evaluated.

    Args:
        candidate: The candidate, which `checked_candidate` accepts.
        task: The task.
        specs: Catalogue entries of its models, by name.
    """
    for subtask in task.subtasks:
        choice = candidate[subtask.name]
        if choice.num_samples not in subtask.num_samples:
            listed = ", ".join(map(str, subtask.num_samples))
            yield (
                f"the candidate has num_samples {choice.num_samples} for {subtask.name}, which is not in the task's "
                f"list ({listed}): a search of this task does not try it"
            )
        effort = dict(choice.settings).get("effort")
        if effort is not None and not specs[choice.model].has_effort:
            yield (
                f"the candidate has effort={effort} for {subtask.name}, but {choice.model} has no reasoning effort by "
                "its catalogue entry: it is not sent"
            )


def _without_own(choice: SubtaskChoice, subtask: Subtask) -> SubtaskChoice:
    own = {axis.name: axis.values[0] for axis in subtask.settings}
    return replace(choice, settings=tuple((name, value) for name, value in choice.settings if value != own[name]))
