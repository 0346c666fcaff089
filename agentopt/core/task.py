"""The task: subtasks (a DAG), train/validation/test splits, and the scorer. Data only; `taskfile` reads it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from agentopt.core import task_rules
from agentopt.core.axes import KNOBS, Axis, Cascade, SettingValue, first_values
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import PAPER_UNIT, CostMeasure, Reads, Unit, in_sequence
from agentopt.core.demos import Demos, check_demos
from agentopt.core.duplicates import Groups, groups_of, independent, inputs_key
from agentopt.core.errors import TaskError
from agentopt.core.field_types import check_fields
from agentopt.core.records import Score, Split
from agentopt.core.registry import FUSIONS
from agentopt.core.stored_rows import repeating
from agentopt.core.task_rules import CONTEXT
from agentopt.core.task_text import task_html, task_text
from agentopt.core.yaml_models import RuleError, as_error, shortened, shown

Value = Any
"""A parsed response: text, a number, a list of ids, a JSON value."""


@dataclass(frozen=True, slots=True)
class Example:
    """One dataset row.

    Attributes:
        id: Unique within its split.
        inputs: Values that templates can read, by column.
        target: The expected answer, visible only to scorers.
        metadata: Further values for scorers, hidden from templates.
        group: Rows of one group, such as questions on one document, stay in one split and count as one row in intervals
            and comparisons. None or blank: in no group.

    Raises:
        TaskError: A field is of another type, or an input or the target has no text.
    """

    id: str
    inputs: Mapping[str, Any]
    target: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "Example", TaskError)
        task_rules.check_written({**self.inputs, "target": self.target}, f"example {self.id}")

    @property
    def same_as(self) -> tuple[tuple[str, str], ...]:
        """Keys of the example; examples of a split that share one are in one group."""
        group = (("group", self.group),) if self.group and not self.group.isspace() else ()
        return (("inputs", inputs_key(self.inputs)), *group)


class Unparsable(ValueError):  # noqa: N818 - a verdict on a response, not a failure of ours
    """The parser cannot read a response; the message names the expected form. It counts as a wrong answer.

    Not an `AgentoptError`: it is an outcome of a response that users' parsers report, and exported modules need it too.
    """


Parser = Callable[[str], Value]
"""Response text -> value. Raises `Unparsable`."""

Scorer = Callable[[Example, Value], Score | Awaitable[Score]]
"""Scores the workflow's output, which is None if no response of a subtask was parsable."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How several samples become one value.

    `first`: the first that parses. `vote`: the most frequent value, ties to the earliest. `vote_list`: the most common
    list length k, then the k most frequent ids. `fuse`: one more call, to the subtask's model or to `model`, with all
    samples in the prompt, for the best single answer. `best_of`: the highest `judge(inputs, value)`.

    Attributes:
        method: A registered fusion, or one to import, as `package.module:name`.
        model: The model that `fuse` calls.
        prompt: The template that `fuse` renders, over `question` and `answers`.
        judge: The function that `best_of` maximises.
        options: Further options of a registered fusion.

    Raises:
        TaskError: The method is unknown, or an option is not one of the method's.
    """

    method: str = "vote"
    model: str | None = None
    prompt: str | None = None
    judge: Callable[[Mapping[str, Any], Value], float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "Fusion", TaskError)
        task_rules.check_function(self.judge, "judge", 2, "Fusion")
        try:
            FUSIONS.read(self.method, self.given)
        except RuleError as broken:
            raise as_error(broken.mistakes, "Fusion", TaskError) from broken

    @property
    def given(self) -> dict[str, Any]:
        """The options of the method, including those in separate fields."""
        own = {"model": self.model, "prompt": self.prompt, "judge": self.judge}
        return {**self.options, **{name: value for name, value in own.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Nominal tokens of one pass, for costs in units: of the prompt, and of one generation.

    Raises:
        TaskError: A number is not positive.
    """

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        check_fields(self, "TokenLengths", TaskError)


ContextFunction = Callable[[Mapping[str, Any], Mapping[str, Value]], Any]
"""A function of inputs and outputs, called before a subtask's prompt is rendered. It should be deterministic."""


@dataclass(frozen=True, slots=True)
class Subtask:
    """One subtask of a task: a prompt, the models that may answer it, and the allowed numbers of samples.

    Attributes:
        name: Unique within the task; templates read the output by this name.
        render: Function of (inputs, outputs by subtask name) that returns the user message.
        models: Catalogue names; the first is the baseline's.
        parse: Reads a response.
        system_prompt: The system prompt to start from.
        num_samples: Allowed numbers of samples, ascending.
        fusion: How several samples become one value.
        max_tokens: Most tokens of one response.
        temperature: Of one response, as `top_p` and `stop` are.
        temperature_of_one: In place of `temperature` for candidates with one sample.
        json_schema: JSON text of a schema that endpoints enforce, if they can.
        reads: The subtasks whose output the prompt or `context` uses.
        tokens: Nominal lengths for costs in units; measured on the baseline if None.
        description: Shown to the search agent.
        context: Function of (inputs, the outputs that `reads` names), called before `render`, which receives the result
            as `outputs["context"]`. A function that is not async is called in a thread.
        keep_system_prompt: In a program, whether the system prompt precedes the program's own, instead of replacing it.
        left_to_program: Settings (max_tokens, temperature, top_p, stop, json_schema) that a program may set.
        tools: Tools of one call of a program, each as JSON text; `tool_choice` and `parallel_tool_calls` likewise.
        effort: How much a model that reasons should, such as `low`; sent to models that have a reasoning effort.
        knobs: Values that the template reads as `knobs.NAME`, and functions as `outputs["knobs"]["NAME"]`.
        settings: What a search varies beside model and samples, such as `{"temperature": (0, 0.7)}`. The first value of
            each is the baseline's, and replaces the field of that name.
        cascade: Two of the models: the second answers if the first one's samples are not reliable.
        demos: The numbers of demonstrations to try, and how they are shown.

    Raises:
        TaskError: A field breaks a rule.
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
    temperature_of_one: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    reads: tuple[str, ...] = ()
    tokens: TokenLengths | None = None
    description: str = ""
    context: ContextFunction | None = None
    keep_system_prompt: bool = False
    left_to_program: frozenset[str] = frozenset()
    tools: tuple[str, ...] = ()
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    effort: str | None = None
    knobs: Mapping[str, SettingValue] = field(default_factory=dict)
    settings: tuple[Axis, ...] = ()
    cascade: Cascade | None = None
    demos: Demos | None = None

    def __post_init__(self) -> None:
        task_rules.check_name(self.name, "Subtask")
        where = f"subtask {self.name}"
        for name in ("models", "num_samples", "stop", "reads", "tools"):
            object.__setattr__(self, name, task_rules.as_tuple(getattr(self, name), name, where))
        check_fields(self, where, TaskError)
        for name, value in first_values(self, where).items():
            object.__setattr__(self, name, value)
        task_rules.check_function(self.render, "render", 2, where)
        task_rules.check_function(self.parse, "parse", 1, where)
        task_rules.check_models(self.models, where)
        task_rules.check_counts(self.num_samples, where)
        if self.cascade:
            task_rules.check_cascade(self.cascade, self.models, where)
        task_rules.check_sampling(self.max_tokens, (self.temperature, self.temperature_of_one), self.top_p, where)
        own = {CONTEXT: bool(self.context), KNOBS: bool(self.knobs)}
        task_rules.check_own_names([name for name, has in own.items() if has], self.reads, where)


Endpoint = Mapping[str, Any]
"""The endpoint that a program calls, as the openai client's constructor takes it: `base_url` and `api_key`, and
`default_headers` if the candidate has knobs."""


@dataclass(frozen=True, slots=True)
class Program:
    """The user's program as the workflow: it calls subtasks as the models `agentopt/SUBTASK`.

    Attributes:
        command: Program and arguments, run in `folder` once per example. It reads the inputs as JSON from stdin and
            prints its answer.
        function: In place of a command: a function of the inputs and an `Endpoint`, sync or async, that returns the
            answer; or a function of the inputs alone, given as `file.py:name` in `folder`, which runs in a separate
            process with the endpoint in its environment.
        folder: The working folder of a command, and the folder of a function's file.
        parse: Reads the printed answer of a command.
        timeout: Seconds for one example, not counting time during its calls.
        concurrency: Most examples that run concurrently.
        models: The program's own model names -> subtasks, so that the program needs no change.

    Raises:
        TaskError: Not exactly one of `command` and `function` is given, or a number is not positive.
    """

    command: tuple[str, ...] = ()
    function: Callable[[Mapping[str, Any], Endpoint], Any] | str | None = None
    folder: Path = Path()
    parse: Parser = str.strip
    timeout: float = 60.0
    concurrency: int = 4
    models: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task_rules.check_program(self.command, self.function)
        object.__setattr__(self, "command", task_rules.as_tuple(self.command, "command", "program"))
        check_fields(self, "program", TaskError)
        task_rules.check_function(self.parse, "parse", 1, "program")
        object.__setattr__(self, "folder", Path(self.folder))
        task_rules.check_program_limits(self.timeout, self.concurrency)


def program_prompt(inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> str:
    """Return the inputs as JSON: the `render` of a program's subtasks, whose prompts come from the program.

    The text is used only to estimate token counts.

    Raises:
        TaskError: `inputs` is not a mapping.
    """
    if not isinstance(inputs, Mapping):
        rule = f"`inputs` must be a mapping, but got {shown(inputs)}"
        raise TaskError(rule, where="program_prompt", remedy="pass it as `render=program_prompt`, without calling it")
    return json.dumps(dict(inputs), ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number reported beside the score: the scorer's value for the output of `subtask`; 0 without an output.

    Raises:
        TaskError: A field is of another type.
    """

    subtask: str
    scorer: Scorer

    def __post_init__(self) -> None:
        check_fields(self, "Metric", TaskError)


@dataclass(frozen=True)
class Task:
    """A task of several subtasks, with its data and its scorer.

    Attributes:
        name: Appears in the names of run folders.
        subtasks: In an order in which each comes after all that it reads.
        scorer: Scores the output.
        splits: Examples by split; the search needs `validation`, the verdict `test`. Those of a large file stay there.
        description: Shown to the search agent.
        output: The subtask whose output is scored; the last one unless given. With a `program`, its answer is scored.
        unit: The forward pass whose cost is one unit.
        max_units: Most units per example; None for AgentTTS's default, one pass of every subtask's largest model.
        program: A program as the workflow, in place of prompts.
        metrics: Reported beside the score; the search ignores them.
        cost_measure: `usd`, `seconds` or `units`; None: USD if a model has a price, else units if all have parameters.
        max_usd: Most USD that a candidate may cost per example.
        max_seconds: Longest mean latency of a candidate, in seconds per example.
        file: The task file; None for a task built in Python.
        notes: What a user should know about how its rows were read.

    Raises:
        TaskError: A field breaks a rule, or two fields contradict each other.
    """

    name: str
    subtasks: tuple[Subtask, ...]
    scorer: Scorer
    splits: Mapping[Split, Sequence[Example]]
    description: str = ""
    output: str = ""
    unit: Unit = PAPER_UNIT
    max_units: float | None = None
    program: Program | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    cost_measure: CostMeasure | None = None
    max_usd: float | None = None
    max_seconds: float | None = None
    file: Path | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        where = f"task {shortened(self.name)}" if isinstance(self.name, str) else "Task"
        object.__setattr__(self, "subtasks", task_rules.as_tuple(self.subtasks, "subtasks", where))
        check_fields(self, where, TaskError)
        names = [s.name for s in self.subtasks]
        task_rules.check_names(names, where)
        for place, subtask in enumerate(self.subtasks):
            task_rules.check_reads(subtask.reads, names[:place], f"{where}, subtask {subtask.name}")
            task_rules.check_template(subtask.render, subtask.reads, names, f"{where}, subtask {subtask.name}")
            task_rules.check_schema(subtask.json_schema, f"{where}, subtask {subtask.name}")
        task_rules.check_output(self.output_subtask, names, where)
        check_demos(self.subtasks, self.output_subtask, where, is_program=self.program is not None)
        task_rules.check_program_models(self.program.models if self.program else {}, names, f"{where}, program")
        task_rules.check_items(self.metrics, "Metric", "metrics", where)
        task_rules.check_metrics({m: metric.subtask for m, metric in self.metrics.items()}, names, f"{where}, metrics")
        splits = {split: task_rules.as_examples(given, split, where) for split, given in self.splits.items()}
        object.__setattr__(self, "splits", splits)

    __repr__ = task_text
    _repr_html_ = task_html

    def __getitem__(self, subtask: str) -> Subtask:
        for s in self.subtasks:
            if s.name == subtask:
                return s
        raise task_rules.unknown_subtask(subtask, [s.name for s in self.subtasks])

    @property
    def folder(self) -> Path | None:
        """The task folder; None for a task built in Python."""
        return self.file.parent if self.file else None

    @property
    def output_subtask(self) -> str:
        """The subtask whose output is scored."""
        return self.output or self.subtasks[-1].name

    @property
    def reads(self) -> Reads:
        """Subtask -> the subtasks that it waits for. The calls of a program are taken to follow each other."""
        own = {s.name: s.reads for s in self.subtasks}
        return in_sequence(own) if self.program else own

    @cached_property
    def groups(self) -> Mapping[Split, Groups]:
        """Split -> example id -> id of the first example of its group, for groups of two or more examples.

        Examples with equal inputs are in one group, and so are those with one `Example.group`.
        """
        may_repeat = {split: repeating(examples, ("inputs", "group")) for split, examples in self.splits.items()}
        return {split: groups_of({e.id: e.same_as for e in examples}) for split, examples in may_repeat.items()}

    def independent(self, split: Split) -> int:
        """Number of rows of a split that count: each group once. 0 if the task does not have the split."""
        return independent(len(self.splits.get(split, ())), self.groups.get(split, {}))

    @property
    def baseline(self) -> Candidate:
        """The candidate with the first model, the least samples and the seed prompt of every subtask."""
        first = {s.name: SubtaskChoice(s.models[0], s.num_samples[0], s.system_prompt) for s in self.subtasks}
        return Candidate.of(first)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that a candidate or a fusion may use, without duplicates."""
        return tuple(dict.fromkeys(m for s in self.subtasks for m in (*s.models, s.fusion.model) if m is not None))
