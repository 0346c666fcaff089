"""Optimise an LLM task of several subtasks: the model, the number of samples and the system prompt of each subtask.

agentopt searches for the candidate with the highest score within a budget, and tests it against the baseline.
`import agentopt` loads nothing heavy: each public name is loaded from its module on first use.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentopt.api import adiagnose, aevaluate, aoptimize, diagnose, evaluate, optimize
    from agentopt.core import cost, errors, events
    from agentopt.core.candidate import Candidate, SubtaskChoice, load_candidate
    from agentopt.core.cost import Unit
    from agentopt.core.errors import AgentoptError
    from agentopt.core.records import Evaluation, Score, Trial
    from agentopt.core.registry import fusion, parser, scorer, strategy
    from agentopt.core.stop_reason import StopKind, StopReason
    from agentopt.core.task import Example, Fusion, Metric, Program, Subtask, Task, TokenLengths, program_prompt
    from agentopt.models.catalog import ModelSpec
    from agentopt.prompts.diagnosis import Diagnosis
    from agentopt.prompts.settings import PromptSettings
    from agentopt.report import plots, trackers
    from agentopt.report.progress_bar import ProgressBar
    from agentopt.runs.config import BudgetConfig, Config, load_config
    from agentopt.runs.result import Result, load_result
    from agentopt.search.base import Proposal, Runner, Search, SearchSpace, Strategy
    from agentopt.search.settings import AgentSettings, SearchSettings
    from agentopt.taskfile.loading import load_task
    from agentopt.workflow.templates import template

_HOME = {
    "AgentSettings": "search.settings",
    "AgentoptError": "core.errors",
    "BudgetConfig": "runs.config",
    "Candidate": "core.candidate",
    "Config": "runs.config",
    "Diagnosis": "prompts.diagnosis",
    "Evaluation": "core.records",
    "Example": "core.task",
    "Fusion": "core.task",
    "Metric": "core.task",
    "ModelSpec": "models.catalog",
    "Program": "core.task",
    "ProgressBar": "report.progress_bar",
    "PromptSettings": "prompts.settings",
    "Proposal": "search.base",
    "Result": "runs.result",
    "Runner": "search.base",
    "Score": "core.records",
    "Search": "search.base",
    "SearchSettings": "search.settings",
    "SearchSpace": "search.base",
    "StopKind": "core.stop_reason",
    "StopReason": "core.stop_reason",
    "Strategy": "search.base",
    "Subtask": "core.task",
    "SubtaskChoice": "core.candidate",
    "Task": "core.task",
    "TokenLengths": "core.task",
    "Trial": "core.records",
    "Unit": "core.cost",
    "adiagnose": "api",
    "aevaluate": "api",
    "aoptimize": "api",
    "diagnose": "api",
    "evaluate": "api",
    "fusion": "core.registry",
    "load_candidate": "core.candidate",
    "load_config": "runs.config",
    "load_result": "runs.result",
    "load_task": "taskfile.loading",
    "optimize": "api",
    "parser": "core.registry",
    "program_prompt": "core.task",
    "scorer": "core.registry",
    "strategy": "core.registry",
    "template": "workflow.templates",
}
"""Public name -> its module."""

_RENAMED = {"asked_by_program": "program_prompt"}
"""Name in version 0.1.0, which can still be imported -> present name."""

_MODULES = {
    "cost": "core.cost",
    "errors": "core.errors",
    "events": "core.events",
    "plots": "report.plots",
    "trackers": "report.trackers",
}
"""Public module -> its place."""

__version__ = "0.2.0.dev0"
__all__ = [
    "AgentSettings",
    "AgentoptError",
    "BudgetConfig",
    "Candidate",
    "Config",
    "Diagnosis",
    "Evaluation",
    "Example",
    "Fusion",
    "Metric",
    "ModelSpec",
    "Program",
    "ProgressBar",
    "PromptSettings",
    "Proposal",
    "Result",
    "Runner",
    "Score",
    "Search",
    "SearchSettings",
    "SearchSpace",
    "StopKind",
    "StopReason",
    "Strategy",
    "Subtask",
    "SubtaskChoice",
    "Task",
    "TokenLengths",
    "Trial",
    "Unit",
    "adiagnose",
    "aevaluate",
    "aoptimize",
    "cost",
    "diagnose",
    "errors",
    "evaluate",
    "events",
    "fusion",
    "load_candidate",
    "load_config",
    "load_result",
    "load_task",
    "optimize",
    "parser",
    "plots",
    "program_prompt",
    "scorer",
    "strategy",
    "template",
    "trackers",
]


# Optuna loads tqdm, which warns in notebooks without ipywidgets, although its bars are not used.
warnings.filterwarnings("ignore", "IProgress not found")


def __getattr__(name: str) -> Any:
    name = _RENAMED.get(name, name)
    if name in _MODULES:
        return import_module(f"agentopt.{_MODULES[name]}")
    if name in _HOME:
        return getattr(import_module(f"agentopt.{_HOME[name]}"), name)
    raise AttributeError(f"module 'agentopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
