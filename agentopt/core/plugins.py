"""Functions of other packages: plugins, which entry points name, and functions named as `package.module:name`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from agentopt.core.errors import UserError
from agentopt.core.yaml_models import broken_rule, did_you_mean

GROUP = "agentopt.plugins"
"""Entry point group of packages that register extensions: a module to import, or a function to call."""


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


def package_of(module: str) -> str:
    """The installed package whose plugin has the module, or the module's top-level package."""
    from importlib.metadata import entry_points  # it takes a moment that most calls need not spend

    for point in entry_points(group=GROUP):
        if f"{module}.".startswith(f"{point.module}.") and point.dist:
            return point.dist.name
    return module.partition(".")[0]


def import_function(name: str) -> Callable[..., Any]:
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
        known = own_functions(import_module(module))
        raise broken_rule(f"{module} must have a function {attribute!r}", did_you_mean(attribute, known))
    return found  # type: ignore[no-any-return]


def own_functions(module: ModuleType) -> list[str]:
    """Names of the public functions and classes that the module defines, without those that it imports."""
    return [
        name
        for name, found in vars(module).items()
        if callable(found) and not name.startswith("_") and getattr(found, "__module__", None) == module.__name__
    ]


def _import_remedy(module: str, error: BaseException) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None:
        return f"correct the module {module}"
    if f"{module}.".startswith(f"{missing}."):
        return "write package.module:name, and install the package or add its folder to PYTHONPATH"
    return f"install {missing}, which {module} imports"
