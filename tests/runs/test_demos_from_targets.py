"""Demonstrations from targets: which rows may show theirs, what they cost, and which subtasks may have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.api import aoptimize
from agentopt.core.demos import Demo, Demos
from agentopt.core.errors import TaskError
from agentopt.core.task import Example, Subtask, Task, TokenLengths
from agentopt.evaluation.judge import Judge
from agentopt.evaluation.scorers import contains, exact_match, numeric, set_f1
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.demonstrations import REASONING, Bootstrap, Found, demo_notes, examples_to_try
from agentopt.runs.expected_case import expected_case
from agentopt.runs.folder import RunFolder
from agentopt.runs.worst_case import estimate
from agentopt.search.from_task import search_space
from agentopt.workflow.parsers import choice, ids, number, text

SPECS = [ModelSpec(name="one", base_url="http://127.0.0.1:9/v1", usd_per_1m_prompt=1, usd_per_1m_completion=1)]
Answer = Callable[[Request, int], str]


def subtask(name: str = "answer", **fields: Any) -> Subtask:
    given = {"demos": Demos((0, 2)), "max_tokens": 8, "tokens": TokenLengths(8, 2), "num_samples": (1,), **fields}
    return Subtask(name, lambda inputs, outputs: str(inputs["row"]), ("one",), system_prompt="Answer.", **given)


def task(*targets: Any, **fields: Any) -> Task:
    """A task whose train rows have these targets, in the order in which they are tried."""
    scorer, subtasks = fields.pop("scorer", exact_match()), fields.pop("subtasks", None) or (subtask(**fields),)
    rows = tuple(Example(f"t{i}", {"row": f"train {i}"}) for i in range(len(targets)))
    evidence = (Example("e", {"row": "evidence"}, "yes"),)
    splits: Any = {"train": rows, "validation": evidence, "test": (Example("f", {"row": "more evidence"}, "yes"),)}
    built = Task("shown", subtasks, scorer, splits)
    most = replace(built, subtasks=(replace(built.subtasks[0], demos=Demos((0, 99))), *built.subtasks[1:]))
    ordered = [replace(row, target=of) for row, of in zip(examples_to_try(most, 0), targets, strict=True)]
    train = tuple(sorted(ordered, key=lambda row: rows.index(replace(row, target=None))))
    return replace(built, splits={**built.splits, "train": train})


def config(folder: Path, **given: Any) -> Config:
    own: dict[str, Any] = {"journal": str(folder / "journal.db"), "runs": folder / "runs", "models": SPECS}
    return Config(**{**own, "prompts": PromptSettings(when="never"), "strategy": "grid", **given})


async def found(of: Task, folder: Path, answer: Answer | ScriptedModel) -> Found:
    """The demonstrations of a run."""
    settings, model = config(folder), answer if isinstance(answer, ScriptedModel) else ScriptedModel(answer)
    specs = {spec.name: spec for spec in SPECS}
    async with open_session(specs, "run", journal=settings.journal, provider=model) as session:
        run = RunFolder.create(of, settings)
        return await Bootstrap(of, settings, session, run, lambda _: None).demonstrations(of.baseline)


def responses(demos: Sequence[Demo]) -> list[str]:
    return [demo.response for demo in demos]


def wrong(request: Request, repeat: int) -> str:
    return "wrong"


async def test_a_row_shows_the_right_response_or_else_the_target(tmp_path: Path) -> None:
    """The right response is not the target's text, so both can be recognised."""
    first, second = examples_to_try(task("Lion", "Eagle"), 0)

    def answer(request: Request, repeat: int) -> str:
        return " lion." if request.messages[-1].content == first.inputs["row"] else "Bear"

    for source, expected in [("both", ["lion.", "Eagle"]), ("targets", ["Lion", "Eagle"]), ("responses", ["lion."])]:
        of = task("Lion", "Eagle", demos=Demos((0, 2), source=source))  # type: ignore[arg-type]
        (demos,) = (await found(of, tmp_path / source, answer)).values()
        assert [response.strip() for response in responses(demos)] == expected
        assert [(demo.prompt, demo.example) for demo in demos] == [
            (str(row.inputs["row"]), row.id) for row in (first, second)[: len(demos)]
        ]


async def test_targets_alone_take_no_call(tmp_path: Path) -> None:
    model = ScriptedModel(wrong)
    (demos,) = (await found(task("a", "b", "c", demos=Demos((0, 2), source="targets")), tmp_path, model)).values()
    assert responses(demos) == ["a", "b"]
    assert not model.requests


async def test_a_model_that_answers_nothing_right_learns_from_targets(tmp_path: Path) -> None:
    """The whole run: the demonstrations help, and no train row is part of a score."""

    def answer(request: Request, repeat: int) -> str:
        shown = [m.content for m in request.messages if m.role == "assistant"]
        return request.messages[-1].content.upper() if shown and all(map(str.isupper, shown)) else "wrong"

    of = task("TRAIN A", "TRAIN B")
    rows = [Example(f"v{i}", {"row": f"row {i}"}, f"ROW {i}") for i in range(12)]
    of = replace(
        of, splits={**of.splits, "validation": tuple(rows), "test": tuple(replace(r, id=f"x{r.id}") for r in rows)}
    )
    result = await aoptimize(of, config(tmp_path, budget=BudgetConfig(trials=2)), provider=ScriptedModel(answer))
    best = result.finalist("best")
    assert responses(best.candidate["answer"].demos) == ["TRAIN A", "TRAIN B"]
    assert best.test
    assert best.test.score == 1.0
    assert result.spent["demos"].calls == 2


@pytest.mark.parametrize(
    ("target", "fields", "shown"),
    [
        ("Lion", {}, "Lion"),
        (72, {"parse": number(), "scorer": numeric()}, "72"),
        (2.0, {"parse": number(), "scorer": numeric()}, "2"),
        (["Paris", "Lutetia"], {}, "Paris"),
        (["Paris", "Lutetia"], {"scorer": contains()}, "Paris"),
        (["3", "7"], {"parse": ids(), "scorer": set_f1()}, '["3", "7"]'),
        ("no animal", {"parse": choice(["Lion", "Eagle"])}, None),  # cannot be parsed
        ("two\nlines", {"stop": ("\n",)}, None),  # a response would end before it
        ("x" * 33, {}, None),  # longer than 8 tokens
        ("first\nsecond", {"parse": text(first_line=True)}, None),  # read as another answer
        (None, {}, None),
        ("", {}, None),
        (True, {}, None),
    ],
)
async def test_a_target_is_shown_if_the_subtask_could_respond_so_and_the_response_is_right(
    tmp_path: Path, target: Any, fields: dict[str, Any], shown: str | None
) -> None:
    of = task(target, **{"demos": Demos((0, 1), source="targets"), **fields})
    (demos,) = (await found(of, tmp_path, wrong)).values()
    assert responses(demos) == ([shown] if shown else [])


async def test_a_lower_score_counts_for_responses_and_not_for_targets(tmp_path: Path) -> None:
    def half(example: Example, output: Any) -> float:
        return 0.5

    for source, expected in [("both", ["wrong"] * 2), ("targets", [])]:
        demos = Demos((0, 2), min_score=0.5, source=source)  # type: ignore[arg-type]
        (shown,) = (await found(task("a", "b", scorer=half, demos=demos), tmp_path / source, wrong)).values()
        assert responses(shown) == expected


@pytest.mark.parametrize(("longer", "shown"), [(REASONING, []), (REASONING - 1, ["72"])])
async def test_a_target_does_not_replace_a_response_that_reasons(tmp_path: Path, longer: int, shown: list[str]) -> None:
    def reasons(request: Request, repeat: int) -> str:
        return "because 71".rjust(longer + 2, ".")

    of = task("72", parse=number(), scorer=numeric(), max_tokens=64, demos=Demos((0, 1)))
    (demos,) = (await found(of, tmp_path, reasons)).values()
    assert responses(demos) == shown


async def test_a_subtask_that_reads_another_or_is_not_the_output_shows_responses_alone(tmp_path: Path) -> None:
    def answer(request: Request, repeat: int) -> str:
        return "find" if len(request.messages) == 2 and "read" not in request.messages[-1].content else "wrong"

    reading = Subtask(
        "answer", lambda inputs, outputs: f"read {outputs['find']}", ("one",), reads=("find",), demos=Demos((0, 2)),
        max_tokens=8, tokens=TokenLengths(8, 2), num_samples=(1,),
    )  # fmt: skip
    of = task("a", "b", subtasks=(subtask("find"), reading))
    assert {name: responses(demos) for name, demos in (await found(of, tmp_path, answer)).items()} == {
        "find": [],
        "answer": [],
    }


@pytest.mark.parametrize(
    ("changed", "problem"),
    [("find", "`find`, which is not the output, answer"), ("answer", "`answer`, which reads find")],
)
def test_targets_of_another_subtask_are_refused(changed: str, problem: str) -> None:
    subtasks = (
        subtask("find", demos=None),
        replace(subtask("answer", demos=None), reads=("find",), render=lambda inputs, outputs: str(outputs["find"])),
    )
    own = tuple(replace(s, demos=Demos((0, 2), source="targets")) if s.name == changed else s for s in subtasks)
    with pytest.raises(TaskError, match=problem) as caught:
        task("a", subtasks=own)
    assert caught.value.remedy == "write `from: responses`, or leave it out"


def test_rows_that_are_evidence_or_repeat_a_row_are_not_shown() -> None:
    of = task("a", "b", "c", "d", "e")
    train = list(of.splits["train"])
    train[1] = replace(train[1], inputs=train[0].inputs)
    train[2] = replace(train[2], inputs={"row": "evidence"})
    train[3] = replace(train[3], group="book")
    test = (replace(of.splits["test"][0], group="book"),)
    tried = examples_to_try(replace(of, splits={**of.splits, "train": tuple(train), "test": test}), 0)
    assert len({row.id for row in tried} & {"t0", "t1"}) == 1
    assert {row.id for row in tried} - {"t0", "t1"} == {"t4"}


async def test_the_judge_of_a_target_is_paid_and_part_of_the_dry_run(tmp_path: Path) -> None:
    model = ScriptedModel(lambda request, repeat: json.dumps({"score": 1, "reason": "as the target"}))
    of = task("a", "b", scorer=Judge("one", "Right?"), demos=Demos((0, 2), source="targets"))
    (demos,) = (await found(of, tmp_path, model)).values()
    assert responses(demos) == ["a", "b"]
    assert [request.purpose for request in model.requests] == ["judge"] * 2
    worst = estimate(of, search_space(of, {"one": SPECS[0]}), {"one": SPECS[0]}, config(tmp_path), None)
    assert worst.demos.calls >= 2


@pytest.mark.parametrize(("source", "most", "expected"), [("responses", 4, 4), ("both", 4, 2), ("targets", 0, 0)])
def test_the_dry_run_counts_the_rows_that_the_baseline_is_run_on(
    tmp_path: Path, source: Any, most: int, expected: int
) -> None:
    of, specs = task("a", "b", "c", "d", demos=Demos((0, 2), source=source)), {"one": SPECS[0]}
    space, settings = search_space(of, specs), config(tmp_path)
    worst = estimate(of, space, specs, settings, None)
    assert worst.demos.calls == most
    assert expected_case(of, space, specs, settings, worst).demos.calls == expected


@pytest.mark.parametrize(
    ("source", "had"),
    [
        ("targets", "a target that is scored as a right response"),
        ("both", "a right response of the baseline (score of at least 1) or a target that is scored as one"),
    ],
)
async def test_too_few_targets_are_reported(tmp_path: Path, source: Any, had: str) -> None:
    of = task("a", None, demos=Demos((0, 1, 2), source=source))
    result = await aoptimize(of, config(tmp_path, budget=BudgetConfig(trials=2)), provider=ScriptedModel(wrong))
    note = f"subtask answer: 1 train example had {had}, so of `demos` only 0, 1 can be tried"
    assert note in result.notes


@pytest.mark.parametrize(
    ("shared", "note"),
    [
        (
            {0: "validation", 1: "validation"},
            (
                "every train example has the inputs or the group of a row of the validation split, so none is shown; "
                "add train examples with other inputs"
            ),
        ),
        (
            {0: "validation", 1: "test"},
            (
                "every train example has the inputs or the group of a row of the validation and test splits, so none "
                "is shown; add train examples with other inputs"
            ),
        ),
        (
            {1: "test"},
            (
                "0 train examples had a target that is scored as a right response, so of `demos` only 0 can be tried; "
                "1 train example cannot be shown: also in the test split"
            ),
        ),
    ],
)
def test_train_examples_that_other_splits_have_too_are_named_as_the_reason(shared: dict[int, str], note: str) -> None:
    of = task("a", "b", demos=Demos((0, 2), source="targets"))
    splits = {name: list(rows) for name, rows in of.splits.items()}
    for row, split in shared.items():
        splits[split].append(replace(of.splits["train"][row], id=f"copy {row}"))  # type: ignore[index]
    changed = replace(of, splits={name: tuple(rows) for name, rows in splits.items()})
    assert list(demo_notes(changed, {"answer": ()})) == [f"subtask answer: {note}"]
