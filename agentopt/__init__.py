"""agentopt finds, for a multi-stage LLM task, which model each stage should use, how many responses it should draw,
and what its system prompt should say, so that the score is highest within a budget.

Importing it loads nothing heavy: each public name is loaded from its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentopt.core import cost, errors

if TYPE_CHECKING:
    from agentopt.api import aevaluate, aoptimize, evaluate, optimize
    from agentopt.core.candidate import Candidate, SubtaskChoice, load_candidate
    from agentopt.core.errors import AgentoptError
    from agentopt.core.records import Evaluation, Score, Trial
    from agentopt.core.task import Example, Fusion, Program, Subtask, Task, TokenLengths, asked_by_program
    from agentopt.runs.config import Config, load_config
    from agentopt.runs.result import Result, load_result
    from agentopt.taskfile.loading import load_task

_HOME = {
    "AgentoptError": "core.errors",
    "Candidate": "core.candidate",
    "Config": "runs.config",
    "Evaluation": "core.records",
    "Example": "core.task",
    "Fusion": "core.task",
    "Program": "core.task",
    "Result": "runs.result",
    "Score": "core.records",
    "Subtask": "core.task",
    "SubtaskChoice": "core.candidate",
    "Task": "core.task",
    "TokenLengths": "core.task",
    "Trial": "core.records",
    "aevaluate": "api",
    "aoptimize": "api",
    "asked_by_program": "core.task",
    "evaluate": "api",
    "load_candidate": "core.candidate",
    "load_config": "runs.config",
    "load_result": "runs.result",
    "load_task": "taskfile.loading",
    "optimize": "api",
}

__version__ = "0.1.0"
__all__ = [
    "AgentoptError",
    "Candidate",
    "Config",
    "Evaluation",
    "Example",
    "Fusion",
    "Program",
    "Result",
    "Score",
    "Subtask",
    "SubtaskChoice",
    "Task",
    "TokenLengths",
    "Trial",
    "aevaluate",
    "aoptimize",
    "asked_by_program",
    "cost",
    "errors",
    "evaluate",
    "load_candidate",
    "load_config",
    "load_result",
    "load_task",
    "optimize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'agentopt' has no attribute {name!r}")
    return getattr(import_module(f"agentopt.{_HOME[name]}"), name)
