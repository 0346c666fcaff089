"""Reads what a search varies in a subtask: settings that are given as lists, knobs, and cascades."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from agentopt.core.axes import KNOBS, Axis, Cascade, as_axes, is_template_name
from agentopt.core.demos import Demos
from agentopt.core.errors import TaskError
from agentopt.core.task_rules import check_cascade
from agentopt.core.user_functions import Functions
from agentopt.core.yaml_models import did_you_mean, shown
from agentopt.taskfile.schema import SubtaskSpec
from agentopt.workflow.templates import Template


def read_axes(spec: SubtaskSpec, at: Callable[[str], str]) -> tuple[Axis, ...]:
    """The axes of a subtask.

    Args:
        spec: The subtask in the file.
        at: Returns the place of a key of the subtask, for messages.

    Raises:
        TaskError: A knob's name is no identifier, or a list breaks a rule.
    """
    for name in spec.knobs:
        if not is_template_name(name):
            rule = f"a knob's name must be a word that templates can use, but got {shown(name)}"
            raise TaskError(rule, where=at(KNOBS), remedy="use letters, digits and _, and start with a letter")
    axes: list[Axis] = []
    for name, values in spec.several.items():
        try:
            axes += as_axes({name: values})
        except TaskError as error:
            raise TaskError(error.message, where=at(name), remedy=error.remedy) from error
    return tuple(axes)


def read_cascade(spec: SubtaskSpec, functions: Functions, at: Callable[[str], str]) -> Cascade | None:
    """The cascade of a subtask.

    Args:
        spec: The subtask in the file.
        functions: Loads the check.
        at: Returns the place of a key of the subtask, for messages.

    Raises:
        TaskError: Its models are not two of the subtask's, or there is no such check.
    """
    if spec.cascade is None:
        return None
    check = functions(spec.cascade.check, at("cascade.check")) if spec.cascade.check else None
    small, big = spec.cascade.models
    cascade = Cascade(small, big, spec.cascade.below, check)
    check_cascade(cascade, spec.models, at("cascade"))
    return cascade


def read_demos(spec: SubtaskSpec, at: Callable[[str], str]) -> Demos | None:
    """The demonstrations of a subtask.

    Args:
        spec: The subtask in the file.
        at: Returns the place of a key of the subtask, for messages.

    Raises:
        TaskError: The numbers break a rule.
    """
    try:
        return Demos(**dict(spec.demos)) if spec.demos else None
    except TaskError as error:
        raise TaskError(error.message, where=at("demos"), remedy=error.remedy) from error


def check_knobs(spec: SubtaskSpec, template: Template, names: Collection[str], where: str) -> None:
    """Check that the subtask has the knobs that its template reads, and that each of its knobs is read.

    `knobs` may also be the name of a subtask.

    Args:
        spec: The subtask in the file.
        template: Its prompt.
        names: Names of the task's subtasks.
        where: The place of the prompt, for messages.

    Raises:
        TaskError: It reads another one, or a knob is read by nothing: all of its values would be alike.
    """
    read = {attribute for name, attribute in template.attributes if name == KNOBS}
    reads_knobs = KNOBS in template.references and (KNOBS not in names or bool(spec.knobs))
    if reads_knobs and (unknown := sorted(read - spec.knobs.keys())):
        rule = f"the template reads `{KNOBS}.{unknown[0]}`, which is not a knob of the subtask"
        declare = f"declare it: `{KNOBS}: {{{unknown[0]}: ...}}`"
        raise TaskError(rule, where=where, remedy=did_you_mean(unknown[0], spec.knobs, declare))
    if reads_knobs and not spec.knobs:
        rule = f"the template reads `{KNOBS}`, but the subtask has none"
        raise TaskError(rule, where=where, remedy=f"declare one: `{KNOBS}: {{NAME: ...}}`, and read `{KNOBS}.NAME`")
    reads_all = reads_knobs and re.search(rf"\b{KNOBS}\b(?!\s*\.)", template.text)  # as a mapping
    # Names that no template can read are refused with the others, when the subtask is built.
    readable = {name for name in spec.knobs if name.isidentifier() and not name.startswith("_")}
    if (unused := sorted(readable - read)) and not spec.context and not reads_all:
        rule = f"the subtask has no `context`, and its prompt does not read its knob `{unused[0]}`"
        remedy = f"write {{{{ {KNOBS}.{unused[0]} }}}} in the prompt, or remove the knob"
        raise TaskError(rule, where=where, remedy=remedy)
