"""Prompt templates: sandboxed Jinja in which `inputs.<column>` and `<subtask>.output` can be read.

A template is a user's text that may come from a stranger: it can reach nothing but the values it is given, and
cannot loop without end (`range` is limited by the sandbox).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agentopt.core.errors import TaskError
from agentopt.core.task_rules import CONTEXT, INPUTS, OLD_CONTEXT


class Record:
    """What a template sees of a mapping: its keys alone, so that a column called `items` is no method."""

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
    """Names the variable in a user's words instead of Python's."""

    @property
    def _undefined_message(self) -> str:
        known = ", ".join(map(str, self._undefined_obj)) if isinstance(self._undefined_obj, Record) else ""
        return f"`{self._undefined_name}` is not defined{f' (there is: {known})' if known else ''}"


def _finalize(value: Any) -> Any:
    """Lists and objects are written into a prompt as JSON, not as Python writes them."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value


def written(value: Any) -> str:
    """The value as a template writes it into a prompt."""
    return str(_finalize(value))


def _environment() -> ImmutableSandboxedEnvironment:
    # Prompts are plain text for a model, not HTML: escaping would corrupt them.
    environment = ImmutableSandboxedEnvironment(undefined=_Undefined, autoescape=False, finalize=_finalize)
    environment.globals = {name: environment.globals[name] for name in ("range", "dict", "namespace")}
    return environment


ENVIRONMENT = _environment()
"""The environment of every prompt template; exported modules contain a copy."""


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template.

    `references` are the names that it reads from outside: `inputs` and subtasks. `attributes` are the
    (name, attribute) pairs it asks of them, `columns` those of `inputs`.
    """

    text: str
    references: frozenset[str]
    attributes: frozenset[tuple[str, str]]
    _compiled: jinja2.Template

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(attribute for name, attribute in self.attributes if name == INPUTS)

    def render(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        """The text for one example. Raises `TaskError` that names the variable that is not defined."""
        names = {name: Record({"output": value}) for name, value in outputs.items()}
        if CONTEXT in names:
            names[OLD_CONTEXT] = names[CONTEXT]
        return self.render_names(**names, **{INPUTS: Record(inputs)})

    def render_names(self, **names: Any) -> str:
        """The text, with these values under these names. Raises `TaskError`."""
        try:
            return self._compiled.render(names)
        except jinja2.UndefinedError as error:
            raise TaskError(str(error), remedy="correct the name in the template, or the data") from error
        except Exception as error:  # a template can fail as any program can, and is a user's text
            problem = f"the template cannot be rendered: {type(error).__name__}: {error}"
            raise TaskError(problem, remedy="correct the template") from error


def compile_template(text: str, where: str | None = None) -> Template:
    """Compile a template. Raises `TaskError` with `where` and the line inside the template for bad syntax."""
    try:
        tree = ENVIRONMENT.parse(text)
        compiled = ENVIRONMENT.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise TaskError(
            f"line {error.lineno} of the template is not Jinja: {error.message}",
            where=where,
            remedy="close every {{ }} and {% %}; write a literal {{ as {{ '{{' }}",
        ) from error
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
