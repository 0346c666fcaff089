"""Rows that repeat each other in a whole run: reported, and counted once in its scores, intervals and comparisons."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from agentopt import Config, aoptimize
from agentopt.cli.commands.optimize import estimate_run
from agentopt.core.events import Event, Note
from agentopt.core.records import Split
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.catalog import Catalog
from agentopt.runs.result import Result, load_result
from agentopt.testing.toy import LARGE, SMALL, toy_model, toy_task


def repeated_task(distinct: int, times: int) -> Task:
    """The toy task with every row under several ids."""
    task = toy_task(validation=distinct, test=distinct)

    def again(rows: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(replace(row, id=f"{row.id}-{n}") for n in range(times) for row in rows)

    splits: dict[Split, tuple[Example, ...]] = {split: again(rows) for split, rows in task.splits.items()}
    return replace(task, splits=splits)


async def run(task: Task, folder: Path, **settings: Any) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    config = Config(
        journal=str(folder / "journal.db"), runs=folder / "runs", strategy="random", budget={"trials": 5}, **settings
    )
    return await aoptimize(task, config, provider=toy_model(), callbacks=[events.append]), events


async def test_a_run_on_repeated_rows_has_the_verdict_of_the_distinct_ones(tmp_path: Path) -> None:
    once, _ = await run(repeated_task(16, 1), tmp_path / "once")
    ten, events = await run(repeated_task(16, 10), tmp_path / "ten")
    found = [(f.roles, f.candidate, f.validation, f.test, f.against_baseline) for f in ten.finalists]
    assert found == [(f.roles, f.candidate, f.validation, f.test, f.against_baseline) for f in once.finalists]
    assert all(finalist.test and finalist.test.n == 16 for finalist in ten.finalists)
    notes = [
        f"144 of 160 {split} rows repeat the inputs or the group of an earlier one: they count as 16 rows"
        for split in ("validation", "test")
    ]
    assert [event.text for event in events if isinstance(event, Note)][:2] == notes
    assert set(notes) <= set(ten.notes)
    assert not set(notes) & set(once.notes)
    assert load_result(Path(ten.run)) == ten


async def test_the_rows_of_a_group_are_evaluated_one_after_another() -> None:
    specs = {name: Catalog.load()[name] for name in (SMALL, LARGE)}
    task = repeated_task(8, 3)
    found = await Evaluator(task, toy_model(), specs).evaluate(task.baseline)
    order = [found.groups[result.id] for result in found.results]
    assert order == [group for group in dict.fromkeys(order) for _ in range(3)]
    assert order != sorted(order)


def test_a_dry_run_reports_them(tmp_path: Path) -> None:
    subtask = {"name": "say", "prompt": "{{ inputs.n }}", "models": [SMALL]}
    data = {"validation": "validation.jsonl", "test": "test.jsonl"}
    spec = {"name": "words", "data": data, "subtasks": [subtask], "scorer": "exact_match"}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
    for split, numbers in (("validation", ["Who is Ada", "b"]), ("test", ["who is  ada?", "c", "d", "c"])):
        rows = (json.dumps({"n": number, "target": "yes"}) for number in numbers)
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    text = io.StringIO()
    estimate_run(tmp_path, [f"journal={tmp_path / 'journal.db'}"], Console(file=text, width=200))
    assert "1 of 4 test rows repeat the inputs or the group of an earlier one: they count as 3 rows" in text.getvalue()
    assert (
        "In the validation split, too, but for case, spacing and punctuation: 1 test row, such as '1' ('1' there)"
        in (text.getvalue())
    )
