"""Named extensions: scorers, parsers, fusions and strategies, each registered by a decorator where it is defined.

Everything that lists or validates names reads these registries. A name is looked up among the built-in entries, then
among those of installed packages (entry points of the group `agentopt.plugins`); a name with a dot is imported.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, create_model

from agentopt.core.errors import UserError
from agentopt.core.yaml_models import Mistake, RuleError, Strict, broken_rule, did_you_mean, explain, listed, shown

F = TypeVar("F", bound=Callable[..., Any])

FunctionLoader = Callable[[str, str], Callable[..., Any]]
"""(`file.py:name`, option) -> the function. Raises `TaskError`."""

GROUP = "agentopt.plugins"
"""Entry point group of packages that register extensions: a module to import, or a function to call."""

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
        return _imported(value)
    return info.context(value, (info.field_name or "").removeprefix(_PREFIX)) if info.context else value


def _function_or_none(value: Any, info: ValidationInfo) -> Any:
    return None if value is None else _function(value, info)


_FUNCTION = Annotated[Any, BeforeValidator(_function)]


class Registry:
    """The extensions of one kind.

    Args:
        kind: Its name in messages, such as `scorer`.
        key: The key under which a file gives the name.
        home: The module that registers the built-in entries; it is imported on the first lookup.
        passed: How many leading parameters of a registered function the caller fills.
        not_an_option: The first parameter of an extension that is not a factory, which is then refused.
    """

    def __init__(self, kind: str, key: str, home: str, passed: int = 0, not_an_option: str = "") -> None:
        self.kind, self.key = kind, key
        self._home, self._passed, self._not_an_option = home, passed, not_an_option
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, **traits: Any) -> Callable[[F], F]:
        """A decorator that registers a function or class under `name`.

        Raises:
            UserError: The name or the function breaks a rule, or another function is registered under that name.
        """
        if not isinstance(name, str) or not name:
            rule = f"a {self.kind} is registered under a name, but got {shown(name)}"
            raise broken_rule(rule, f'write @{self.kind}("name") above the function')

        def add(make: F) -> F:
            self._check_form(make)
            if not _place(make).startswith("agentopt."):
                import_module(self._home)  # first, so that a name of ours is refused here
            known = self._entries.get(name)
            if known and _place(known.make) != _place(make):
                raise self._taken(name, known.make, make)
            self._entries[name] = Entry(name, make, self._passed, traits)
            return make

        return add

    def _taken(self, name: str, *makes: Any) -> UserError:
        """The error for two functions of one name; the same whichever was registered first."""
        packages = sorted({_package(make.__module__) for make in makes} - {"agentopt"})
        remedy = f"rename it in {' or '.join(packages)}, or uninstall {'one of them' if packages[1:] else packages[0]}"
        places = " and ".join(sorted(map(_place, makes)))
        return UserError(f"two {self.kind}s are registered as {name!r}: {places}", remedy=remedy)

    def _check_form(self, make: Any) -> None:
        """Raise `RuleError` unless the caller can fill the leading parameters of `make`, and options the others."""
        if not callable(make):
            raise broken_rule(f"a {self.kind} is a function or a class, but got {shown(make)}", "see docs/extend.md")
        try:
            parameters = inspect.signature(make).parameters.values()
        except (TypeError, ValueError) as error:  # such as `str`
            raise broken_rule(
                f"the parameters of {_place(make)} are unknown", "register a function of yours"
            ) from error
        named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        if unnamed := [p for p in named[self._passed :] if p.kind in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY)]:
            rule = f"the options of a {self.kind} are passed by name, but {_place(make)} takes {unnamed[0]}"
            raise broken_rule(rule, "give each option a parameter with a name, or take **options")
        if len(named) < self._passed:
            rule = f"{_place(make)} must take {self._passed} arguments before its options, but takes {len(named)}"
            raise broken_rule(rule, f"see docs/extend.md for the form of a {self.kind}")
        if [p.name for p in named[:1] if p.default is p.empty] == [self._not_an_option]:
            rule = f"a function of the options builds a {self.kind}, but {_place(make)} is a {self.kind} itself"
            remedy = "register a function that returns it, or name it in the task file as package.module:name"
            raise broken_rule(rule, remedy)

    def names(self) -> list[str]:
        """Every registered name, those of plugins included. Raises `UserError` for a plugin that cannot be loaded."""
        import_module(self._home)
        load_plugins()
        return sorted(name for name, entry in self._entries.items() if not entry.traits.get("hidden"))

    def find(self, name: str) -> Entry:
        """The entry called `name`; one with a dot is imported.

        An imported function that is not registered is the extension itself: it gets no options, but a fusion or a
        strategy gets those that its signature has.

        Raises:
            RuleError: There is no such extension.
            UserError: A plugin cannot be loaded.
        """
        import_module(self._home)
        if name in self._entries:
            return self._entries[name]
        if "." in name or ":" in name:
            return self._of(_imported(name), name)
        names = self.names()
        if name not in names:
            rule = f"`{self.key}` must be one of {listed(names)}, but got {shown(name)}"
            raise broken_rule(rule, did_you_mean(name, names, "use one of them, or package.module:name"))
        return self._entries[name]

    def read(self, name: str, options: Mapping[str, Any], load: FunctionLoader | None = None) -> dict[str, Any]:
        """The keyword arguments for `find(name).make`; see `Entry.read`. Raises `RuleError`.

        Args:
            name: A registered name, or one to import.
            options: Option name -> value, as in a file.
            load: Loads functions that are named as `file.py:name`.
        """
        entry = self.find(name)
        elsewhere = {
            option: [other.name for other in self._entries.values() if option in other.options]
            for option in options
            if option not in entry.options and not entry.takes_any_option
        }
        mistakes = [
            Mistake(
                option, f"is an option of {others[0]}, not of {name}", f"remove it, or write {self.key}: {others[0]}"
            )
            for option, others in elsewhere.items()
            if others
        ]
        if mistakes:
            raise RuleError(mistakes)
        return entry.read(options, load)

    def _of(self, found: Any, name: str) -> Entry:
        for entry in self._entries.values():
            if entry.make is found:
                return entry
        if self._passed:
            self._check_form(found)
            return Entry(name, found, self._passed)
        function = self._entries["python"]  # which checks the return value of a user's function
        return Entry(name, lambda: function.make(found))


def _place(make: Any) -> str:
    named = make if hasattr(make, "__qualname__") else type(make)  # an object with `__call__`, such as a `partial`
    return f"{named.__module__}.{named.__qualname__}"


def _package(module: str) -> str:
    """The installed package whose plugin has the module, or the module's top-level package."""
    from importlib.metadata import entry_points  # it takes a moment that most calls need not spend

    for point in entry_points(group=GROUP):
        if f"{module}.".startswith(f"{point.module}.") and point.dist:
            return point.dist.name
    return module.partition(".")[0]


def _imported(name: str) -> Callable[..., Any]:
    """The function at `package.module:name` or `package.module.name`."""
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    if module.endswith(".py"):
        remedy = f'a function of the task folder is written as {{kind: python, function: "{name}"}}'
        raise broken_rule(f"{name!r} is not the name of a module", remedy)
    try:
        found = getattr(import_module(module), attribute, None)
    except (Exception, SystemExit) as error:  # a module of someone else may raise anything while it is imported
        rule = f"{module!r} cannot be imported: {type(error).__name__}: {error}"
        raise broken_rule(rule, _import_remedy(module, error)) from error
    if not callable(found):
        known = [n for n, f in vars(import_module(module)).items() if callable(f) and not n.startswith("_")]
        raise broken_rule(f"{module} must have a function {attribute!r}", did_you_mean(attribute, known))
    return found  # type: ignore[no-any-return]


def _import_remedy(module: str, error: BaseException) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None:
        return f"correct the module {module}"
    if f"{module}.".startswith(f"{missing}."):
        return "write package.module:name, and install the package"
    return f"install {missing}, which {module} imports"


_loaded: set[str] = set()


def load_plugins() -> None:
    """Load the entry points of the group `agentopt.plugins`, each once in a process.

    Raises:
        UserError: A plugin raised an exception.
    """
    from importlib.metadata import entry_points  # it takes a moment that most calls need not spend

    for point in entry_points(group=GROUP):
        if point.value in _loaded:
            continue
        try:
            plugin = point.load()
            if callable(plugin):
                plugin()
        except UserError:  # such as a name that is registered twice; it has a remedy
            raise
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            rule = f"the plugin {point.name!r} cannot be loaded: {type(error).__name__}: {error}"
            package = point.dist.name if point.dist else point.value
            remedy = f"fix the package {package}, or uninstall it"
            raise UserError(rule, where=f"entry point {point.value}", remedy=remedy) from error
        _loaded.add(point.value)


SCORERS = Registry("scorer", "kind", "agentopt.evaluation.scorers", not_an_option="example")
PARSERS = Registry("parser", "kind", "agentopt.workflow.parsers", not_an_option="response")
FUSIONS = Registry("fusion", "method", "agentopt.workflow.fusion", passed=2)
STRATEGIES = Registry("strategy", "strategy", "agentopt.search.built_in", passed=1)


def scorer(name: str, *, compares: bool = False, calls_model: bool = False) -> Callable[[F], F]:
    """Register a factory of scorers: a function of the options in the task file that returns a `Scorer`.

    Args:
        name: The `kind` in a task file.
        compares: Whether the scorer compares the output with the target; every example must then have a usable one.
        calls_model: Whether the scorer calls a model; such a scorer cannot be a metric.
    """
    return SCORERS.register(name, compares=compares, calls_model=calls_model)


def parser(name: str, *, sample: Any = None, values: str | None = None, schema: str | None = None) -> Callable[[F], F]:
    """Register a factory of parsers: a function of the options in the task file that returns a `Parser`.

    Args:
        name: The `kind` in a task file.
        sample: A value such as the parser returns, with which later templates are checked; None if the type varies.
        values: Name of the option that lists every value the parser can return.
        schema: Name of the option that holds the JSON schema, which is sent to endpoints that enforce one.
    """
    return PARSERS.register(name, sample=sample, values=values, schema=schema)


def fusion(name: str, *, lists: bool = False) -> Callable[[F], F]:
    """Register a fusion: a function of (values, inputs) and its options that returns one value.

    `values` are the parsed values of the samples in the order they were drawn, at least one; `inputs` are the
    example's.

    Args:
        name: The `method` in a task file.
        lists: Whether the values must be lists.
    """
    return FUSIONS.register(name, lists=lists)


def strategy(name: str, *, calls_model: bool = False, hidden: bool = False) -> Callable[[F], F]:
    """Register a factory of strategies: a function of a `SearchContext` and its options.

    It returns a `Strategy`, which proposes one candidate at a time, or a `Search`, which spends the trials itself.

    Args:
        name: The `strategy` in a configuration.
        calls_model: Whether the strategy calls `agent.model`, which is then checked, loaded and counted in estimates.
        hidden: Whether the name is left out of lists.
    """
    return STRATEGIES.register(name, calls_model=calls_model, hidden=hidden)
