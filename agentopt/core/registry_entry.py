"""One registered extension, and its options: they are read from its signature."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, create_model

from agentopt.core.plugins import import_function
from agentopt.core.yaml_models import RuleError, Strict, broken_rule, explain

FunctionLoader = Callable[[str, str], Callable[..., Any]]
"""(`file.py:name`, option) -> the function. Raises `TaskError`."""

_MODEL = object()

ModelName = Annotated[str, Field(min_length=1), _MODEL]
"""Annotation of an option that names a model of the catalogue; such a model is checked and loaded with the task's."""

_PREFIX = "option_"  # a pydantic field may not be called `schema` or begin with an underscore


class _Options(Strict):
    model_config = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True, populate_by_name=False)


@dataclass(frozen=True)
class Entry:
    """One registered extension.

    Attributes:
        name: Its name in files.
        make: The registered function or class.
        passed: How many leading parameters of `make` the caller fills; the others are its options.
        traits: Facts about the extension that the decorator recorded, such as `compares`.
    """

    name: str
    make: Callable[..., Any]
    passed: int = 0
    traits: Mapping[str, Any] = field(default_factory=dict)

    def read(self, options: Mapping[str, Any], load: FunctionLoader | None = None) -> dict[str, Any]:
        """Validate the options against the signature of `make`.

        Args:
            options: Option name -> value, as in a file.
            load: Loads functions that are named as `file.py:name`; without it such names are only checked in form.

        Returns:
            The keyword arguments for `make`, without those left to their defaults.

        Raises:
            RuleError: An option is unknown, missing, or breaks its annotation.
        """
        try:
            read = self._model.model_validate(dict(options), context=load)
        except ValidationError as problem:
            raise RuleError(explain(problem, self._model, options)) from problem
        given = {name.removeprefix(_PREFIX): getattr(read, name) for name in read.model_fields_set}
        return given | (read.model_extra or {})

    def models(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Option name -> catalogue name, of the options annotated as `ModelName` that are given."""
        fields = self._model.model_fields
        named = [f.alias or "" for f in fields.values() if _MODEL in _annotations(f.annotation) or _MODEL in f.metadata]
        return {name: options[name] for name in named if isinstance(options.get(name), str)}

    @property
    def options(self) -> list[str]:
        """Names of the options."""
        return [field.alias or "" for field in self._model.model_fields.values()]

    @property
    def takes_any_option(self) -> bool:
        """Whether `make` has a parameter such as `**options`."""
        return self._model.model_config.get("extra") == "allow"

    @cached_property
    def _model(self) -> type[_Options]:
        try:
            hints = get_type_hints(self.make, include_extras=True)
        except NameError:  # an annotation that is imported for type checkers only
            hints = {}
        fields: dict[str, Any] = {}
        extra: Any = "forbid"
        for parameter in list(inspect.signature(self.make).parameters.values())[self.passed :]:
            if parameter.kind is parameter.VAR_KEYWORD:
                extra = "allow"
                continue
            default = ... if parameter.default is parameter.empty else parameter.default
            kind = _with_functions(hints.get(parameter.name, Any))
            fields[_PREFIX + parameter.name] = (kind, Field(default, alias=parameter.name))
        config = type("Options", (_Options,), {"model_config": ConfigDict(extra=extra)})
        return create_model(self.name, __base__=config, **fields)


def _annotations(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    for argument in get_args(annotation):
        yield from _annotations(argument)


def _with_functions(annotation: Any) -> Any:
    """The annotation, in which a callable may also be given by its name."""
    if annotation is Callable or get_origin(annotation) is get_origin(Callable[..., Any]):
        return _FUNCTION
    if get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation):
        kinds = [_with_functions(kind) for kind in get_args(annotation) if kind is not type(None)]
        return Annotated[Any, BeforeValidator(_function_or_none)] if kinds == [_FUNCTION] else annotation
    return annotation


def _function(value: Any, info: ValidationInfo) -> Any:
    if callable(value):
        return value
    file, colon, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not name.isidentifier():
        rule = f"must be the name of a function, but got {value!r}"
        raise broken_rule(rule, 'write "file.py:name", or "package.module:name"')
    if not file.endswith(".py"):
        return import_function(value)
    return info.context(value, (info.field_name or "").removeprefix(_PREFIX)) if info.context else value


def _function_or_none(value: Any, info: ValidationInfo) -> Any:
    return None if value is None else _function(value, info)


_FUNCTION = Annotated[Any, BeforeValidator(_function)]
