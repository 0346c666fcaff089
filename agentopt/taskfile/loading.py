"""Reads a task folder into a `Task`, and checks everything that can be checked without a model call.

Checks the rules between keys, and between the task file, its data and the catalogue; `schema` defines the keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from agentopt.core.axes import KNOBS
from agentopt.core.cost import Unit, units
from agentopt.core.errors import TaskError
from agentopt.core.paths import as_path
from agentopt.core.records import Split
from agentopt.core.registry import FUSIONS, PARSERS, SCORERS, Registry
from agentopt.core.task import (
    Example,
    Fusion,
    Parser,
    Program,
    Scorer,
    Subtask,
    Task,
    TokenLengths,
    Value,
    program_prompt,
)
from agentopt.core.task_rules import CONTEXT, INPUTS, OLD_CONTEXT, check_names, check_output
from agentopt.core.user_functions import Functions
from agentopt.core.yaml_models import as_error, did_you_mean, explain, shown
from agentopt.core.yaml_text import load_yaml
from agentopt.models.catalog import ModelSpec
from agentopt.models.cost_measure import measure_of
from agentopt.models.effort import check_efforts
from agentopt.models.providers import adding_command
from agentopt.taskfile.data import Row, correct_row, read_rows
from agentopt.taskfile.extension_spec import ExtensionSpec, build
from agentopt.taskfile.lines import Progress, no_progress
from agentopt.taskfile.order import in_order
from agentopt.taskfile.overrides import Overrides
from agentopt.taskfile.program import MAX_TOKENS, check_prompts, read_program, settings_left
from agentopt.taskfile.reader import into_splits, read_dataset, read_split
from agentopt.taskfile.row_checks import Rows, check_duplicates, check_leaks, column_names
from agentopt.taskfile.schema import SplitSpec, SubtaskSpec, TaskSpec
from agentopt.taskfile.scoring import build_metrics, build_scorer, check_comparison, is_comparison
from agentopt.taskfile.search_space import check_knobs, read_axes, read_cascade, read_demos
from agentopt.taskfile.sources import source_name
from agentopt.taskfile.stored_files import examples_of, read_large_rows
from agentopt.workflow.templates import Record, Template, compile_template

TASK_FILE = "task.yaml"


class KnownModels(Protocol):
    """The part of a model catalogue that a task is checked against."""

    @property
    def names(self) -> Iterable[str]: ...

    def __contains__(self, name: object) -> bool: ...

    def __getitem__(self, name: str) -> ModelSpec: ...


def load_task(
    path: Path | str,
    *,
    catalog: KnownModels | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> Task:
    """Load a task. Python files that it names are run.

    Args:
        path: A task folder, or a task file.
        catalog: If given, every model must be in it.
        overrides: Dotted keys of the task file to set first, such as {"data.limit.validation": 20}.
        progress: Called while a large file is read, with the bytes that are read and those of the file.

    Raises:
        TaskError: With file, key, rule, value and remedy.
    """
    if catalog is not None and not hasattr(catalog, "names"):
        rule = f"`catalog` must be a catalogue of models, but got {shown(catalog)}"
        raise TaskError(rule, remedy="leave it out, or pass agentopt.models.catalog.Catalog.load()")
    file, changed, spec = _read(path, {} if overrides is None else overrides)
    try:
        return _Reader(file, spec, catalog, progress).task()
    except TaskError as error:
        raise changed.relocated(error, file) from error


def read_spec(path: Path | str, overrides: Mapping[str, Any]) -> tuple[Path, TaskSpec]:
    """Read a task file with overrides; rules between keys are not checked.

    Returns:
        The path of the file, and its content.

    Raises:
        TaskError: There is no such file, or a key breaks its rule.
    """
    file, _, spec = _read(path, overrides)
    return file, spec


def _read(path: Path | str, overrides: Mapping[str, Any]) -> tuple[Path, Overrides, TaskSpec]:
    file = as_path(path, TaskError)
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        rule = f"`overrides` must map keys of the task file to values, but got {shown(overrides)}"
        raise TaskError(rule, remedy='pass overrides={"data.limit.test": 20}')
    file = file / TASK_FILE if file.is_dir() else file
    if not file.is_file():
        raise TaskError(f"there is no {TASK_FILE}", where=path, remedy="give the path of a task folder")
    changed = Overrides(load_yaml(file, TaskError), overrides)
    try:
        return file, changed, TaskSpec.model_validate(changed.data)
    except ValidationError as problem:
        mistakes = explain(problem, TaskSpec, changed.data)
        named = [changed.explained(mistake) for mistake in mistakes]
        where = "" if len(named) == 1 and named != mistakes else file
        raise as_error(named, where, TaskError) from problem


@dataclass(frozen=True)
class _Reader:
    """Builds the `Task` of one task file."""

    file: Path
    spec: TaskSpec
    catalog: KnownModels | None
    progress: Progress

    def task(self) -> Task:
        spec = self.spec
        check_names([s.name for s in spec.subtasks], self.at("subtasks"))
        check_prompts(spec, self.at)
        self._check_models()
        reads = {s.name: self._reads(s) for s in spec.subtasks}
        subtasks = {s.name: self._subtask(s, reads[s.name]) for s in spec.subtasks}
        rows, notes = self._rows()
        check_leaks(rows)
        self._check_columns(rows)
        task = Task(
            name=spec.name,
            subtasks=tuple(subtasks[name] for name in in_order(reads, self.at("subtasks"))),
            scorer=build_scorer(spec.scorer, self.functions, self.at("scorer")),
            metrics=build_metrics(spec.metrics, subtasks, rows, self.functions, self.at("metrics")),
            notes=notes,
            splits={split: self._limited(split, rows[split]) for split in rows},
            description=spec.description,
            output=self._output(),
            unit=Unit(**spec.cost.unit.model_dump()),
            max_units=spec.cost.max_units,
            cost_measure=None if spec.cost.measure == "auto" else spec.cost.measure,
            max_usd=spec.cost.usd,
            max_seconds=spec.cost.max_seconds,
            program=self._program(),
            file=self.file.absolute(),
        )
        self._check_all_used(reads)
        self._check_rendering(task)
        if self.catalog is not None:
            check_efforts(task, {name: self.catalog[name] for name in task.models}, self.at("subtasks"))
        for split in (split for split, groups in task.groups.items() if groups):
            check_duplicates(split, task.splits[split], spec.data.duplicates, self.at("data.duplicates"))
        self._check_targets(task.scorer, rows)
        self._check_costs(task)
        return task

    def at(self, key: str, subtask: SubtaskSpec | None = None) -> str:
        """The file and the key, for messages; with a subtask, the key inside it."""
        return f"{self.file}: subtasks.{subtask.name}.{key}" if subtask else f"{self.file}: {key}"

    @cached_property
    def functions(self) -> Functions:
        return Functions(self.file.parent)

    @cached_property
    def templates(self) -> dict[str, Template]:
        return {s.name: compile_template(s.prompt or "", self.at("prompt", s)) for s in self.spec.subtasks}

    # Building

    def _subtask(self, spec: SubtaskSpec, reads: tuple[str, ...]) -> Subtask:
        schema = _of_parser(spec.parse, "schema")
        left = settings_left(spec) if self.spec.program else frozenset()
        names = {f.name for f in fields(Subtask)} & SubtaskSpec.model_fields.keys()
        built = {
            "render": program_prompt if self.spec.program else self.templates[spec.name].render,
            "parse": self._parser(spec.parse, self.at("parse", spec)),
            "fusion": self._fusion(spec),
            # The order of the keys is kept: it is the order in which a constrained model writes them.
            "json_schema": None if schema is None else json.dumps(schema, separators=(",", ":")),
            "reads": reads,
            "tokens": TokenLengths(spec.tokens.prompt, spec.tokens.completion) if spec.tokens else None,
            "left_to_program": left,
            "context": self.functions(spec.context, self.at("context", spec)) if spec.context else None,
            "cascade": read_cascade(spec, self.functions, partial(self.at, subtask=spec)),
            "knobs": {name: value for name, value in spec.knobs.items() if not isinstance(value, tuple)},
            "settings": read_axes(spec, partial(self.at, subtask=spec)),
            "demos": read_demos(spec, partial(self.at, subtask=spec)),
        }
        if "max_tokens" in left:
            built["max_tokens"] = MAX_TOKENS
        given = {name: getattr(spec, name) for name in names if name not in spec.several}
        return Subtask(**{**given, **built})

    def _program(self) -> Program | None:
        spec, where = self.spec.program, self.at("program")
        if spec is None:
            return None
        parse = self._parser(spec.parse, f"{where}.parse")
        return read_program(spec, self.file.parent, self.functions, parse, where)

    def _parser(self, spec: ExtensionSpec, where: str) -> Parser:
        return build(PARSERS, spec, self.functions, where)[1]  # type: ignore[no-any-return]

    def _fusion(self, spec: SubtaskSpec) -> Fusion:
        fuse, where = spec.fuse, self.at("fuse", spec)
        entry = FUSIONS.find(fuse.kind)
        if entry.traits.get("lists") and not isinstance(_sample(spec.parse), list | None):
            rule = f"{fuse.kind} needs a parser that gives lists, but got {spec.parse.kind}"
            raise TaskError(rule, where=where, remedy="use parse: {kind: ids}, or fuse: vote")
        options = entry.read(fuse.options, lambda name, option: self.functions(name, f"{where}.{option}"))
        own = {name: options.pop(name) for name in ("model", "prompt", "judge") if name in options}
        return Fusion(fuse.kind, **own, options=options)

    def _rows(self) -> tuple[dict[Split, Sequence[Row]], tuple[str, ...]]:
        data = self.spec.data
        if data.reader:
            return read_dataset(data, self.file.parent, self.functions, self.at("data"))
        if data.source:
            every = self._file_rows(data.source, self.at("data.source"))
            return into_splits(every, data.splits, data.split_seed, source_name(data.source, self.file.parent)), ()
        given: dict[Split, str | SplitSpec | None] = {
            "train": data.train,
            "validation": data.validation,
            "test": data.test,
        }
        read = {split: self._split_rows(of, self.at(f"data.{split}")) for split, of in given.items() if of is not None}
        return {split: rows for split, (rows, _) in read.items()}, tuple(n for _, notes in read.values() for n in notes)

    def _split_rows(self, given: str | SplitSpec, where: str) -> tuple[Sequence[Row], tuple[str, ...]]:
        if isinstance(given, SplitSpec):
            return read_split(given, self.file.parent, self.functions, where)
        return self._file_rows(given, where), ()

    def _file_rows(self, source: str, where: str) -> Sequence[Row]:
        folder, columns, needed = self.file.parent, self.spec.columns, is_comparison(self.spec.scorer)
        large = read_large_rows(source, folder, columns, target_needed=needed, where=where, progress=self.progress)
        return large or read_rows(source, folder, columns, target_needed=needed, where=where)

    def _limited(self, split: Split, rows: Sequence[Row]) -> Sequence[Example]:
        return examples_of(rows[: getattr(self.spec.data.limit, split)])

    def _output(self) -> str:
        output = self.spec.output or self.spec.subtasks[-1].name
        check_output(output, [s.name for s in self.spec.subtasks], self.at("output"))
        return output

    def _reads(self, spec: SubtaskSpec) -> tuple[str, ...]:
        """The subtasks whose output the template reads, in the order of the file."""
        template, where = self.templates[spec.name], self.at("prompt", spec)
        names = [s.name for s in self.spec.subtasks]
        if self.spec.program:  # which may use any answer in a later prompt
            return tuple(names[: names.index(spec.name)])
        check_knobs(spec, template, names, where)
        own = [INPUTS, *([CONTEXT, OLD_CONTEXT] if spec.context else []), *([KNOBS] if spec.knobs else [])]
        for name in sorted(template.references - {*own, *names}):
            rule = f"the template reads `{name}`, which is neither `{INPUTS}` nor a subtask"
            readable = [n for n in names if spec.name not in (n, *self.templates[n].references)]  # without a circle
            raise TaskError(rule, where=where, remedy=did_you_mean(name, [*own, *readable]))
        reads = tuple(name for name in names if name in template.references)
        for name in sorted(template.references - {INPUTS, *([KNOBS] if spec.knobs else [])}):
            attributes = {attribute for of, attribute in template.attributes if of == name}
            if attributes != {"output"}:
                got = ", ".join(f"`{name}.{a}`" for a in sorted(attributes - {"output"})) or f"`{name}` alone"
                rule = f"a template reads a subtask as `{name}.output`, but got {got}"
                raise TaskError(rule, where=where, remedy=f"write {{{{ {name}.output }}}}")
        if spec.name in reads:
            rule = f"a subtask cannot read its own output, but `{spec.name}` does"
            raise TaskError(rule, where=where, remedy="read an earlier subtask")
        return reads

    # Checking

    def _check_models(self) -> None:
        if self.catalog is None:
            return
        for name, where in self._models():
            if name not in self.catalog:
                rule = f"the model {name!r} is not in the catalogue"
                command = adding_command(name)
                adding = f"add it by `{command}`, or choose another: " if command else ""
                remedy = f"{adding}{did_you_mean(name, self.catalog.names)} (`agentopt models list` shows all)"
                raise TaskError(rule, where=where, remedy=remedy)

    def _models(self) -> Iterator[tuple[str, str]]:
        """Every model that the file names, with its place."""
        for spec in self.spec.subtasks:
            yield from ((name, self.at(f"models.{number}", spec)) for number, name in enumerate(spec.models))
            yield from _named_models(FUSIONS, spec.fuse, self.at("fuse", spec))
        yield from _named_models(SCORERS, self.spec.scorer, self.at("scorer"))

    def _check_columns(self, rows: Rows) -> None:
        """Check that every column that a template reads is an input column of every row."""
        found = {split: column_names(of) for split, of in rows.items()}
        known = {name for names, _ in found.values() for name in names}
        used: set[str] = set()
        for spec in self.spec.subtasks:
            used |= self.templates[spec.name].columns
            for name in sorted(used - known):
                rule = f"the template reads `{INPUTS}.{name}`, which is not an input column"
                raise TaskError(rule, where=self.at("prompt", spec), remedy=did_you_mean(name, known))
        lacking = (rows[split] for split, (_, everywhere) in found.items() if used - everywhere)
        for row in (row for of in lacking for row in of):
            for name in sorted(used - set(row.example.inputs)):
                rule = f"the row must have the column {name!r}, which a template reads"
                remedy = correct_row(name, row.example.inputs)
                if name in row.empty:
                    rule, remedy = f"{rule}, but its cell is empty", "fill in the cell, or remove the row"
                raise TaskError(rule, where=row.where, remedy=remedy)

    def _check_all_used(self, reads: Mapping[str, tuple[str, ...]]) -> None:
        used = [self._output()]
        for name in used:
            used.extend(other for other in reads[name] if other not in used)
        for spec in self.spec.subtasks:
            if spec.name not in used:
                rule = f"every subtask must lead to the output {used[0]!r}, but nothing reads {spec.name!r}"
                raise TaskError(rule, where=self.at("name", spec), remedy="read it, or remove the subtask")

    def _check_rendering(self, task: Task) -> None:
        """Render every template on the first example of every split, with placeholders for earlier outputs."""
        placeholders = {s.name: _sample(s.parse) for s in self.spec.subtasks}
        for spec in self.spec.subtasks:
            outputs = {name: placeholders[name] for name in task[spec.name].reads}
            outputs |= {KNOBS: Record(task[spec.name].knobs)} if spec.knobs else {}
            if spec.context or None in outputs.values():
                continue  # the shape of what a context function, or a JSON or python parser, returns is unknown here
            for split, examples in task.splits.items():
                try:
                    task[spec.name].render(examples[0].inputs, outputs)
                except TaskError as error:
                    rule = f"on example {examples[0].id} of {split}: {error.message}"
                    raise TaskError(rule, where=self.at("prompt", spec), remedy=error.remedy) from error

    def _check_targets(self, scorer: Scorer, rows: Rows) -> None:
        if is_comparison(self.spec.scorer):
            output = next(s for s in self.spec.subtasks if s.name == self._output())
            # The output of a program is read by the parser of the program.
            parse = self.spec.program.parse if self.spec.program else output.parse
            check_comparison(self.spec.scorer, scorer, parse.kind, _of_parser(parse, "values") or (), output.name, rows)

    def _check_costs(self, task: Task) -> None:
        """Check that no pass costs less than 0, the result of the formula if the unit is too large."""
        if self.catalog is None or measure_of(task.cost_measure, [self.catalog[m] for m in task.models]) != "units":
            return
        for spec in self.spec.subtasks:
            for model in spec.models:
                size = self.catalog[model].parameters
                if spec.tokens is None or size is None:
                    continue
                cost = units(size, spec.tokens.prompt, spec.tokens.completion, unit=task.unit)
                if cost < 0:
                    rule = f"a pass must cost at least 0 units, but one of {model!r} costs {cost:.3g}"
                    remedy = "set cost.unit to a pass of the task's smallest model"
                    raise TaskError(rule, where=self.at("tokens", spec), remedy=remedy)


def _named_models(registry: Registry, spec: ExtensionSpec, where: str) -> Iterator[tuple[str, str]]:
    return ((name, f"{where}.{option}") for option, name in registry.find(spec.kind).models(spec.options).items())


def _of_parser(spec: ExtensionSpec, trait: str) -> Any:
    """The value of the option that the parser's registration names as its `trait`."""
    entry = PARSERS.find(spec.kind)
    option = entry.traits.get(trait)
    return entry.read(spec.options).get(option) if option else None


def _sample(spec: ExtensionSpec) -> Value | None:
    """A value such as the parser returns; None if its type is not known."""
    values = _of_parser(spec, "values")
    return values[0] if values else PARSERS.find(spec.kind).traits.get("sample")
