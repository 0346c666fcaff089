"""Prompt templates: sandboxed Jinja in which `inputs.<column>` and `<subtask>.output` can be read.

A template may come from an untrusted source: it can access only the values passed to it, and cannot loop endlessly
(`template_limits`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta, nodes

from agentopt.core.errors import TaskError
from agentopt.core.task_rules import CONTEXT, INPUTS, OLD_CONTEXT
from agentopt.core.yaml_models import shown
from agentopt.workflow.template_limits import BoundedEnvironment, TooMuchError, counting


class Record:
    """A mapping as a template sees it: keys only, so that a column named `items` does not read a method."""

    __slots__ = ("_data",)

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


class _Undefined(jinja2.StrictUndefined):
    """Reports the undefined variable by its name in the template."""

    @property
    def _undefined_message(self) -> str:
        known = ", ".join(map(str, self._undefined_obj)) if isinstance(self._undefined_obj, Record) else ""
        return f"`{self._undefined_name}` is not defined{f' (there is: {known})' if known else ''}"


def _finalize(value: Any) -> Any:
    """Write lists and objects as JSON instead of as Python literals."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value


def written(value: Any) -> str:
    """Return the value as a template writes it into a prompt."""
    return str(_finalize(value))


def _environment() -> BoundedEnvironment:
    # Prompts are plain text for a model, not HTML: escaping would corrupt them.
    environment = BoundedEnvironment(undefined=_Undefined, autoescape=False, finalize=_finalize)
    environment.globals = {name: environment.globals[name] for name in ("range", "dict", "namespace")}
    return environment


ENVIRONMENT = _environment()
"""The environment of every prompt template; exported modules contain a copy."""


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template.

    Attributes:
        text: The source.
        references: The undeclared names that it reads: `inputs`, `context` and subtasks.
        attributes: The (name, attribute) pairs that it reads from them.
    """

    text: str
    references: frozenset[str]
    attributes: frozenset[tuple[str, str]]
    _compiled: jinja2.Template

    @property
    def columns(self) -> frozenset[str]:
        """The attributes of `inputs`."""
        return frozenset(attribute for name, attribute in self.attributes if name == INPUTS)

    def render(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        """Render the template for one example.

        Args:
            inputs: The example's columns.
            outputs: Subtask name to output, `context` to the result of a context function, and `knobs` to a
                `Record` of the knobs.

        Raises:
            TaskError: If a variable is not defined, or the template fails.
        """
        names = {n: value if isinstance(value, Record) else Record({"output": value}) for n, value in outputs.items()}
        if CONTEXT in names:
            names[OLD_CONTEXT] = names[CONTEXT]
        return self.render_names(**names, **{INPUTS: Record(inputs)})

    def render_names(self, **names: Any) -> str:
        """Render the template with these variables.

        Raises:
            TaskError: As for `render`.
        """
        try:
            with counting():
                return self._compiled.render(names)
        except TooMuchError as error:
            rule = f"the template cannot be rendered: {error}"
            raise TaskError(rule, remedy="compute it in a context function, or in the data") from error
        except jinja2.UndefinedError as error:
            raise TaskError(str(error), remedy="correct the name in the template, or the data") from error
        except Exception as error:  # a template is a user's program, which may raise anything
            problem = f"the template cannot be rendered: {type(error).__name__}: {error}"
            raise TaskError(problem, remedy="correct the template") from error


def template(text: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], str]:
    """Return the `render` function of a subtask whose prompt is this template, as `prompt` is in a task file.

    Args:
        text: Jinja that reads `{{ inputs.<column> }}`, `{{ <subtask>.output }}` for each subtask in `Subtask.reads`,
            and `{{ context.output }}` if the subtask has a context function.

    Raises:
        TaskError: It is not a text, or the syntax is wrong. The returned function raises it for a name that is not
            defined.
    """
    if not isinstance(text, str):
        rule = f"a template must be a string, but got {shown(text)}"
        raise TaskError(rule, remedy='write template("{{ inputs.question }}")')
    return compile_template(text).render


def compile_template(text: str, where: str | None = None) -> Template:
    """Compile a template.

    Args:
        text: The source.
        where: File and key, for the error message.

    Raises:
        TaskError: If the syntax is wrong; names the line inside the template.
    """
    try:
        tree = ENVIRONMENT.parse(text)
        compiled = ENVIRONMENT.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise TaskError(
            f"line {error.lineno} of the template is not Jinja: {error.message}",
            where=where,
            remedy="close every {{ }} and {% %}; write a literal {{ as {{ '{{' }}",
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:  # constants are computed, and expressions may be deep
        rule = f"the template cannot be compiled: {type(error).__name__}: {str(error)[:200]}"
        raise TaskError(rule, where=where, remedy="write smaller numbers and shallower expressions") from error
    references = frozenset(meta.find_undeclared_variables(tree))
    attributes = frozenset(pair for pair in _attributes(tree) if pair[0] in references)
    return Template(text, references, attributes, compiled)


def _attributes(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    for node in tree.find_all(nodes.Getattr):
        if isinstance(node.node, nodes.Name):
            yield node.node.name, node.attr
    for item in tree.find_all(nodes.Getitem):
        key = item.arg.value if isinstance(item.arg, nodes.Const) else None
        if isinstance(item.node, nodes.Name) and isinstance(key, str):
            yield item.node.name, key
