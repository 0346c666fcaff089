"""agentopt finds, for a multi-stage LLM task, which model each stage should use, how many responses it should draw,
and what its system prompt should say, so that the score is highest within a budget.

Importing it loads nothing heavy: each public name is loaded from its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentopt import cost, errors

if TYPE_CHECKING:
    from agentopt.api import aevaluate, aoptimize, evaluate, optimize
    from agentopt.candidate import Candidate, SubtaskChoice
    from agentopt.config import Config, load_config
    from agentopt.errors import AgentoptError
    from agentopt.result import Result, load_candidate, load_result
    from agentopt.task import Example, Fusion, Program, Subtask, Task, TokenLengths, asked_by_program
    from agentopt.taskfile.loading import load_task
    from agentopt.trial import Evaluation, Score, Trial

_HOME = {
    "AgentoptError": "errors",
    "Candidate": "candidate",
    "Config": "config",
    "Evaluation": "trial",
    "Example": "task",
    "Fusion": "task",
    "Program": "task",
    "Result": "result",
    "Score": "trial",
    "Subtask": "task",
    "SubtaskChoice": "candidate",
    "Task": "task",
    "TokenLengths": "task",
    "Trial": "trial",
    "aevaluate": "api",
    "aoptimize": "api",
    "asked_by_program": "task",
    "evaluate": "api",
    "load_candidate": "result",
    "load_config": "config",
    "load_result": "result",
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
