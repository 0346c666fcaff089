"""The name and the options of a scorer, parser or fusion in a task file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from agentopt.core.errors import AgentoptError, TaskError
from agentopt.core.registry import FUSIONS, GUIDE, PARSERS, SCORERS, Registry
from agentopt.core.registry_entry import Entry
from agentopt.core.user_functions import Functions
from agentopt.core.yaml_models import Form, RuleError, Strict, as_error, broken_rule, listed, shortened, shown


class ExtensionSpec(Strict):
    """A registered scorer, parser or fusion, and its options."""

    kind: str
    """Its name: a built-in one, that of a plugin, or `package.module:name`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its options; in a file they are written beside `kind`."""


def _named(registry: Registry) -> BeforeValidator:
    """Reads `vote` as `{kind: vote}`, and validates name and options against the registry."""

    def read(value: Any) -> Any:
        full = {registry.key: value} if isinstance(value, str) else value
        if isinstance(value, ExtensionSpec):
            return value
        if isinstance(full, Mapping) and registry.old_key in full:
            full = _with_new_key(registry, full)
        if not isinstance(full, Mapping) or registry.key not in full:
            rule = f"must be the name of a {registry.kind}, or a mapping with `{registry.key}`, but got {shown(value)}"
            raise broken_rule(rule, _key_remedy(registry, full))
        name = full[registry.key]
        if not isinstance(name, str):
            raise broken_rule(f"`{registry.key}` must be a string, but got {shown(name)}", f"write {_form(registry)}")
        options = {key: option for key, option in full.items() if key != registry.key}
        registry.read(name, options)
        return ExtensionSpec(kind=name, options=options)

    return BeforeValidator(read)


def _with_new_key(registry: Registry, full: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping with the name under `registry.key`; a file of an earlier version has it under `registry.old_key`."""
    key, old = registry.key, registry.old_key
    if key not in full:
        return {key if name == old else name: value for name, value in full.items()}
    if registry.has_option(old):
        return full
    raise broken_rule(f"`{old}` is the old name of `{key}`, but both are given", f"remove `{old}`")


def _key_remedy(registry: Registry, found: Any) -> str:
    """The remedy for a scorer, parser or fusion without `registry.key`, which may have the name under another key."""
    keys = found if isinstance(found, Mapping) else ()
    wrong = next((key for key in keys if not registry.has_option(key)), None)
    if wrong in registry.names():
        return f"write `{wrong}` alone, or {{{registry.key}: {wrong}, OPTION: VALUE}}"
    if wrong is not None and isinstance(found[wrong], str):
        return f"write `{registry.key}` in place of `{shortened(str(wrong))}`"
    return f"write {_form(registry)}"


def _form(registry: Registry) -> str:
    return f"one of {listed(registry.names())}, or {{{registry.key}: NAME, OPTION: VALUE}}"


def build(registry: Registry, spec: ExtensionSpec, functions: Functions, where: str) -> tuple[Entry, Any]:
    """Build a registered extension.

    Args:
        registry: The registry that has it.
        spec: Its name and options.
        functions: Loads the functions that options name.
        where: The place of the name, for messages.

    Returns:
        The registry's entry, and what its factory returned.

    Raises:
        TaskError: A function does not exist, or the factory refused its options.
    """
    entry = registry.find(spec.kind)
    try:
        options = entry.read(spec.options, lambda name, option: functions(name, f"{where}.{option}"))
        built = entry.make(**options)
    except RuleError as broken:
        raise as_error(broken.mistakes, where, TaskError) from broken
    except AgentoptError:
        raise
    except Exception as error:  # a plugin's factory may raise anything
        problem = str(error) if isinstance(error, ValueError) else f"it failed: {type(error).__name__}: {error}"
        raise TaskError(problem, where=where, remedy=f"correct the {registry.kind}'s options") from error
    if not callable(built):
        rule = f"the factory of the {registry.kind} {spec.kind} must return a function, but returned {built!r:.100}"
        raise TaskError(rule, where=where, remedy=f"see {GUIDE}")
    return entry, built


ScorerSpec = Annotated[ExtensionSpec, _named(SCORERS), Form(partial(_form, SCORERS))]
ParserSpec = Annotated[ExtensionSpec, _named(PARSERS), Form(partial(_form, PARSERS))]
FusionSpec = Annotated[ExtensionSpec, _named(FUSIONS), Form(partial(_form, FUSIONS))]
