"""The keys of task.yaml as pydantic models, with the rules for single keys; `loading` has the rules between keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from agentopt.core.axes import KNOBS, KNOWN, MOST_SAMPLES, THRESHOLDS, SettingValue
from agentopt.core.demos import DemosAs, DemosFrom
from agentopt.core.duplicates import MOST_DUPLICATES
from agentopt.core.yaml_models import (
    Count,
    Form,
    NotNegative,
    Positive,
    Strict,
    Text,
    shown,
)
from agentopt.taskfile.cost_schema import CostSpec
from agentopt.taskfile.extension_spec import ExtensionSpec, FusionSpec, ParserSpec, ScorerSpec

FunctionName = Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$"), Form("a function as file.py:name")]
"""A function in a Python file, as `file.py:name`, relative to the task folder."""


def _error(rule: str, remedy: str) -> PydanticCustomError:
    # Braces would be read as placeholders of the message.
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "remedy": remedy})


def _counts(value: Any) -> Any:
    """8 is (8,) and {max: 8} is 1..8."""
    if isinstance(value, Mapping) and set(value) == {"max"}:
        if type(value["max"]) is not int:  # true is an int
            raise _error(f"`max` must be a whole number, but got {shown(value['max'])}", "write it like {max: 100}")
        if value["max"] > MOST_SAMPLES:
            raise _error(
                f"must be at most {MOST_SAMPLES:,} samples, but got {value['max']}", "write it like {max: 100}"
            )
        return tuple(range(1, value["max"] + 1))
    if not isinstance(value, int | list | tuple):
        rule = f"must be a number, a list of numbers, or {{max: n}}, but got {shown(value)}"
        raise _error(rule, "write it like 8, [1, 3, 5] or {max: 8}")
    return (value,) if isinstance(value, int) else value


def _ascending(counts: tuple[int, ...]) -> tuple[int, ...]:
    if not counts or any(later <= earlier for earlier, later in pairwise((0, *counts))):
        raise _error("must be positive and ascending", "write it like [1, 2, 3, 5, 8], {max: 100} or 8")
    return counts


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise _error("must name each thing once", "remove the duplicates")
    return values


def _by_name(value: Any) -> Any:
    names = isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value)
    return {name: name for name in _distinct(tuple(value))} if names else value


ColumnNames = Annotated[
    dict[Text, Text], BeforeValidator(_by_name), Form("a list of columns, or a mapping from names to columns")
]
"""Name -> column, or a dotted path inside of one; a list gives each column its own name."""


def _one_or_several(value: Any, read: Callable[[Any], Any]) -> Any:
    """A list of values, which the search varies, as a tuple; one value as it is."""
    return tuple(map(read, value)) if isinstance(value, list | tuple) else read(value)


# A field with this has the type of one value, but its value may be a tuple of them.
_SEVERAL = WrapValidator(_one_or_several)

Knob = Annotated[bool | int | float | str, _SEVERAL]
"""A value that templates read, or several that the search varies."""


class LimitSpec(Strict):
    """How many examples of each split are used, from the top of its file; all unless given."""

    train: Count | None = None
    """Most examples of the train split."""
    validation: Count | None = None
    """Most examples of the validation split."""
    test: Count | None = None
    """Most examples of the test split."""


class SplitsSpec(Strict):
    """The expected share of each split in a dataset; shares are divided by their sum.

    Without any share given, a fifth of the rows is for training. Shares that are given are the whole: no row is for
    training unless `train` is among them. Every task needs the other two, so they must be among them.
    """

    train: NotNegative = 0
    """Share of the train split."""
    validation: Positive
    """Share of the validation split."""
    test: Positive
    """Share of the test split."""

    @model_validator(mode="before")
    @classmethod
    def _without_any(cls, data: Any) -> Any:
        return {"train": 0.2, "validation": 0.4, "test": 0.4} if data == {} else data


class SplitSpec(Strict):
    """A split that is a dataset of its own in its public format, with its reader."""

    source: Text
    """The dataset, of a form in `sources`."""
    reader: FunctionName
    """As `data.reader`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """As `data.options`."""


def _as_split(value: Any) -> Any:
    if value is None or isinstance(value, str | Mapping | SplitSpec):
        return value
    raise _error(f"must be a file, or a mapping with a source and a reader, but got {shown(value)}", _OF_A_SPLIT)


_OF_A_SPLIT = 'write FILE.jsonl, or {source: FILE, reader: "reader.py:read"}'
Split = Annotated[Text | SplitSpec, BeforeValidator(_as_split), Form(_OF_A_SPLIT)]
"""The file of a split, or a dataset with a reader of its own."""


class DataSpec(Strict):
    """The splits: a file for each, or one dataset for all, of a form in `sources`; a reader reads its public format."""

    train: Split | None = None
    """Examples for the prompt optimiser."""
    validation: Split | None = None
    """Examples that the search optimises on."""
    test: Split | None = None
    """Examples for the verdict, which the search does not use. Each of the three is a file, or a mapping with a
    `source`, a `reader` and its `options`."""
    source: Text | None = None
    """One dataset for all splits. `-c data=FILE` sets it."""
    reader: FunctionName | None = None
    """A function of a row and the options that returns an `Example`, or None for a row to skip."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The reader's keyword arguments; one whose name ends in `_file` is a path."""
    splits: SplitsSpec = Field(default_factory=lambda: SplitsSpec.model_validate({}))
    split_seed: int = 0
    """Seeds the assignment of rows to splits."""
    limit: LimitSpec = LimitSpec()
    duplicates: Annotated[float, Field(ge=0, le=1)] = MOST_DUPLICATES
    """Largest share of a split's rows that may repeat the inputs of an earlier row."""

    @property
    def is_split(self) -> bool:
        """Whether one dataset is split, in place of a file for each split."""
        return bool(self.reader or self.source)

    @model_validator(mode="after")
    def _one_form(self) -> DataSpec:
        files = {name for name in ("train", "validation", "test") if getattr(self, name) is not None}
        of_source = self.model_fields_set & {"splits", "split_seed"}
        if self.is_split and files:
            rule = f"a dataset (`source`, `reader`) is split by `splits`, but got a file for {', '.join(sorted(files))}"
            raise _error(rule, "remove the files, or the dataset")
        if not self.reader and "options" in self.model_fields_set:
            raise _error("`options` goes with a reader", 'add reader: "reader.py:read", or remove `options`')
        if not self.is_split and of_source:
            raise _error(f"`{min(of_source)}` goes with one dataset for all splits", "add source: rows.jsonl")
        if not self.is_split and (missing := {"validation", "test"} - files):
            raise _error(f"`{max(missing)}` must be given", f"add `{max(missing)}: FILE.jsonl`")
        return self


class ColumnsSpec(Strict):
    """How a row becomes an `Example`."""

    id: Text | None = None
    """Column of the example's id; default: `id` if the rows have it, otherwise the line number."""
    target: Text | None = None
    """Column that only scorers see; `target` unless given. Each may be a dotted path, such as `answers.text`."""
    inputs: Annotated[ColumnNames, Field(min_length=1)] | None = None
    """Columns that templates may read; default: all that have no other use."""
    metadata: ColumnNames = Field(default_factory=dict)
    """Columns for python scorers, hidden from templates."""
    group: Text | None = None
    """Column whose value the rows of one group share; they stay in one split and count as one row."""


class TokensSpec(Strict):
    """Nominal tokens of one pass, for costs in units; measured on the baseline unless given."""

    prompt: Positive
    """Tokens of the prompt."""
    completion: Positive
    """Tokens of one response."""


class ProgramSpec(Strict):
    """The user's program as the workflow; the subtasks are then the models that it calls."""

    command: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """A command, run in the task folder: it reads the inputs as JSON on stdin, or in a word with {input}, and prints
    its answer. `python` is the interpreter that runs agentopt."""
    function: FunctionName | None = None
    """A function of the inputs that returns the answer; see `taskfile.program`."""
    parse: ParserSpec = ExtensionSpec(kind="text")
    """The parser of a command's output."""
    timeout: Positive = 60.0
    """Most seconds for one example, not counting time during its calls."""
    concurrency: Count = 4
    """Most examples that run concurrently."""
    models: dict[Text, Text] = Field(default_factory=dict)
    """The program's own model names -> subtasks, such as `{gpt-4o-mini: plan}`, so that nothing in it changes."""

    @model_validator(mode="after")
    def _one_form(self) -> ProgramSpec:
        if (self.command is None) == (self.function is None):
            raise _error("a program is either a `command` or a `function`", "give one of the two")
        if self.function is not None and "parse" in self.model_fields_set:
            raise _error("`parse` goes with a command; a function returns its value", "remove `parse`")
        return self


def _list_of(key: str, items: str, example: str) -> BeforeValidator:
    """Read a list as a mapping with the list under `key`."""

    def read(value: Any) -> Any:
        if value is not None and not isinstance(value, list | tuple | Mapping):
            raise _error(f"must be a list of {items}, or a mapping with `{key}`, but got {shown(value)}", example)
        return {key: value} if isinstance(value, list | tuple) else value

    return BeforeValidator(read)


_TWO = Form("two models, such as [small, large]")
_NUMBERS = Form("numbers, such as [0, 2, 4]")


class CascadeSpec(Strict):
    """Two of the models: the second answers if the first one's samples are not reliable."""

    models: Annotated[tuple[Text, ...], Field(min_length=2, max_length=2), AfterValidator(_distinct), _TWO]
    """The small model and the big one."""
    below: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)] = THRESHOLDS
    """Thresholds to try: the smallest agreement of the small model's samples that is kept."""
    check: FunctionName | None = None
    """A function of the inputs and the small model's value that returns whether it is acceptable."""


class DemosSpec(Strict):
    """Demonstrations: right answers to train examples."""

    count: Annotated[tuple[int, ...], _NUMBERS]
    """Numbers to try, ascending; the first is 0."""
    shown_as: DemosAs = Field("messages", alias="as")
    """`messages`: pairs of a user and an assistant message; `prompt`: text after the system prompt."""
    min_score: float = 1.0
    """Least score of the whole workflow on an example that counts as right."""
    source: DemosFrom = Field("both", alias="from")
    """The baseline's right `responses`, `targets`, or `both`: the response if it is right, else the target."""


class SubtaskSpec(Strict):
    """One subtask."""

    name: Text
    """An identifier by which templates read this subtask's output."""
    description: str = ""
    """Shown to the search agent."""
    system_prompt: str = ""
    """The seed system prompt; the prompt optimiser starts from it."""
    prompt: Text | None = None
    """The template of the user message, which reads `inputs.<column>` and `<subtask>.output`; none with a program."""
    context: FunctionName | None = None
    """A function of the inputs and of the outputs that the prompt reads; the prompt reads its result as
    `context.output`."""
    keep_system_prompt: bool = False
    """Whether the program's system message is kept, after the candidate's, instead of being replaced by it."""
    models: Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_distinct)]
    """Catalogue names of the allowed models; the first is the baseline's."""
    num_samples: Annotated[tuple[int, ...], BeforeValidator(_counts), AfterValidator(_ascending)] = (1, 2, 3, 5, 8)
    """Allowed numbers of samples: a list, {max: 100} for 1 to 100, or one number."""
    max_tokens: Annotated[Count, _SEVERAL] = 64
    """Most tokens of one response; several, such as [64, 256], are searched, and the first is the baseline's."""
    temperature: Annotated[Annotated[float, Field(ge=0, le=2)] | None, _SEVERAL] = None
    """One, or several, as `max_tokens`."""
    temperature_of_one: Annotated[float, Field(ge=0, le=2)] | None = None
    """The temperature of candidates with one sample, which need no variety; `temperature` unless given."""
    effort: Annotated[Text | None, _SEVERAL] = None
    """How much a model that reasons should, such as `low`; one, or several."""
    knobs: dict[Text, Knob] = Field(default_factory=dict)
    """Values that the template reads as `knobs.NAME`; one each, or several."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Probability mass of the tokens that are sampled from (nucleus sampling); the endpoint's default unless given."""
    stop: tuple[Text, ...] = ()
    """Stop sequences."""
    parse: ParserSpec = ExtensionSpec(kind="text")
    """The parser of a response."""
    fuse: FusionSpec = ExtensionSpec(kind="vote")
    """How several samples become one value."""
    cascade: Annotated[CascadeSpec | None, _list_of("models", "two models", "write it like [small, large]"), _TWO] = (
        None
    )
    """The small model and the big one; or a mapping, to set the thresholds and a check."""
    demos: Annotated[DemosSpec | None, _list_of("count", "numbers", "write it like [0, 2, 4]"), _NUMBERS] = None
    """Numbers of demonstrations to try; or a mapping, to set how they are shown and which ones."""
    tokens: TokensSpec | None = None

    @property
    def several(self) -> dict[str, tuple[SettingValue, ...]]:
        """The settings that are given as lists: name -> values."""
        own = {name: getattr(self, name) for name in KNOWN}
        given = own | {f"{KNOBS}.{name}": value for name, value in self.knobs.items()}
        return {name: value for name, value in given.items() if isinstance(value, tuple)}

    @model_validator(mode="after")
    def _one_temperature(self) -> SubtaskSpec:
        if self.temperature_of_one is not None and isinstance(self.temperature, tuple):
            rule = "`temperature_of_one` goes with one `temperature`, but several are searched"
            raise _error(rule, "remove it, or give one temperature")
        return self

    @model_validator(mode="before")
    @classmethod
    def _old_key(cls, data: Any) -> Any:
        """Accept `tool`, the name of `context` in version 0.1.0."""
        if not isinstance(data, Mapping) or "tool" not in data:
            return data
        if "context" in data:
            raise _error("`tool` is the old name of `context`, but both are given", "remove `tool`")
        return {"context" if key == "tool" else key: value for key, value in data.items()}


class MetricSpec(Strict):
    """A number that is reported beside the score."""

    subtask: Text
    """The subtask whose output is scored."""
    scorer: ScorerSpec
    against: Text | None = None
    """The metadata column to compare with; the target unless given."""


class TaskSpec(Strict):
    """A task.yaml."""

    name: Text
    """Name of the task; the folders of its runs begin with it."""
    description: str = ""
    """Shown to the search agent."""
    data: DataSpec
    columns: ColumnsSpec = ColumnsSpec()
    program: ProgramSpec | None = None
    subtasks: Annotated[tuple[SubtaskSpec, ...], Field(min_length=1)]
    output: Text | None = None
    """The subtask whose output is scored; the last unless given."""
    scorer: ScorerSpec
    metrics: dict[Text, MetricSpec] = Field(default_factory=dict)
    """Metrics reported beside the score, by name; the search ignores them."""
    cost: CostSpec = CostSpec()

    @model_validator(mode="after")
    def _columns_of_files(self) -> TaskSpec:
        if self.data.reader and "columns" in self.model_fields_set:
            raise _error("`columns` goes with data without a reader, which returns the examples", "remove `columns`")
        return self
