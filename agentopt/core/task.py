"""The task: subtasks (a DAG), train/validation/test splits, and the scorer. Data only; `taskfile` reads it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentopt.core import task_rules
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import PAPER_UNIT, Unit
from agentopt.core.errors import TaskError
from agentopt.core.records import Score, Split
from agentopt.core.registry import FUSIONS
from agentopt.core.task_rules import CONTEXT
from agentopt.core.yaml_models import RuleError, as_error

Value = Any
"""What a parser makes of a response: text, a number, a list of ids, a JSON value."""


@dataclass(frozen=True, slots=True)
class Example:
    """One dataset row. `inputs` is what templates may read; `target` only scorers see."""

    id: str
    inputs: Mapping[str, Any]
    target: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Unparsable(ValueError):  # noqa: N818 - a verdict on a response, not a failure of ours
    """A response that the parser cannot read; the message names what was expected. A wrong answer, not an error."""


Parser = Callable[[str], Value]
"""Response text -> value. Raises `Unparsable`."""

Scorer = Callable[[Example, Value], Score | Awaitable[Score]]
"""Judges the workflow's output (None when a subtask gave nothing parsable)."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How several samples become one value.

    `first`: the first that parses. `vote`: the most frequent value, the earliest of equals. `vote_list`: the
    commonest list length k, then the k most frequent ids. `fuse`: one more call, of the subtask's own model or of
    `model`, that reads all samples and gives the best single answer. `best_of`: the highest `judge(inputs, value)`;
    the judge never sees the target.

    Attributes:
        method: A registered fusion, or one to import, as `package.module:name`.
        model: The model that `fuse` calls.
        prompt: The template that `fuse` renders, over `question` and `answers`.
        judge: The function that `best_of` maximises.
        options: Further options of a registered fusion.

    Raises:
        TaskError: There is no such method, or it has other options.
    """

    method: str = "vote"
    model: str | None = None
    prompt: str | None = None
    judge: Callable[[Mapping[str, Any], Value], float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            FUSIONS.read(self.method, self.given)
        except RuleError as broken:
            raise as_error(broken.mistakes, "Fusion", TaskError) from broken

    @property
    def given(self) -> dict[str, Any]:
        """The options of the method, those that are fields of their own included."""
        own = {"model": self.model, "prompt": self.prompt, "judge": self.judge}
        return {**self.options, **{name: value for name, value in own.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Nominal tokens of one pass, for costs in units: the prompt, and one generation."""

    prompt: float
    completion: float


ContextFunction = Callable[[Mapping[str, Any], Mapping[str, Value]], Any]
"""A function of inputs and outputs, sync or async, called before a subtask's prompt is rendered; its result is
available to the template. It should be deterministic: its result is part of the prompt, and so of the cache key."""


@dataclass(frozen=True, slots=True)
class Subtask:
    """One subtask. `reads` names the subtasks whose output its prompt uses.

    `render(inputs, outputs)` gives the user message from the example's inputs and the earlier outputs by
    subtask name. `models[0]` is the baseline's. `num_samples` are the allowed counts, ascending.

    In a program, the candidate's system prompt replaces the program's system message, or precedes it with
    `keep_system_prompt`; `left_to_program` names the settings (max_tokens, temperature, top_p, stop,
    json_schema) that the program may set for itself.

    `context(inputs, outputs)` is called before `render`, with the outputs that `reads` names; `render` receives its
    result as `outputs["context"]`. A function that is not async is called in a thread.
    """

    name: str
    render: Callable[[Mapping[str, Any], Mapping[str, Value]], str]
    models: tuple[str, ...]
    parse: Parser = str.strip
    system_prompt: str = ""
    num_samples: tuple[int, ...] = (1, 2, 3, 5, 8)
    fusion: Fusion = field(default_factory=Fusion)
    max_tokens: int = 64
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    reads: tuple[str, ...] = ()
    tokens: TokenLengths | None = None
    description: str = ""
    context: ContextFunction | None = None
    keep_system_prompt: bool = False
    left_to_program: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        where = f"subtask {self.name}"
        task_rules.check_name(self.name, where)
        for name in ("models", "num_samples", "stop", "reads"):
            object.__setattr__(self, name, task_rules.as_tuple(getattr(self, name), name, where))
        task_rules.check_models(self.models, where)
        task_rules.check_counts(self.num_samples, where)
        task_rules.check_sampling(self.max_tokens, self.temperature, self.top_p, where)
        task_rules.check_callable(self.render, "render", where)
        task_rules.check_callable(self.parse, "parse", where)
        task_rules.check_type(self.fusion, Fusion, "fusion", where)
        if self.context and CONTEXT in self.reads:
            rule = f"`{CONTEXT}` must be either a subtask or the result of the context function, but got both"
            raise TaskError(rule, where=where, remedy=f"rename the subtask `{CONTEXT}`")


Endpoint = Mapping[str, str]
"""The endpoint that a program calls: `base_url` and `api_key`, as the openai client's constructor takes them."""


@dataclass(frozen=True, slots=True)
class Program:
    """The user's program as the workflow: it calls subtasks as the models `agentopt/SUBTASK`.

    Either a `command`, which is run in `folder`, gets the inputs as JSON on stdin and prints its answer, which `parse`
    reads; or a `function` of the inputs and an `Endpoint`, sync or async, which returns it; or such a function of the
    inputs alone, as `file.py:name` in `folder`, which finds its endpoint in the environment of a process of its own.
    `timeout` is in seconds, not counting time during its calls; at most `concurrency` examples run concurrently.
    """

    command: tuple[str, ...] = ()
    function: Callable[[Mapping[str, Any], Endpoint], Any] | str | None = None
    folder: Path = Path()
    parse: Parser = str.strip
    timeout: float = 60.0
    concurrency: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.command, str) or bool(self.command) == bool(self.function):
            rule = "a program must be either a command, as a tuple of words, or a function"
            raise TaskError(rule, where="program", remedy="give one of the two")
        if self.timeout <= 0 or self.concurrency < 1:
            rule = f"a program needs time and at least one place, but got {self.timeout:g} s, {self.concurrency}"
            raise TaskError(rule, where="program", remedy="make `timeout` and `concurrency` positive")


def program_prompt(inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> str:
    """Return the inputs as JSON: the `render` of a program's subtasks, whose prompts come from the program.

    The text is used only to estimate token counts.
    """
    return json.dumps(dict(inputs), ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number reported beside the score: the scorer's value for the output of `subtask`; 0 without an output."""

    subtask: str
    scorer: Scorer


@dataclass(frozen=True)
class Task:
    """A multi-stage task. `subtasks` are in an order in which each comes after all it reads.

    The workflow's output is that of `output`, the last subtask unless given. `max_units` bounds a candidate's
    cost per example (None: the paper's default, one pass of every subtask's largest model). With a `program`, that
    is the workflow, and its output is the task's. `metrics` are reported beside the score; the search ignores them.
    """

    name: str
    subtasks: tuple[Subtask, ...]
    scorer: Scorer
    splits: Mapping[Split, tuple[Example, ...]]
    description: str = ""
    output: str = ""
    unit: Unit = PAPER_UNIT
    max_units: float | None = None
    program: Program | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    file: Path | None = None
    """The task file that it was loaded from; None for a task that was built in Python."""

    def __post_init__(self) -> None:
        where = f"task {self.name}"
        object.__setattr__(self, "subtasks", task_rules.as_tuple(self.subtasks, "subtasks", where))
        for subtask in self.subtasks:
            task_rules.check_type(subtask, Subtask, "subtasks", where)
        names = [s.name for s in self.subtasks]
        task_rules.check_names(names, where)
        for place, subtask in enumerate(self.subtasks):
            task_rules.check_reads(subtask.reads, names[:place], f"{where}, subtask {subtask.name}")
        task_rules.check_output(self.output_subtask, names, where)
        task_rules.check_callable(self.scorer, "scorer", where)
        for name, metric in self.metrics.items():
            task_rules.check_type(metric, Metric, f"metrics.{name}", where)
        task_rules.check_metrics({m: metric.subtask for m, metric in self.metrics.items()}, names, f"{where}, metrics")
        for split, examples in self.splits.items():
            for example in examples:
                task_rules.check_type(example, Example, f"splits.{split}", where)
            task_rules.check_split(split, [e.id for e in examples], where)
        object.__setattr__(self, "splits", {split: tuple(examples) for split, examples in self.splits.items()})

    def __getitem__(self, subtask: str) -> Subtask:
        for s in self.subtasks:
            if s.name == subtask:
                return s
        raise KeyError(subtask)

    @property
    def folder(self) -> Path | None:
        """The task folder; None for a task that was built in Python."""
        return self.file.parent if self.file else None

    @property
    def output_subtask(self) -> str:
        return self.output or self.subtasks[-1].name

    @property
    def baseline(self) -> Candidate:
        """Every subtask's first model once, with its seed prompt."""
        choices = {s.name: SubtaskChoice(s.models[0], s.num_samples[0], s.system_prompt) for s in self.subtasks}
        return Candidate.of(choices)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that a candidate or a fusion may use, each once."""
        names = [m for s in self.subtasks for m in (*s.models, s.fusion.model) if m is not None]
        return tuple(dict.fromkeys(names))
