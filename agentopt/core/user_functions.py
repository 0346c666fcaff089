"""A user's functions: loaded from Python files by `file.py:name`, and called so that what they raise is reported."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentopt.core.errors import AgentoptError, ScorerError, TaskError, UserError
from agentopt.core.plugins import own_functions
from agentopt.core.task import Unparsable
from agentopt.core.yaml_models import did_you_mean

FILE_MODULE = "agentopt_task_"
"""Begins the module names of Python files in task folders; a hash of the path follows."""


def name_of(function: object) -> str:
    """Return a function's name for messages; that of the type if it has none, such as a `partial`."""
    return str(getattr(function, "__name__", type(function).__name__))


@contextmanager
def reporting(failed: str) -> Iterator[None]:
    """Raise what a user's function raises as `ScorerError`; our own exceptions and `Unparsable` pass unchanged.

    Args:
        failed: What the message begins with, such as "the scorer `f` failed on example 3"; the exception follows.

    Raises:
        ScorerError: The function raised anything else.
    """
    try:
        yield
    except (AgentoptError, Unparsable):
        raise
    except Exception as error:  # a user's function may raise anything
        raise ScorerError(f"{failed}: {type(error).__name__}: {error}") from error


@contextmanager
def located(place: str) -> Iterator[None]:
    """Begin the message of a `ScorerError` with `place`, such as "example 3".

    Raises:
        ScorerError: The block raised one; it is its cause.
    """
    try:
        yield
    except ScorerError as error:
        raise ScorerError(f"{place}: {error}") from error


class Functions:
    """Loads functions from a task folder's Python files; a file is run once, on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[Path, Any] = {}

    def __call__(self, name: str, where: str) -> Callable[..., Any]:
        """Load a function.

        Args:
            name: `file.py:name`, relative to the task folder.
            where: The key that names it, for messages.

        Raises:
            TaskError: The file does not exist or fails when it is run, or it has no such function.
        """
        file, _, attribute = name.rpartition(":")
        path = (self._folder / file).resolve()
        if path not in self._modules:
            self._modules[path] = _run(path, where)
        function = getattr(self._modules[path], attribute, None)
        if not callable(function):
            rule = f"{path} must have a function {attribute!r}"
            remedy = did_you_mean(attribute, own_functions(self._modules[path]))
            raise TaskError(rule, where=where, remedy=remedy)
        return function  # type: ignore[no-any-return]


def _run(path: Path, where: str) -> Any:
    """Import the file under a unique module name, so that two tasks may both have a scorers.py."""
    if not path.is_file():
        raise TaskError(f"there is no file {path}", where=where, remedy="correct the path, or write the file")
    name = f"{FILE_MODULE}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything while it runs
        del sys.modules[name]
        if isinstance(error, UserError):  # already has a remedy
            raise
        problem = f"{path} cannot be run: {type(error).__name__}: {error}"
        raise TaskError(problem, where=where, remedy=_remedy(error)) from error
    return module


_MOVED = """
core: budget candidate cost database errors events stats task trial>records validation>yaml_models
models: session wire>openai_format models.metered>client models.masking>redaction models.limits>rate_limit
models: models.failures>api_errors models.slot>compute_slot models.pool>router
workflow: fusion parsers program scaling>sampling templates workflow>graph
evaluation: checkers evaluation>evaluator sandbox scorers
taskfile: retrieval rows>columns
search: landscape>recorded_landscape space>from_task
prompts: diagnosis
runs: config optimization prompting>prompt_phase result runfolder>folder runner>trial_runner study>trial_store
deploy: deployment export serve
"""
"""Room: the modules of version 0.1.0 that are in it now, with their new name if they have one."""


def _moved() -> dict[str, str]:
    """Module of version 0.1.0 -> its module now, both inside `agentopt`."""
    moved = {}
    for line in _MOVED.strip().splitlines():
        room, _, modules = line.partition(": ")
        for module in modules.split():
            old, _, new = module.partition(">")
            moved[old] = f"{room}.{new or old}"
    return moved


def _remedy(error: BaseException) -> str:
    """The new path of a module of version 0.1.0 that the file imports; else the general remedy."""
    old = (error.name or "").removeprefix("agentopt.") if isinstance(error, ImportError) else ""
    new = _moved().get(old)
    return f"agentopt.{old} of version 0.1.0 is now agentopt.{new}: import that" if new else "correct the file"
