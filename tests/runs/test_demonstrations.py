"""Demonstrations: bootstrapped from right answers of the baseline, searched, kept with the run and its candidates."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.api import adiagnose, aevaluate, aoptimize
from agentopt.core.candidate import Candidate, SubtaskChoice, load_candidate
from agentopt.core.demos import Demo, Demos
from agentopt.core.errors import CandidateError, ConfigError, TaskError
from agentopt.core.events import Note
from agentopt.core.message_text import counted
from agentopt.core.records import Split
from agentopt.core.task import Example, Program, Subtask, Task, TokenLengths
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.demonstrations import demonstrations_of, examples_to_try, not_shown, unknown_examples
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result
from agentopt.runs.whatif import Question, what_if
from agentopt.testing.toy import draw
from agentopt.workflow.sampling import request_for

SPECS = [ModelSpec(name="one", base_url="http://127.0.0.1:9/v1", usd_per_1m_prompt=1, usd_per_1m_completion=1)]


def task(*, train: int = 20, **demos: Any) -> Task:
    subtask = Subtask(
        "answer",
        lambda inputs, outputs: str(inputs["row"]),
        ("one",),
        system_prompt="Answer.",
        num_samples=(1,),
        tokens=TokenLengths(8, 2),
        max_tokens=8,
        demos=Demos(**{"count": (0, 2, 4), "source": "responses", **demos}),
    )
    sizes: dict[Split, int] = {"train": train, "validation": 40, "test": 40}
    splits = {
        split: tuple(Example(f"{split}{i}", {"row": f"{split}-{i}"}, f"word-{split}-{i}") for i in range(count))
        for split, count in sizes.items()
        if count
    }
    return Task("shown", (subtask,), exact_match(), splits)


def shown(request: Request) -> int:
    """The number of demonstrations in a request."""
    texts = "\n".join(message.content for message in request.messages[:-1])
    return texts.count("word-")


def planted(knows: float = 0.5) -> ScriptedModel:
    """A model that is right on a share of the rows, and on all of them after four demonstrations."""

    def answer(request: Request, repeat: int) -> str:
        row = request.messages[-1].content
        return f"word-{row}" if draw(row) < knows + 0.125 * shown(request) else "wrong"

    return ScriptedModel(answer)


def config(folder: Path, **given: Any) -> Config:
    settings = {"journal": str(folder / "journal.db"), "runs": folder / "runs", "models": SPECS, "strategy": "grid"}
    settings["prompts"] = PromptSettings(when="never")
    return Config(**{**settings, "budget": BudgetConfig(trials=3), **given})


async def optimized(folder: Path, model: ScriptedModel, of: Task, **given: Any) -> Result:
    return await aoptimize(of, config(folder, **given), provider=model)


@pytest.fixture(scope="module", params=["messages", "prompt"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, ScriptedModel, Task]:
    model, of = planted(), task(shown_as=request.param)
    return asyncio.run(optimized(tmp_path_factory.mktemp("demos"), model, of)), model, of


def test_demonstrations_that_help_are_found_and_proven(run: tuple[Result, ScriptedModel, Task]) -> None:
    result, _, _ = run
    best = result.finalist("best")
    assert dict(best.candidate["answer"].settings) == {"demos": 4}
    assert best.test
    assert best.test.score == 1.0
    assert best.against_baseline
    assert best.against_baseline.verdict == "superior"


def test_they_are_the_first_right_answers_in_a_seeded_order_and_fewer_are_the_first_of_more(
    run: tuple[Result, ScriptedModel, Task],
) -> None:
    result, _, of = run
    rows = [str(example.inputs["row"]) for example in examples_to_try(of, 0)]
    right = [Demo(row, f"word-{row}") for row in rows if draw(row) < 0.5]
    by_count = {len(trial.candidate["answer"].demos): trial.candidate["answer"] for trial in result.trials}
    assert {count: list(choice.demos) for count, choice in by_count.items()} == {n: right[:n] for n in (0, 2, 4)}
    assert all(dict(choice.settings).get("demos", 0) == count for count, choice in by_count.items())


def test_bootstrapping_is_paid_under_a_purpose_of_its_own(run: tuple[Result, ScriptedModel, Task]) -> None:
    result, model, of = run
    sent = [request.messages[-1].content for request in model.requests]
    trained = [row for row in sent if row.startswith("train")]
    assert len(trained) == len(set(trained)) == result.spent["demos"].calls
    rows = [str(example.inputs["row"]) for example in examples_to_try(of, 0)]
    assert trained == rows[: len(trained)]
    assert 4 <= len(trained) < len(rows)


def test_a_longer_prompt_costs_more(run: tuple[Result, ScriptedModel, Task]) -> None:
    result, _, _ = run
    costs = {len(trial.candidate["answer"].demos): trial.units for trial in result.trials}
    assert result.cost_in == "usd"
    assert costs[0] < costs[2] < costs[4]


async def test_the_file_of_a_candidate_reproduces_it_without_the_train_data(
    run: tuple[Result, ScriptedModel, Task], tmp_path: Path
) -> None:
    result, _, of = run
    file = tmp_path / "best.yaml"
    shutil.copy(Path(result.run) / "best.yaml", file)
    assert load_candidate(file) == result.finalist("best").candidate
    untrained = replace(of, splits={"test": of.splits["test"]})
    found = await aevaluate(untrained, file, config(tmp_path), provider=planted())
    assert found.score == 1.0


async def test_a_run_keeps_its_demonstrations(run: tuple[Result, ScriptedModel, Task]) -> None:
    result, model, of = run
    folder = RunFolder.open(result.run)
    (demos,) = demonstrations_of(folder).values()
    assert demos == result.finalist("best").candidate["answer"].demos
    before = len(model.requests)
    again = await aoptimize(of, folder.config.model_copy(update={"models": SPECS}), resume=folder, provider=model)
    assert len(model.requests) == before
    assert [trial.candidate for trial in again.trials] == [trial.candidate for trial in result.trials]
    answered = what_if(folder, of, {spec.name: spec for spec in SPECS}, Question())
    assert answered.chosen
    assert answered.chosen.candidate == result.finalist("recommended").candidate
    assert answered.untried == sum(trial.state != "complete" for trial in result.trials)


async def test_a_resumed_run_pays_for_no_demonstration_twice(tmp_path: Path) -> None:
    of, first, second = task(), planted(), planted()
    stopped = await optimized(tmp_path, first, of, budget=BudgetConfig(trials=3, calls=86))
    folder = RunFolder.open(stopped.run)
    assert not demonstrations_of(folder)
    result = await aoptimize(of, config(tmp_path), resume=folder, provider=second)
    assert len(demonstrations_of(folder)["answer"]) == 4
    sent = [request.messages for model in (first, second) for request in model.requests]
    assert len(sent) == len(set(sent))
    assert len(stopped.trials) == 1
    assert stopped.spent["demos"].calls == 3
    assert result.spent["demos"].calls == sum(messages[-1].content.startswith("train") for messages in sent)


async def test_prompts_after_the_search_race_on_examples_that_the_candidate_does_not_show(tmp_path: Path) -> None:
    prompts = PromptSettings(when="after", proposer="components", user_prompts=20)
    of = task()
    result = await optimized(tmp_path, planted(0.3), of, prompts=prompts, budget=BudgetConfig(trials=4))
    shown_by_best = {demo.prompt for trial in result.trials for demo in trial.candidate["answer"].demos}
    assert len(shown_by_best) == 4  # fewer are the first of more, and four are the best
    (report,) = result.prompts
    assert report.responses > 0
    assert set(report.user_prompts) == {
        example.id for example in of.splits["train"] if example.inputs["row"] not in shown_by_best
    }


async def test_prompts_are_left_as_they_are_if_the_candidate_shows_all_train_examples_but_one(tmp_path: Path) -> None:
    prompts = PromptSettings(when="after", proposer="components")

    def answer(request: Request, repeat: int) -> str:
        return f"word-{request.messages[-1].content}" if len(request.messages) > 2 + 2 * 2 else "wrong"

    of = task(train=5, min_score=0.0)
    result = await optimized(tmp_path, ScriptedModel(answer), of, prompts=prompts, budget=BudgetConfig(trials=4))
    assert not result.prompts
    assert any("fewer than two train examples are not shown as demonstrations" in note for note in result.notes)


async def test_the_examples_that_a_candidate_shows_are_known_by_their_ids_and_so_are_equal_rows(tmp_path: Path) -> None:
    result = await optimized(tmp_path, planted(), of := task())
    folder = RunFolder.open(result.run)
    copies = tuple(replace(example, id=f"copy of {example.id}") for example in of.splits["train"])
    train = (*of.splits["train"], *copies)
    for trial in result.trials:
        choice = trial.candidate["answer"]
        rows = {demo.prompt for demo in choice.demos}
        expected = [example.id for example in train if example.inputs["row"] not in rows]
        assert [example.id for example in not_shown(trial.candidate, train)] == expected
        assert unknown_examples(trial.candidate) is None
    best = result.finalist("best").candidate
    assert load_candidate(Path(result.run) / "best.yaml")["answer"].demos[0].example in {e.id for e in train}
    without = [{"prompt": demo.prompt, "response": demo.response} for demo in demonstrations_of(folder)["answer"]]
    folder.demos.write_text(json.dumps({"answer": without}))
    demos = demonstrations_of(folder)["answer"]
    earlier = best.having("answer", demos=demos)
    assert demos == best["answer"].demos
    assert (earlier, earlier.key) == (best, best.key)
    assert not_shown(earlier, train) == train
    assert "4 demonstrations of the candidate are without the id" in str(unknown_examples(earlier))


@pytest.mark.parametrize("with_ids", [True, False])
async def test_a_diagnosis_draws_no_reward_on_rows_that_the_candidate_shows(tmp_path: Path, with_ids: bool) -> None:
    of, notes = task(), list[str]()
    demos = tuple(Demo(f"train-{i}", f"word-train-{i}", f"train{i}" if with_ids else None) for i in range(4))
    candidate = of.baseline.having("answer", settings={"demos": 4}, demos=demos)
    (found,) = await adiagnose(
        of,
        config(tmp_path, prompts=PromptSettings(proposer="components", pilot_user_prompts=20)),
        candidate=candidate,
        provider=planted(),
        callbacks=[lambda event: notes.append(event.message) if isinstance(event, Note) else None],
    )
    shown = {f"train{i}" for i in range(4)}
    assert len(found.examples) == (16 if with_ids else 20)
    assert bool(shown & set(found.examples)) == (not with_ids)
    assert any("4 demonstrations of the candidate are without the id" in note for note in notes) == (not with_ids)


async def test_a_diagnosis_of_a_candidate_that_shows_all_train_rows_but_one_is_refused(tmp_path: Path) -> None:
    of, model = task(train=5), planted()
    demos = tuple(Demo(f"train-{i}", f"word-train-{i}", f"train{i}") for i in range(4))
    candidate = of.baseline.having("answer", settings={"demos": 4}, demos=demos)
    with pytest.raises(TaskError, match="that the candidate does not show, but got 1 of 5"):
        await adiagnose(of, config(tmp_path), candidate=candidate, provider=model)
    assert not model.requests


@pytest.mark.parametrize(("right", "tried"), [(0, []), (1, []), (3, [2])])
async def test_with_fewer_right_answers_the_axis_shrinks_and_the_result_reports_it(
    tmp_path: Path, right: int, tried: list[int]
) -> None:
    def answer(request: Request, repeat: int) -> str:
        row = request.messages[-1].content
        known = row in {f"train-{i}" for i in range(right)} or row.startswith("validation")
        return f"word-{row}" if known else "wrong"

    result = await optimized(tmp_path, ScriptedModel(answer), task())
    counts = sorted({len(trial.candidate["answer"].demos) for trial in result.trials})
    assert counts == [0, *tried]
    plural = "example" if right == 1 else "examples"
    left = ", ".join(map(str, [0, *tried]))
    assert any(
        note == f"subtask answer: {right} train {plural} had a right response of the baseline (score of at least 1), "
        f"so of `demos` only {left} can be tried"
        for note in result.notes
    )


async def test_a_lower_score_may_count_as_right(tmp_path: Path) -> None:
    result = await optimized(tmp_path, planted(0.0), task(min_score=0.0))
    assert {len(trial.candidate["answer"].demos) for trial in result.trials} == {0, 2, 4}
    assert {demo.response for trial in result.trials for demo in trial.candidate["answer"].demos} == {"wrong"}


def test_the_messages_of_a_request() -> None:
    choice = SubtaskChoice("one", 1, "Answer.", {"demos": 1}, (Demo("q", "a"),))  # type: ignore[arg-type]
    messages = request_for(task().subtasks[0], choice, "now").messages
    assert [(m.role, m.content) for m in messages] == [
        ("system", "Answer."),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "now"),
    ]
    in_prompt = request_for(task(shown_as="prompt").subtasks[0], choice, "now").messages
    assert [(m.role, m.content) for m in in_prompt] == [
        ("system", "Answer.\n\nInput:\nq\n\nResponse:\na"),
        ("user", "now"),
    ]


@pytest.mark.parametrize("count", [(), (0,), (2, 4), (0, 4, 2), (0, 2, 2), (0, 1.5), (0, True), 4])
def test_counts_that_break_the_rule_are_refused(count: Any) -> None:
    with pytest.raises(TaskError, match="must be ascending and start with 0"):
        Demos(count)


@pytest.mark.parametrize(
    ("field", "value"), [("shown_as", "text"), ("min_score", "1"), ("min_score", True), ("source", "answers")]
)
def test_other_values_that_break_a_rule_are_refused(field: str, value: Any) -> None:
    with pytest.raises(TaskError, match=f"`{field}` must be"):
        Demos((0, 2), **{field: value})


def test_a_program_has_no_prompts_to_put_them_into() -> None:
    with pytest.raises(TaskError, match="`answer` is called by a program") as caught:
        replace(task(), program=Program(("python", "x.py")))
    assert caught.value.remedy
    assert "remove `demos`" in caught.value.remedy


async def test_without_train_examples_a_run_does_not_start(tmp_path: Path) -> None:
    model = planted()
    with pytest.raises(ConfigError, match="needs train examples"):
        await optimized(tmp_path, model, task(train=0))
    assert not model.requests
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("demos", [(), (Demo("q", "a"),)])
async def test_a_candidate_whose_demonstrations_are_missing_is_refused(tmp_path: Path, demos: tuple[Demo, ...]) -> None:
    settings: Any = {"demos": 2}
    candidate = Candidate.of({"answer": SubtaskChoice("one", settings=settings, demos=demos)})
    with pytest.raises(CandidateError, match=f"has {counted(len(demos), 'demonstration')} of .*, but its setting is 2"):
        await aevaluate(task(), candidate, config(tmp_path), provider=planted())


def test_a_choice_without_demonstrations_is_as_before() -> None:
    plain = Candidate.of({"find": SubtaskChoice("small", 2, "Be brief."), "answer": SubtaskChoice("large")})
    assert plain.key == "79dc625e25c0"
    one = plain.having("find", settings={"demos": 1}, demos=(Demo("q", "a"),))
    assert one.key != plain.key
    assert Candidate.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert one.to_dict()["find"]["demos"] == [{"prompt": "q", "response": "a"}]
