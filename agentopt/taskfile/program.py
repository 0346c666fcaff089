"""Reads the `program` of a task file, and checks that its files exist.

A function of two parameters, the inputs and the endpoint, is called in this process. A function of one parameter reads
its endpoint from the environment, which all examples of a process share, so it is called in worker processes
(see `program.function_process`).
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentopt.core.errors import TaskError
from agentopt.core.task import Parser, Program
from agentopt.core.user_functions import Functions
from agentopt.core.yaml_models import did_you_mean
from agentopt.taskfile.schema import ProgramSpec, SubtaskSpec, TaskSpec

MAX_TOKENS = 1024
"""Most tokens of a response if neither the subtask nor the program sets it: programs write prompts for models
that stop by themselves, so the default limit of a subtask would truncate them."""


def read_program(spec: ProgramSpec, folder: Path, functions: Functions, parse: Parser, where: str) -> Program:
    """Build the program of a task.

    Args:
        spec: The key `program`.
        folder: The task folder.
        functions: Loads a function that is called in this process.
        parse: Reads the output of a command.
        where: The place of the key, for messages.

    Raises:
        TaskError: The command or the function does not exist.
    """
    function: Callable[..., Any] | str | None = spec.function
    if spec.command:
        _check_command(spec.command, folder, f"{where}.command")
    if spec.function:
        file, _, name = spec.function.rpartition(":")
        if _count_parameters(folder / file, name, f"{where}.function") == 2:
            function = functions(spec.function, f"{where}.function")
    return Program(spec.command or (), function, folder.absolute(), parse, spec.timeout, spec.concurrency, spec.models)


def check_prompts(spec: TaskSpec, at: Callable[..., str]) -> None:
    """Check that the prompts come either from the subtasks or from a program.

    Args:
        spec: The task file.
        at: Function of (key, subtask) that returns the place of a key, for messages.

    Raises:
        TaskError: They come from both, from neither, or a key does not apply.
    """
    for subtask in spec.subtasks:
        if (subtask.prompt is None) != (spec.program is not None):
            rule = "a program writes its own prompts" if spec.program else "a subtask needs a prompt"
            remedy = "remove the prompt" if spec.program else "add one, or a `program` to the task"
            raise TaskError(rule, where=at("prompt", subtask), remedy=remedy)
        if subtask.context and spec.program:
            rule = "`context` goes with a prompt, and a program writes its own prompts"
            raise TaskError(rule, where=at("context", subtask), remedy="remove `context`")
        if subtask.keep_system_prompt and not spec.program:
            rule = "`keep_system_prompt` goes with a program"
            raise TaskError(rule, where=at("keep_system_prompt", subtask), remedy="remove it")
    if spec.program and spec.output:
        rule = "the output of a task with a program is the program's"
        raise TaskError(rule, where=at("output"), remedy="remove `output`")


def settings_left(spec: SubtaskSpec) -> frozenset[str]:
    """The settings that a program may set: those that the subtask does not set."""
    left = {"max_tokens", "temperature", "top_p", "stop"} - spec.model_fields_set
    return frozenset(left | ({"json_schema"} if spec.parse.kind != "json" else set()))


def _check_command(command: tuple[str, ...], folder: Path, where: str) -> None:
    first = command[0]
    if "/" in first:
        found = (folder / first).is_file()
    else:
        found = first in ("python", "python3") or shutil.which(first) is not None
    if not found:
        rule = f"a command must begin with a program that can be run, but got {first!r}"
        raise TaskError(rule, where=f"{where}.0", remedy="write ./NAME for a program in the task folder")
    if "/" in first and shutil.which(str((folder / first).absolute())) is None:
        raise TaskError(f"{first} is not executable", where=f"{where}.0", remedy=f"chmod +x {first}")
    if first in ("python", "python3") and len(command) > 1 and command[1].endswith(".py"):
        _check_file(folder / command[1], f"{where}.1")


def _check_file(path: Path, where: str) -> None:
    if not path.is_file():
        raise TaskError(f"there is no file {path}", where=where, remedy="correct the path, or write the file")


def _count_parameters(path: Path, name: str, where: str) -> int:
    """Count the parameters of the function `name` from its source; 1 if the name is not defined by `def`.

    The file is not imported, because it may call the endpoint on import.
    """
    _check_file(path, where)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise TaskError(f"{path} is not Python: {error}", where=where, remedy="correct the file") from error
    found = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    names = {*found, *(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))}
    names |= {
        (alias.asname or alias.name)
        for node in ast.walk(tree)
        for alias in getattr(node, "names", ())
        if isinstance(alias, ast.alias)
    }
    if name not in names:
        rule = f"{path} must have a function {name!r}"
        raise TaskError(rule, where=where, remedy=did_you_mean(name, sorted(found)))
    if name not in found:
        return 1
    count = len(found[name].posonlyargs) + len(found[name].args)
    if count not in (1, 2):
        rule = f"a program takes the inputs, or the inputs and the endpoint, but {name} takes {count} arguments"
        raise TaskError(rule, where=where, remedy=f"write def {name}(inputs) or def {name}(inputs, openai)")
    return count
