"""Builds the scorer and the metrics of a task file, and checks them against the data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentopt.core.errors import ScorerError, TaskError
from agentopt.core.registry import SCORERS
from agentopt.core.task import Metric, Scorer, Value
from agentopt.core.task_rules import check_metrics
from agentopt.core.user_functions import Functions
from agentopt.core.yaml_models import did_you_mean, shown
from agentopt.evaluation import scorers
from agentopt.evaluation.judge import Judge
from agentopt.taskfile.data import Row
from agentopt.taskfile.extension_spec import ExtensionSpec, build
from agentopt.taskfile.row_checks import Rows, check_in_parts
from agentopt.taskfile.schema import MetricSpec


def build_scorer(spec: ExtensionSpec, functions: Functions, where: str) -> Scorer:
    """Build a scorer.

    Args:
        spec: Its name and options.
        functions: Loads the functions that options name.
        where: The place of the key, for messages.

    Raises:
        TaskError: A function does not exist, or an option is refused.
    """
    entry, scorer = build(SCORERS, spec, functions, where)
    if entry.traits.get("compares") or isinstance(scorer, Judge):
        return scorer  # type: ignore[no-any-return]
    return scorers.python(scorer)


def is_comparison(spec: ExtensionSpec) -> bool:
    """Whether the scorer compares the output with the target."""
    return bool(SCORERS.find(spec.kind).traits.get("compares"))


def check_comparison(
    spec: ExtensionSpec, scorer: Scorer, parser: str, options: Sequence[str], output: str, rows: Rows
) -> None:
    """Check that the scorer of a task can compare outputs with every target.

    Args:
        spec: The name and the options of the scorer.
        scorer: The scorer, which compares.
        parser: Name of the parser of the output.
        options: The only values that the parser can return; empty if any value is possible.
        output: Name of the subtask.
        rows: The rows of every split.

    Raises:
        TaskError: A row's target cannot be compared with an output.
    """
    is_json = parser not in ("text", "number", "choice", "ids")

    def check(part: Rows) -> None:
        check_readable(part, is_json=is_json)
        check_targets(scorer, options, output, part)

    is_own = SCORERS.find(spec.kind).make.__module__.partition(".")[0] == "agentopt"
    has_function = any(":" in str(value) for value in spec.options.values())
    known = [spec.model_dump(mode="json"), is_json, list(options)] if is_own and not has_function else None
    check_in_parts(rows, check, known)


def check_targets(scorer: Scorer, options: Sequence[str], output: str, rows: Rows) -> None:
    """Check that a comparison can use every target, and that a subtask with fixed options can be right.

    Args:
        scorer: A comparison with the target.
        options: The only values that the subtask `output` can return; empty if any value is possible.
        output: Name of the subtask.
        rows: The rows of every split.

    Raises:
        TaskError: The scorer cannot use a row's target, or scores every option 0.
    """
    for row in _all(rows):
        _probe(scorer, row, None)
        scores = [_probe(scorer, row, option) for option in options]
        if scores and all(score is not None and score <= 0 for score in scores):
            rule = f"no option of {output} is right by the target {row.example.target!r}"
            raise TaskError(rule, where=row.where, remedy=f"options: {', '.join(options)}")


def _probe(scorer: Scorer, row: Row, output: Value | None) -> float | None:
    """The score of an output; None if a user's scorer is async or fails on it, which an evaluation reports by row."""
    try:
        score: Any = scorer(row.example, output)
    except ScorerError as error:
        raise TaskError(str(error), where=row.where, remedy="correct the row's target") from error
    except Exception:  # noqa: BLE001 - a user's function may raise anything
        return None
    if inspect.iscoroutine(score):
        score.close()  # a coroutine that is neither awaited nor closed is warned about
    value = getattr(score, "value", score)
    return value if isinstance(value, int | float) else None


def check_readable(rows: Rows, *, is_json: bool) -> None:
    """Raise `TaskError` for a target that no output can be compared with.

    Args:
        rows: The rows of each split.
        is_json: Whether outputs may be JSON objects, so that targets may be too.
    """
    for row in _all(rows):
        target = row.example.target
        items = target if isinstance(target, list) else [target]
        if any(isinstance(item, float) and not math.isfinite(item) for item in items):
            rule = f"the target must be a value that an output can equal, but got {target!r}"
            raise TaskError(rule, where=row.where, remedy="correct or remove the row")
        if not is_json and (nested := next((item for item in items if isinstance(item, dict)), None)):
            rule = f"the target must be a string, a number or a list of them, not an object with {', '.join(nested)}"
            remedy = f"read one of its fields, such as columns.target: COLUMN.{next(iter(nested))}"
            raise TaskError(rule, where=row.where, remedy=remedy)


def build_metrics(
    specs: Mapping[str, MetricSpec], subtasks: Iterable[str], rows: Rows, functions: Functions, where: str
) -> dict[str, Metric]:
    """Build the metrics.

    Args:
        specs: The key `metrics`.
        subtasks: Names of the subtasks.
        rows: The rows of every split.
        functions: Loads the functions that options name.
        where: The place of the key, for messages.

    Returns:
        Name -> metric.

    Raises:
        TaskError: A metric names no subtask, calls a model, or compares with a value that an example lacks.
    """
    check_metrics({name: spec.subtask for name, spec in specs.items()}, list(subtasks), where)
    metrics = {}
    for name, spec in specs.items():
        place = f"{where}.{name}.scorer"
        if SCORERS.find(spec.scorer.kind).traits.get("calls_model"):
            rule = f"a metric is computed without a model, but {spec.scorer.kind} calls one"
            raise TaskError(rule, where=place, remedy="use another kind")
        scorer = build_scorer(spec.scorer, functions, place)
        if spec.against is not None:
            _check_metadata(spec.against, rows, f"{where}.{name}.against")
            scorer = scorers.against(spec.against, scorer)
        if is_comparison(spec.scorer):
            check_targets(scorer, (), spec.subtask, rows)
        metrics[name] = Metric(spec.subtask, scorer)
    return metrics


def _check_metadata(column: str, rows: Rows, where: str) -> None:
    """Raise `TaskError` unless every row has the metadata; with its place if only some have it."""
    known = dict.fromkeys(name for row in _all(rows) for name in row.example.metadata)
    if column not in known:
        rule = f"must name a column of the metadata, but got {shown(column)}"
        meant = f"{did_you_mean(column, known)}; or " if known else ""
        remedy = f"{meant}list it in `columns.metadata`; a reader returns it in the metadata of its examples"
        raise TaskError(rule, where=where, remedy=remedy)
    for row in _all(rows):
        if column not in row.example.metadata:
            rule = f"every row must have the metadata {column!r}, because a metric is compared with it ({where})"
            raise TaskError(rule, where=row.where, remedy="add it to the row, or remove the row")


def _all(rows: Rows) -> Iterable[Row]:
    return (row for split in rows.values() for row in split)
