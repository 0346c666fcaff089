"""The rules that every part of a task satisfies, whether it is built in Python or read from a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

from agentopt.core.axes import KNOBS, MOST_SAMPLES, MOST_TOKENS, Cascade, is_template_name
from agentopt.core.duplicates import inputs_key
from agentopt.core.errors import TaskError, UnknownSubtaskError
from agentopt.core.field_types import check_kind, instance_of
from agentopt.core.json_document import parse_json
from agentopt.core.message_text import counted
from agentopt.core.stored_rows import StoredRows
from agentopt.core.yaml_models import RuleError, as_error, did_you_mean, listed, shortened, shown

INPUTS = "inputs"
"""The name under which a template reads the example's columns; no subtask may be called that."""

CONTEXT = "context"
"""The name under which a template reads the result of its subtask's context function, as `context.output`. Only a
subtask without a context function can read a subtask of that name."""

OLD_CONTEXT = "tool"
"""The name of `context` in version 0.1.0, which templates may still use."""

RESERVED = {INPUTS: "the examples' columns", OLD_CONTEXT: "the old name of `context` in templates"}
"""The names that no subtask may have, and their meaning."""

SPLITS = ("train", "validation", "test")


def as_tuple(value: Any, name: str, where: str) -> tuple[Any, ...]:
    """A list, tuple or range as a tuple.

    Args:
        value: The value of the field.
        name: The field's name.
        where: The place of the value, for the error.

    Raises:
        TaskError: The value is something else, such as one name that is not in a list.
    """
    if not isinstance(value, list | tuple | range):
        rule = f"`{name}` must be a tuple or a list, but got {shown(value)}"
        remedy = f"write {name}=({shown(value)},)" if isinstance(value, str | int | float) else f"write {name}=[...]"
        raise TaskError(rule, where=where, remedy=remedy)
    return tuple(value)


def check_written(values: Mapping[str, Any], where: str) -> None:
    """Raise `TaskError` if a value can be written neither as JSON nor as text, so that rows cannot be compared by it.

    Args:
        values: Name of a field, such as that of a column -> its value.
        where: The place of the values, for the error.
    """
    for name, value in values.items():
        if isinstance(name, str) and (value is None or isinstance(value, str | bool | float)):
            continue  # most values of large files
        try:
            inputs_key({name: value})
        except Exception as error:  # whatever a `__str__` raises
            rule = f"`{name}` must be a value that can be written as JSON or as text ({type(error).__name__}: {error})"
            remedy = "use texts as keys and no number of thousands of digits, or convert the value to a text"
            raise TaskError(rule, where=where, remedy=remedy) from error


def check_function(function: Any, name: str, arguments: int, where: str) -> None:
    """Raise `TaskError` if a function is async or a generator, or cannot be called with so many arguments.

    The first two return an object in place of the value. A function whose signature is not known passes.

    Args:
        function: The value of the field; what is no function is not checked here.
        name: The field's name.
        arguments: Number of positional arguments that it is called with.
        where: The place of the value, for the error.
    """
    if not callable(function):
        return
    shown_name = getattr(function, "__name__", type(function).__name__)
    for kind, (is_kind, remedy) in _UNUSABLE.items():
        if is_kind(function) or is_kind(function.__call__):
            rule = f"`{name}` must be a plain function, but {shown_name} is {kind}"
            raise TaskError(rule, where=where, remedy=remedy)
    with suppress(ValueError):
        signature = inspect.signature(function)
        try:
            signature.bind(*[None] * arguments)
        except TypeError as error:
            taken = shortened(str(signature))
            rule = f"`{name}` must take {counted(arguments, 'argument')}, but {shown_name} takes {taken}"
            raise TaskError(rule, where=where, remedy="change its parameters") from error


_UNUSABLE: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "async": (
        lambda f: inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f),
        "await in a `context` function or a scorer, which may be async",
    ),
    "a generator": (inspect.isgeneratorfunction, "return the value instead of yielding it"),
}


def check_items(values: Mapping[str, Any], kind: str, name: str, where: str) -> None:
    """Raise `TaskError` unless every value is an instance of the class of that name.

    Args:
        values: Name -> value.
        kind: Name of the class.
        name: Name of the field that contains the values.
        where: The place of the value, for the error.
    """
    for key, value in values.items():
        check_kind(value, instance_of(kind), f"{name}.{key}", where, TaskError)


def check_name(name: Any, where: str) -> None:
    """Raise `TaskError` unless a subtask may have that name: an identifier that is not reserved."""
    if not is_template_name(name):
        rule = f"a subtask's name must be a word that templates can use, but got {shown(name)}"
        raise TaskError(rule, where=where, remedy="use letters, digits and _, and start with a letter")
    if name in RESERVED:
        raise TaskError(f"`{name}` is {RESERVED[name]}", where=where, remedy="rename the subtask")


def check_names(names: Iterable[str], where: str) -> None:
    """Raise `TaskError` unless there is at least one name, each is valid, and none is given twice."""
    seen: set[str] = set()
    for name in names:
        check_name(name, where)
        if name in seen:
            raise TaskError(f"two subtasks are called {shown(name)}", where=where, remedy="rename one of them")
        seen.add(name)
    if not seen:
        raise TaskError("a task needs at least one subtask", where=where, remedy="add one under `subtasks`")


def unknown_subtask(name: Any, known: Collection[str]) -> UnknownSubtaskError:
    """Return the exception for a name that is not that of a subtask."""
    return UnknownSubtaskError(f"there is no subtask {shown(name)}", remedy=did_you_mean(str(name), known))


def check_models(models: Sequence[Any], where: str) -> None:
    """Raise `TaskError` unless there is at least one model, and none is given twice."""
    if not models or len(set(models)) != len(models):
        rule = f"`models` must be given, none twice, but got {shown(list(models))}"
        raise TaskError(rule, where=where, remedy="list each model's catalogue name once")


def check_own_names(own: Collection[str], reads: Collection[str], where: str) -> None:
    """Raise `TaskError` if a subtask reads one of the name of a value of its own.

    Args:
        own: Those of `context` and `knobs` that the subtask has.
        reads: Names of the subtasks that it reads.
        where: The place of the value, for the error.
    """
    values = {CONTEXT: "the result of the context function", KNOBS: "the knobs of this one"}
    if both := sorted(set(own) & set(reads)):
        rule = f"`{both[0]}` must be either a subtask or {values[both[0]]}, but got both"
        raise TaskError(rule, where=where, remedy=f"rename the subtask `{both[0]}`")


def check_cascade(cascade: Cascade, models: Sequence[str], where: str) -> None:
    """Raise `TaskError` unless a cascade has two of the models, and a check that can be called.

    Args:
        cascade: The cascade.
        models: The models of the subtask.
        where: The place of the value, for the error.
    """
    own = [cascade.small, cascade.big]
    if len(set(own)) != 2 or not set(own) <= set(models):
        rule = f"`cascade` must be two of the models, the small one first, but got {shown(own)}"
        raise TaskError(rule, where=where, remedy=f"choose from {', '.join(models)}, or add one to `models`")
    check_function(cascade.check, "cascade.check", 2, where)


def check_counts(counts: Sequence[Any], where: str) -> None:
    """Raise `TaskError` unless the sample counts are positive whole numbers in ascending order."""
    whole = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
    if not counts or not whole or counts[0] < 1 or any(a >= b for a, b in pairwise(counts)):
        rule = f"`num_samples` must be positive and ascending, but got {shown(list(counts))}"
        raise TaskError(rule, where=where, remedy="write them like (1, 2, 3, 5, 8)")
    if counts[-1] > MOST_SAMPLES:
        rule = f"`num_samples` must be at most {MOST_SAMPLES:,}, but got {counts[-1]}"
        raise TaskError(rule, where=where, remedy="allow fewer samples")


def check_sampling(max_tokens: int, temperatures: Sequence[float | None], top_p: float | None, where: str) -> None:
    """Raise `TaskError` unless the settings of a response are in their ranges.

    Args:
        max_tokens: From 1 to `MOST_TOKENS`.
        temperatures: That of several samples and that of one, from 0 to 2.
        top_p: Above 0 and at most 1.
        where: The place of the value, for the error.
    """
    named = zip(("temperature", "temperature_of_one"), temperatures, strict=True)
    for name, value, fits, rule in (
        ("max_tokens", max_tokens, 1 <= max_tokens <= MOST_TOKENS, f"from 1 to {MOST_TOKENS:,}"),
        *((name, value, value is None or 0 <= value <= 2, "from 0 to 2") for name, value in named),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0 and at most 1"),
    ):
        if not fits:
            raise TaskError(f"`{name}` must be {rule}, but got {shown(value)}", where=where, remedy=f"change {name}")


def check_schema(json_schema: str | None, where: str) -> None:
    """Raise `TaskError` unless the text of a JSON schema, if there is one, is a valid schema."""
    if json_schema is None:
        return
    import jsonschema  # late: it takes a tenth of a second, and few tasks need it

    try:
        schema = parse_json(json_schema)
    except RuleError as error:
        raise as_error([replace(m, key="json_schema") for m in error.mistakes], where, TaskError) from error
    try:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        rule = f"`json_schema` must be a JSON schema, but {shortened(error.message)}"
        raise TaskError(rule, where=where, remedy="correct the schema") from error


def check_reads(reads: Collection[str], earlier: Collection[str], where: str) -> None:
    """Raise `TaskError` unless a subtask reads subtasks before it only.

    Args:
        reads: Names of the subtasks that it reads.
        earlier: Names of the subtasks before it.
        where: The place of the value, for the error.
    """
    if late := sorted(set(reads) - set(earlier)):
        rule = f"`reads` must name earlier subtasks, but got {shortened(', '.join(late))}"
        raise TaskError(rule, where=where, remedy="order the subtasks so that each comes after all it reads")


def check_template(render: object, reads: Collection[str], names: Collection[str], where: str) -> None:
    """Raise `TaskError` if a subtask's template reads another subtask that `reads` does not name.

    Args:
        render: The subtask's function; what a template reads is in the `references` of the object it is a method of.
        reads: Names of the subtasks that it reads.
        names: Names of the task's subtasks.
        where: The place of the value, for the error.
    """
    references: Collection[str] = getattr(getattr(render, "__self__", None), "references", frozenset())
    if unread := sorted(name for name in names if name in references and name not in reads):
        rule = f"`reads` must name the subtasks that the template reads, but {listed(unread)} is missing"
        raise TaskError(rule, where=where, remedy=f"add it to reads: reads={(*reads, *unread)!r}")


def check_output(output: str, names: Collection[str], where: str) -> None:
    """Raise `TaskError` unless `output` is the name of a subtask.

    Args:
        output: The name to check.
        names: Names of the task's subtasks.
        where: The place of the value, for the error.
    """
    if output not in names:
        rule = f"`output` must name a subtask, but got {shown(output)}"
        raise TaskError(rule, where=where, remedy=did_you_mean(output, names))


def check_program(command: Any, function: Any) -> None:
    """Raise `TaskError` unless a program is either a command or a function."""
    if isinstance(command, str) or bool(command) == bool(function):
        rule = "a program must be either a command, as a tuple of words, or a function"
        raise TaskError(rule, where="program", remedy="give one of the two")


def check_program_limits(timeout: float, concurrency: int) -> None:
    """Raise `TaskError` unless a program has time, and at least one example may run."""
    if timeout <= 0 or concurrency < 1:
        rule = f"a program needs time and at least one place, but got {timeout:g} s, {concurrency}"
        raise TaskError(rule, where="program", remedy="make `timeout` and `concurrency` positive")


def check_program_models(mapped: Mapping[str, str], names: Collection[str], where: str) -> None:
    """Raise `TaskError` unless every model name of a program is mapped to a subtask.

    Args:
        mapped: Model name of the program -> subtask.
        names: Names of the task's subtasks.
        where: The place of the value, for the error.
    """
    for model, name in mapped.items():
        if name not in names:
            rule = f"`models` must map {shown(model)} to a subtask, but got {shown(name)}"
            raise TaskError(rule, where=where, remedy=did_you_mean(name, names))


def check_metrics(judged: Mapping[str, str], names: Collection[str], where: str) -> None:
    """Raise `TaskError` unless the subtask that each metric judges is one of `names`.

    Args:
        judged: Metric -> the subtask that it judges.
        names: Names of the task's subtasks.
        where: The place of the value, for the error.
    """
    for metric, name in judged.items():
        if name not in names:
            rule = f"a metric must name a subtask, but got {shown(name)}"
            raise TaskError(rule, where=f"{where}.{metric}.subtask", remedy=did_you_mean(name, names))


def as_examples(given: Any, split: str, where: str) -> Sequence[Any]:
    """The examples of a split as a tuple; those that stay in a file, which were checked when it was read, as given.

    Args:
        given: The value of the split.
        split: Name of the split.
        where: The place of the value, for the error.

    Raises:
        TaskError: It is no list of examples, the split has another name, or two examples have one id.
    """
    if isinstance(given, StoredRows):
        return given
    examples = as_tuple(given, f"splits.{split}", where)
    for example in examples:
        check_kind(example, instance_of("Example"), f"splits.{split}", where, TaskError)
    check_split(split, [example.id for example in examples], where)
    return examples


def check_split(split: str, ids: Sequence[str], where: str) -> None:
    """Raise `TaskError` unless the split has a known name, at least one example, and no id twice.

    Args:
        split: Name of the split.
        ids: Ids of its examples.
        where: The place of the value, for the error.
    """
    if split not in SPLITS:
        rule = f"a split must be one of {', '.join(SPLITS)}, but got {shown(split)}"
        raise TaskError(rule, where=where, remedy=did_you_mean(split, SPLITS, "rename the split"))
    where = f"{where}, {split} split"
    if not ids:
        raise TaskError("there are no examples", where=where, remedy="add examples, or leave the split out")
    seen: set[str] = set()
    for identifier in ids:
        if identifier in seen:
            raise TaskError(f"two examples have the id {shown(identifier)}", where=where, remedy="give each its own id")
        seen.add(identifier)
