"""Named extensions: scorers, parsers, fusions and strategies, each registered by a decorator where it is defined.

Everything that lists or validates names reads these registries. A name is looked up among the built-in entries, then
among those of installed packages (entry points of the group `agentopt.plugins`); a name with a dot is imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from agentopt.core.errors import UserError
from agentopt.core.message_text import counted
from agentopt.core.plugins import import_function, load_plugins, package_of
from agentopt.core.registry_entry import Entry, FunctionLoader
from agentopt.core.registry_entry import ModelName as ModelName  # which docs/extend.md names
from agentopt.core.yaml_models import Mistake, RuleError, broken_rule, did_you_mean, listed, shown

F = TypeVar("F", bound=Callable[..., Any])

GUIDE = "'Extend it' in the documentation"
"""The page on extensions, by its title: an installed package does not have its file."""


class Registry:
    """The extensions of one kind.

    Args:
        kind: Its name in messages, such as `scorer`.
        key: The key under which a file gives the name.
        home: The module that registers the built-in entries; it is imported on the first lookup.
        passed: How many leading parameters of a registered function the caller fills.
        not_an_option: The first parameter of an extension that is not a factory, which is then refused.
        old_key: The key in files of earlier versions, which is still read, and the field's name in Python.
    """

    def __init__(
        self, kind: str, key: str, home: str, passed: int = 0, not_an_option: str = "", old_key: str = ""
    ) -> None:
        self.kind, self.key, self.old_key = kind, key, old_key
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
        packages = sorted({package_of(make.__module__) for make in makes} - {"agentopt"})
        remedy = f"rename it in {' or '.join(packages)}, or uninstall {'one of them' if packages[1:] else packages[0]}"
        places = " and ".join(sorted(map(_place, makes)))
        return UserError(f"two {self.kind}s are registered as {name!r}: {places}", remedy=remedy)

    def _check_form(self, make: Any) -> None:
        """Raise `RuleError` unless the caller can fill the leading parameters of `make`, and options the others."""
        if not callable(make):
            raise broken_rule(f"a {self.kind} is a function or a class, but got {shown(make)}", f"see {GUIDE}")
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
            wanted = counted(self._passed, "argument")
            rule = f"{_place(make)} must take {wanted} before its options, but takes {len(named)}"
            raise broken_rule(rule, f"see {GUIDE} for the form of a {self.kind}")
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
            return self._of(import_function(name), name)
        if name not in (names := self.names()):
            remedy = "use one of them, or package.module:name; a plugin's name is known once its package is installed"
            in_python = f" (`{self.old_key}` in Python)" if self.old_key else ""
            rule = f"`{self.key}`{in_python} must be one of {listed(names)}, but got {shown(name)}"
            raise broken_rule(rule, did_you_mean(name, names, remedy))
        return self._entries[name]

    def has_option(self, name: Any) -> bool:
        """Whether an entry that is registered so far has an option of that name."""
        return any(name in entry.options for entry in self._entries.values())

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


SCORERS = Registry("scorer", "kind", "agentopt.evaluation.scorers", not_an_option="example")
PARSERS = Registry("parser", "kind", "agentopt.workflow.parsers", not_an_option="response")
FUSIONS = Registry("fusion", "kind", "agentopt.workflow.fusion", passed=2, old_key="method")
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
        name: The `kind` in a task file.
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
