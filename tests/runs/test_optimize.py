"""`optimize` end to end, on the toy task and a fake model."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import ResourceClosedError

from agentopt.api import adiagnose, aevaluate, aoptimize, diagnose, evaluate, optimize
from agentopt.core.candidate import Candidate, SubtaskChoice, load_candidate
from agentopt.core.cost import Unit
from agentopt.core.errors import (
    AgentoptError,
    CallbackError,
    CallsFailError,
    CandidateError,
    ConfigError,
    FailureScope,
    NothingEvaluated,
    PermanentModelError,
    TaskError,
    UserError,
)
from agentopt.core.events import Event, ExampleDone, Note, RunDone, RunStarted, TrialDone, TrialStarted, log_to
from agentopt.core.records import Score, Split
from agentopt.core.stop_reason import StopKind
from agentopt.core.task import Example, Fusion, Task, TokenLengths, Unparsable
from agentopt.evaluation.scorers import python
from agentopt.models.base import Choice, Request, Response
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.runs.config import Config, load_config
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import load_result
from agentopt.runs.studies import ALONE
from agentopt.runs.trial_store import TrialStore, recorded_evaluations
from agentopt.search.from_task import search_space
from agentopt.testing.toy import LARGE, SMALL, toy_model, toy_task


def config(tmp_path: Path, **changes: object) -> Config:
    settings = {"strategy": "optuna", "journal": str(tmp_path / "journal.db"), "runs": str(tmp_path / "runs")}
    return Config.model_validate({**settings, "budget": {"trials": 8}, **changes})


def toy_model_but_for(refused: Callable[[Request], bool], kind: str) -> ScriptedModel:
    """The toy task's fake, which refuses some requests permanently."""
    fake = toy_model()

    def answer(request: Request, repeat: int) -> str | Choice:
        if refused(request):
            raise PermanentModelError("refused", kind=kind)
        return fake._answer(request, repeat)  # type: ignore[misc]

    return ScriptedModel(answer)


def is_third_example(request: Request) -> bool:
    return "validation-3|" in request.messages[-1].content


def one_example_refused() -> ScriptedModel:
    return toy_model_but_for(lambda r: r.model == LARGE and "validation-3|" in r.messages[-1].content, "HTTP 400")


async def test_a_run_finds_a_better_candidate_and_proves_it_on_the_test_split(tmp_path: Path) -> None:
    result = await aoptimize(toy_task(validation=40, test=40), config(tmp_path), provider=toy_model())
    best = result.finalist("best")
    assert result.trials[0].proposer == "baseline"
    assert result.best_candidate["find"].model == LARGE
    assert best.against_baseline is not None
    assert best.against_baseline.verdict == "superior"
    assert best.test is not None
    assert best.test.interval.low < best.test.score < best.test.interval.high
    assert result.spent["samples"].calls > 0


async def test_the_run_folder_holds_what_was_found(tmp_path: Path) -> None:
    result = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    folder = Path(result.run)
    assert load_result(folder) == result
    assert load_candidate(folder / "best.yaml") == result.best_candidate
    events = [json.loads(line)["event"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert events[0] == "run_started"
    assert events[-1] == "run_done"
    assert events.count("trial_done") == 8


async def test_the_study_opens_with_optuna(tmp_path: Path) -> None:
    import optuna

    result = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    study = optuna.load_study(study_name=ALONE, storage=f"sqlite:///{result.run}/trials.db")
    assert len(study.trials) == 8
    assert study.best_value == max(t.score for t in result.trials if t.state == "complete" and t.score is not None)
    assert study.trials[0].user_attrs["proposer"] == "baseline"


async def test_a_second_run_on_a_warm_journal_makes_no_call(tmp_path: Path) -> None:
    first = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    silent = ScriptedModel(script=[])
    second = await aoptimize(toy_task(), config(tmp_path), provider=silent)
    assert silent.requests == []
    assert second.spent == {}
    assert second.best_candidate == first.best_candidate


async def test_resuming_a_finished_run_returns_the_same_result(tmp_path: Path) -> None:
    first = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    again = await aoptimize(toy_task(), resume=Path(first.run), provider=ScriptedModel(script=[]))
    assert again.trials == first.trials
    assert again.spent == first.spent


async def test_a_run_stopped_by_its_cap_resumes_with_a_higher_one(tmp_path: Path) -> None:
    whole = await aoptimize(toy_task(), config(tmp_path / "a"), provider=toy_model())
    capped = config(tmp_path / "b", budget={"trials": 8, "calls": 150})
    fake = toy_model()
    cut = await aoptimize(toy_task(), capped, provider=fake)
    assert (cut.ended.kind, cut.ended.cap) == (StopKind.CAP_REACHED, "calls")
    assert cut.total.calls == len(fake.requests) <= 150
    raised = load_config(["budget.calls=2000"], capped)
    resumed = await aoptimize(toy_task(), raised, resume=Path(cut.run), provider=fake)
    assert resumed.best_candidate == whole.best_candidate
    asked = [(r.key(r.model), repeat) for r in fake.requests for repeat in range(r.first_repeat, r.first_repeat + r.n)]
    assert len(asked) == len(set(asked))


async def test_a_resume_with_another_task_is_refused(tmp_path: Path) -> None:
    first = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    with pytest.raises(ConfigError, match="the task has changed"):
        await aoptimize(toy_task(validation=15), resume=Path(first.run), provider=toy_model())


async def test_a_dead_model_ends_in_an_error_with_the_reason(tmp_path: Path) -> None:
    def refuse(request: Request, repeat: int) -> str:
        raise PermanentModelError("HTTP 401: no such key", kind="HTTP 401")

    with pytest.raises(AgentoptError, match=r"no candidate could be evaluated.*HTTP 401") as failure:
        await aoptimize(toy_task(), config(tmp_path), provider=ScriptedModel(refuse))
    (run,) = (tmp_path / "runs").iterdir()
    assert f"agentopt.optimize(task, resume={str(run)!r})" in str(failure.value)
    assert isinstance(failure.value, NothingEvaluated)
    assert failure.value.failures.keys() == {"HTTP 401"}
    assert failure.value.stopped.kind is StopKind.FAILED


async def test_calls_that_were_in_flight_when_the_run_ended_count_as_failed_and_as_spent(tmp_path: Path) -> None:
    class Refusing(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            delays.append(0.1 * len(delays))
            await asyncio.sleep(delays[-1])  # the first refusal ends the run before the others come
            return await super().generate(request)

    def refuse(request: Request, repeat: int) -> str:
        raise PermanentModelError("HTTP 401: no such key", kind="HTTP 401", scope="model")

    delays = list[float]()
    with pytest.raises(NothingEvaluated) as failure:
        await aoptimize(toy_task(), config(tmp_path), provider=Refusing(refuse))
    assert failure.value.failures == {"HTTP 401": len(delays)}
    assert f"spent: nothing ({len(delays)} calls," in "".join(failure.value.__notes__)
    assert len(delays) > 1


async def test_the_first_five_examples_are_a_canary_after_which_nothing_more_is_sent(tmp_path: Path) -> None:
    refusing = toy_model_but_for(lambda request: True, "HTTP 400")
    with pytest.raises(NothingEvaluated, match=r"first 5 examples all failed for one reason \(HTTP 400\).*: refused"):
        await aoptimize(toy_task(validation=40), config(tmp_path), provider=refusing)
    assert len(refusing.requests) == 5


async def test_an_example_that_fails_for_a_reason_of_its_own_is_left_out_of_every_comparison(tmp_path: Path) -> None:
    result = await aoptimize(toy_task(), config(tmp_path), provider=one_example_refused())
    assert "incomplete" not in {trial.state for trial in result.trials}
    best = result.finalist("best")
    assert LARGE in str(best.candidate)
    assert best.validation.n == best.validation.planned - 1
    assert result.failed is None


async def test_an_example_that_fails_can_be_scored_0(tmp_path: Path) -> None:
    zero = config(tmp_path, failed_examples="zero")
    evaluation = await aevaluate(
        toy_task(), config=zero, split="validation", provider=toy_model_but_for(is_third_example, "content filter")
    )
    assert evaluation.state == "complete"
    assert len(evaluation.scores) == evaluation.planned
    (failure,) = evaluation.failures.values()
    assert (failure.kind, failure.scope, failure.reason) == ("content filter", "example", "refused")
    assert (evaluation.errors, evaluation.left_out) == ({}, {})


async def test_more_than_a_tenth_left_out_ends_the_evaluation_and_names_rows_and_setting(tmp_path: Path) -> None:
    some = toy_model_but_for(lambda request: request.messages[-1].content.count("-1") > 0, "content filter")
    rule = r"(?s)examples failed.*2 of 16 examples: refused \(validation-1.*failed_examples=zero"
    with pytest.raises(CallsFailError, match=rule):
        await aevaluate(toy_task(), config=config(tmp_path), split="validation", provider=some)


@pytest.mark.parametrize("is_measured", [False, True])
@pytest.mark.parametrize(
    ("scope", "rows"), [("model", 16), ("example", 16), ("transient", 16), ("transient", 4), ("example", 4)]
)
async def test_a_run_of_which_every_call_fails_is_resumed_as_its_message_says(
    tmp_path: Path, scope: FailureScope, rows: int, is_measured: bool
) -> None:
    task = toy_task(validation=rows)
    if is_measured:
        task = replace(task, subtasks=tuple(replace(subtask, tokens=None) for subtask in task.subtasks))

    def refuse(request: Request, repeat: int) -> str:
        raise PermanentModelError("no connection", kind="no connection", scope=scope)

    with pytest.raises(NothingEvaluated) as ended:
        await aoptimize(task, config(tmp_path), provider=ScriptedModel(refuse))
    (folder,) = (tmp_path / "runs").iterdir()
    run = RunFolder.open(folder)
    assert f"remedy: fix the cause, then `{run.resuming}`; answers" in str(ended.value)
    assert str(ended.value).count("remedy") == 1
    assert not re.search("start (again|a new)", str(ended.value))
    assert (await aoptimize(task, config(tmp_path), resume=run, provider=toy_model())).trials


async def test_a_model_that_no_call_can_reach_ends_the_run_with_the_result_so_far(tmp_path: Path) -> None:
    fake = toy_model()

    def answer(request: Request, repeat: int) -> str | Choice:
        if request.model == LARGE:
            raise PermanentModelError("HTTP 402: no credit left", kind="HTTP 402", scope="model")
        return fake._answer(request, repeat)  # type: ignore[misc]

    result = await aoptimize(toy_task(), config(tmp_path), provider=ScriptedModel(answer))
    assert result.ended.kind is StopKind.FAILED
    assert "no credit left" in (result.failed or "")
    assert not any(LARGE in str(trial.candidate) for trial in result.trials)
    assert load_result(Path(result.run)) == result


async def test_one_failing_example_leaves_its_trials_incomplete_and_never_best(tmp_path: Path) -> None:
    fail = config(tmp_path, failed_examples="fail")
    result = await aoptimize(toy_task(), fail, provider=one_example_refused())
    assert {t.state for t in result.trials if LARGE in str(t.candidate)} <= {"incomplete", "pruned"}
    assert {choice.model for choice in result.best_candidate.values()} == {SMALL}
    assert result.failures["HTTP 400"] >= 1


async def test_a_candidate_of_another_task_is_refused(tmp_path: Path) -> None:
    other = Candidate.of({"other": SubtaskChoice(SMALL)})
    with pytest.raises(CandidateError, match="names every subtask"):
        await aevaluate(toy_task(), other, config(tmp_path), provider=toy_model())


async def test_ten_samples_after_five_ask_for_five_more_per_subtask_input(tmp_path: Path) -> None:
    task = toy_task(num_samples=(1, 5, 10), test=6)
    fake = toy_model({("find", SMALL): 1.0, ("answer", SMALL): 1.0})
    for samples in (5, 10):
        candidate = Candidate.of({s.name: SubtaskChoice(SMALL, samples) for s in task.subtasks})
        await aevaluate(task, candidate, config(tmp_path), provider=fake)
    assert [(r.first_repeat, r.n) for r in fake.requests] == [(0, 5)] * 12 + [(5, 5)] * 12


async def test_fusion_by_the_model_is_charged_apart(tmp_path: Path) -> None:
    task = toy_task(method="fuse", test=4)
    fake = toy_model()

    def answer(request: Request, repeat: int) -> str | Choice:
        return "key-test-0" if request.purpose == "fusion" else fake._answer(request, repeat)  # type: ignore[misc]

    candidate = Candidate.of({"find": SubtaskChoice(LARGE, 3), "answer": SubtaskChoice(SMALL, 1)})
    evaluation = await aevaluate(task, candidate, config(tmp_path), provider=ScriptedModel(answer))
    assert evaluation.per_example("fusion_tokens") > 0
    assert evaluation.per_example("completion_tokens") == 4


@settings(max_examples=2)
@given(seed=st.integers(0, 1000), strategy=st.sampled_from(["optuna", "random", "grid"]))
def test_the_same_seed_gives_the_same_trials(seed: int, strategy: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        runs = [
            asyncio.run(
                aoptimize(
                    toy_task(validation=6, test=6),
                    config(Path(folder) / str(i), seed=seed, strategy=strategy, budget={"trials": 5}),
                    provider=toy_model(),
                )
            )
            for i in range(2)
        ]
    assert runs[0].trials == runs[1].trials


async def test_too_few_rows_are_reported_before_anything_is_spent(tmp_path: Path) -> None:
    fake, calls_before = toy_model(), list[int]()

    def note_calls(event: object) -> None:
        if isinstance(event, Note) and "no difference can reach significance" in event.message:
            calls_before.append(len(fake.requests))

    task = toy_task(validation=5, test=4)
    result = await aoptimize(task, config(tmp_path), provider=fake, callbacks=[note_calls])
    assert calls_before == [0, 0]
    assert "test: with 4 rows no difference can reach significance: use at least 6" in result.notes


async def test_half_an_emoji_in_a_response_is_kept_and_does_no_harm(tmp_path: Path) -> None:
    result = await aoptimize(
        toy_task(validation=4, test=4), config(tmp_path), provider=ScriptedModel(lambda *_: "cut \ud83d")
    )
    assert result.finalist("best").validation.score == 0


@pytest.mark.parametrize("measured", [False, True])
async def test_a_cap_on_seconds_leaves_time_for_the_test(tmp_path: Path, measured: bool) -> None:
    class Slow(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            await asyncio.sleep(0.2)
            return await super().generate(request)

    provider = Slow(toy_model()._answer)
    limited = config(tmp_path, budget={"trials": 1000, "seconds": 6})
    task = toy_task(validation=4, test=4)
    if measured:
        task = replace(
            task, subtasks=tuple(replace(subtask, tokens=None) for subtask in task.subtasks), unit=Unit(134.5e6, 1, 1)
        )
    result = await aoptimize(task, limited, provider=provider)
    assert result.finalist("best").test is not None
    assert result.ended.cap == "seconds"
    assert "kept back for later phases" in str(result.ended)


async def test_incomplete_trials_are_tried_again_once_per_session_and_stay_within_the_cap(tmp_path: Path) -> None:
    # A trial that is tried again could be stopped early, by the best trial of the first session.
    fail = config(tmp_path, failed_examples="fail", search={"early_stopping": None})
    result = await aoptimize(toy_task(), fail, provider=one_example_refused())
    unfinished = sum(trial.state == "incomplete" for trial in result.trials)
    events: list[Event] = []
    again = await aoptimize(
        toy_task(), resume=Path(result.run), provider=one_example_refused(), callbacks=[events.append]
    )
    assert sum(isinstance(event, TrialStarted) for event in events) == unfinished > 0
    assert again.trials == result.trials
    assert len({str(trial.candidate) for trial in again.trials}) == 8


async def test_a_baseline_that_fails_now_and_then_does_not_cost_the_others_their_result(tmp_path: Path) -> None:
    gone = toy_model_but_for(lambda r: r.model == SMALL and "validation-3|" in r.messages[-1].content, "HTTP 400")
    result = await aoptimize(toy_task(), config(tmp_path, failed_examples="fail"), provider=gone)
    assert {choice.model for choice in result.best_candidate.values()} == {LARGE}
    assert result.trials[0].state == "incomplete"


async def test_a_cap_below_the_baselines_need_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(NothingEvaluated, match="calls cap of 5 is reached") as failure:
        await aoptimize(toy_task(), config(tmp_path, budget={"calls": 5}), provider=toy_model())
    assert (failure.value.stopped.run_cap, failure.value.failures) == ("calls", {})


async def test_each_evaluation_has_its_budget_to_itself(tmp_path: Path) -> None:
    capped = config(tmp_path, budget={"calls": 40})
    for samples in (1, 2):
        candidate = Candidate.of({s.name: SubtaskChoice(SMALL, samples) for s in toy_task().subtasks})
        assert (await aevaluate(toy_task(), candidate, capped, provider=toy_model())).state == "complete"


async def test_a_resume_with_another_scorer_is_refused(tmp_path: Path) -> None:
    first = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    other = replace(toy_task(), scorer=lambda example, output: Score(1.0))
    with pytest.raises(ConfigError, match="the task has changed"):
        await aoptimize(other, resume=Path(first.run), provider=toy_model())


async def test_candidates_of_the_archive_are_tried_right_after_the_baseline(tmp_path: Path) -> None:
    known = Candidate.of({"find": SubtaskChoice(LARGE, 2), "answer": SubtaskChoice(SMALL, 1)})
    gone = Candidate.of({"find": SubtaskChoice("retired", 1), "answer": SubtaskChoice(SMALL, 1)})
    result = await aoptimize(toy_task(), config(tmp_path), provider=toy_model(), warm_start=[gone, known])
    assert [t.proposer for t in result.trials][:3] == ["baseline", "archive", "optuna"]
    assert result.trials[1].candidate == known
    assert len(result.trials) == 8

    again = await aoptimize(toy_task(), resume=Path(result.run), provider=ScriptedModel(script=[]))
    assert again.trials == result.trials, "the run folder knows what the run was given"


async def test_the_search_knows_the_archive_and_tries_something_else(tmp_path: Path) -> None:
    first = await aoptimize(toy_task(), config(tmp_path, strategy="grid"), provider=toy_model())
    tried = [line.candidate for line in first.trials[1:6]]
    second = await aoptimize(
        toy_task(), config(tmp_path / "b", strategy="grid"), provider=toy_model(), warm_start=tried
    )
    assert [t.proposer for t in second.trials] == ["baseline", *["archive"] * 5, *["grid"] * 2]
    assert len({str(t.candidate) for t in second.trials}) == 8


async def test_a_resume_of_a_run_that_another_process_works_on_leaves_it_as_it_is(tmp_path: Path) -> None:
    asked = config(tmp_path)
    run = RunFolder.create(toy_task(), asked)
    before = (run.path / "config.yaml").read_text()
    other = asked.model_copy(update={"seed": 7})
    with (
        run.locked(),
        pytest.raises(ConfigError, match=f"another process works on this run, with the id {os.getpid()}\n"),
    ):
        await aoptimize(toy_task(), other, resume=run.path, provider=toy_model())
    assert (run.path / "config.yaml").read_text() == before


async def test_a_run_that_was_resumed_is_kept_when_it_meets_a_users_mistake(tmp_path: Path) -> None:
    task = replace(toy_task(), max_units=1)
    run = RunFolder.create(task, config(tmp_path))
    with pytest.raises(TaskError, match="the baseline must cost at most"):
        await aoptimize(task, resume=run.path, provider=toy_model())
    assert RunFolder.open(run.path).id == run.id
    with pytest.raises(TaskError, match="the baseline must cost at most"):
        await aoptimize(task, config(tmp_path, runs=str(tmp_path / "new")), provider=toy_model())
    assert not (tmp_path / "new").exists()


async def test_half_an_emoji_in_a_message_does_not_stop_the_log(tmp_path: Path) -> None:
    run = RunFolder.create(toy_task(), config(tmp_path))
    log_to(run.log)(Note("cut \ud83d"))
    (line,) = run.log.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["message"] == "cut \ud83d"


@pytest.mark.parametrize("name", ["what next?", "plan/code"])
async def test_a_task_may_be_called_what_a_path_cannot_hold(tmp_path: Path, name: str) -> None:
    result = await aoptimize(
        replace(toy_task(), name=name), config(tmp_path, budget={"trials": 1}), provider=toy_model()
    )
    assert result.task == name
    opened = RunFolder.open(Path(result.run))
    assert opened.trials.database == opened.path / "trials.db"
    assert len(recorded_evaluations(opened.trials)) == 1


async def test_a_missing_split_is_reported_before_anything_is_spent(tmp_path: Path) -> None:
    splits = toy_task().splits
    cases: tuple[tuple[Split, Split], ...] = (("test", "validation"), ("validation", "test"))
    for kept, needed in cases:
        task, model = replace(toy_task(), splits={kept: splits[kept]}), toy_model()
        with pytest.raises(TaskError, match=f"a {needed} split is needed, but the task has {kept}"):
            await (aoptimize if needed == "validation" else aevaluate)(task, config=config(tmp_path), provider=model)
        assert model.requests == []
    assert not (tmp_path / "runs").exists()


def raising(*_: Any) -> Any:
    raise LookupError("no entry")


def never(text: str) -> str:
    raise Unparsable(f"expected one of billing, bug, question, got {text!r}")


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        (
            {"parse": never},
            (
                r"no response of `find` could be parsed on any of 7 rows, so `answer` was never called; the first: "
                r"find: expected one of billing, bug, question, got '(key|wrong)-.*'; no candidate could be evaluated"
            ),
        ),
        ({"parse": raising}, r"no row could be scored: the first of 7 rows: .*the parser `raising` failed"),
    ],
)
async def test_lengths_that_cannot_be_measured_are_explained_by_the_responses(
    tmp_path: Path, settings: dict[str, Any], cause: str
) -> None:
    find, answer = toy_task()["find"], toy_task()["answer"]
    task = replace(toy_task(validation=7), subtasks=(replace(find, **settings), replace(answer, tokens=None)))
    model = toy_model()
    with pytest.raises(NothingEvaluated, match=f"^{cause}") as failure:
        await aoptimize(task, config(tmp_path), provider=model)
    assert not isinstance(failure.value, UserError), "the exit code is 1"
    assert len(model.requests) == 7
    (folder,) = (tmp_path / "runs").iterdir()
    (note,) = failure.value.__notes__
    assert "spent: 7 calls, " in note
    assert str(folder) in note
    assert "remedy:" in str(failure.value)
    assert "start a new run" in str(failure.value)
    for _ in range(2):  # the same cause again, free of charge
        with pytest.raises(NothingEvaluated, match=cause):
            await aoptimize(task, resume=folder, provider=ScriptedModel(script=[]))


async def test_a_baseline_without_one_score_ends_the_run_before_another_candidate_is_paid_for(tmp_path: Path) -> None:
    model, task = toy_model(), replace(toy_task(), scorer=python(raising))
    with pytest.raises(
        NothingEvaluated, match=r"^of the baseline, no row could be scored: the first of 16 rows: "
    ) as failure:
        await aoptimize(task, config(tmp_path), provider=model)
    message = str(failure.value)
    assert "no entry" in message.splitlines()[0]
    assert message.count("no entry") == 1
    assert "failed calls" not in message
    assert len(model.requests) == 2 * 16
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"--resume {folder}" in message or f"resume='{folder}'" in message
    assert len(TrialStore(folder / "trials.db", search_space(toy_task(), Catalog.load())).trials) == 1


async def test_one_scored_row_of_the_baseline_is_enough_to_continue(tmp_path: Path) -> None:
    def scorer(example: Example, output: object) -> float:
        if example.id != "validation-3":
            raise LookupError("no entry")
        return 1.0

    events: list[Event] = []
    task = replace(toy_task(), scorer=python(scorer))
    with pytest.raises(NothingEvaluated, match=r"^no candidate could be evaluated on every example: every trial"):
        await aoptimize(task, config(tmp_path), provider=toy_model(), callbacks=[events.append])
    assert sum(isinstance(event, TrialDone) for event in events) == 8


async def test_a_scorer_of_a_task_built_in_python_may_fail_on_an_example_and_give_numbers(tmp_path: Path) -> None:
    def judge(example: Example, output: object) -> float:
        if example.id == "test-3":
            raise ValueError("no idea")
        return float("nan") if example.id == "test-4" else 0.5

    task = replace(toy_task(), scorer=judge)  # type: ignore[arg-type]
    evaluation = await aevaluate(task, config=config(tmp_path), provider=toy_model())
    assert set(evaluation.errors) == {"test-3", "test-4"}
    assert "the scorer `judge` failed on example test-3: ValueError: no idea" in evaluation.errors["test-3"]
    assert set(evaluation.scores.values()) == {0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parse": raising}, "the parser `raising` failed on"),
        ({"render": raising}, "the prompt of find on example test-3: `raising` failed"),
        ({"context": raising}, "the context function `raising` failed"),
        ({"fusion": Fusion("best_of", judge=raising)}, "the judge `raising` of best_of failed"),
        ({"parse": lambda text: 1, "fusion": Fusion("vote_list")}, "vote_list needs lists to vote on"),
    ],
)
async def test_a_function_that_raises_leaves_its_examples_without_a_score(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    task = toy_task()
    failing = replace(task, subtasks=(replace(task["find"], **settings), task["answer"]))
    evaluation = await aevaluate(failing, config=config(tmp_path), provider=toy_model())
    assert (evaluation.scores, evaluation.state) == ({}, "incomplete")
    error = evaluation.errors["test-3"]
    assert message in error
    assert "find" in error
    assert "example test-3" in error
    assert "LookupError: no entry" in error or "vote_list" in error


async def test_a_parser_that_returns_none_gives_no_answer(tmp_path: Path) -> None:
    task = toy_task()
    empty = replace(task, subtasks=(replace(task["find"], parse=lambda text: None), task["answer"]))
    evaluation = await aevaluate(empty, config=config(tmp_path), provider=toy_model())
    assert set(evaluation.scores.values()) == {0.0}
    assert "`<lambda>` returned None" in evaluation.results[0].feedback


@pytest.mark.parametrize("kind", [RunStarted, ExampleDone, TrialDone, RunDone])
async def test_a_callback_that_raises_ends_the_run_which_resumes_without_a_second_call(
    tmp_path: Path, kind: type[Event]
) -> None:
    def callback(event: Event) -> None:
        if isinstance(event, kind):
            raise ZeroDivisionError("division by zero")

    settings, model = config(tmp_path), toy_model()
    with pytest.raises(CallbackError, match=r"the callback `callback` failed on \w+: ZeroDivisionError") as failure:
        await aoptimize(toy_task(), settings, callbacks=[callback], provider=model)
    (folder,) = (tmp_path / "runs").iterdir()
    assert failure.value.__notes__ == [f"  this run is resumed by agentopt.optimize(task, resume='{folder}')"]
    await aoptimize(toy_task(), resume=folder, provider=model)
    assert len(model.requests) == len(set(model.requests))


@pytest.mark.parametrize(
    "choice",
    ["{model: m, num_samples: 2.5}", "{model: m, system_prompt: null}", "{num_samples: 1}", "m", "{model: m, n: 1}"],
)
def test_a_candidate_file_that_breaks_a_rule_is_refused(tmp_path: Path, choice: str) -> None:
    (tmp_path / "best.yaml").write_text(f"find: {choice}\n")
    with pytest.raises(CandidateError, match="maps each subtask to model, num_samples and system_prompt"):
        load_candidate(tmp_path / "best.yaml")


@pytest.mark.parametrize(("blocking", "twin"), [(optimize, aoptimize), (evaluate, aevaluate), (diagnose, adiagnose)])
def test_each_blocking_function_takes_what_its_async_twin_takes(
    blocking: Callable[..., object], twin: Callable[..., object]
) -> None:
    assert f"a{blocking.__name__}" == twin.__name__
    assert inspect.signature(blocking) == inspect.signature(twin)
    assert not inspect.iscoroutinefunction(blocking)


def test_the_blocking_functions_give_what_their_twins_give(tmp_path: Path) -> None:
    evaluation = evaluate(toy_task(), config=config(tmp_path), provider=toy_model())
    assert evaluation.state == "complete"


async def test_the_journal_is_let_go_of_also_where_a_transport_cannot_be(tmp_path: Path) -> None:
    class Stuck(ScriptedModel):
        async def aclose(self) -> None:
            raise OSError("cannot let go")

    with pytest.raises(OSError, match="cannot let go"):
        async with open_session({}, "run", journal=str(tmp_path / "journal.db"), provider=Stuck()) as session:
            pass
    with pytest.raises(ResourceClosedError):
        session.journal.spend("run")


def test_what_a_killed_process_of_the_same_number_left_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / f"trials.db.{os.getpid()}").write_text("half a schema")
    space = search_space(toy_task(), Catalog.load())
    assert TrialStore(tmp_path / "trials.db", space).trials == []


def unsized(**prices: object) -> dict[str, ModelSpec]:
    """The toy task's models as hosted ones without a parameter count."""
    entries = {SMALL: {"base_url": "http://127.0.0.1:9"}, LARGE: {"base_url": "http://127.0.0.1:9"}}
    return {name: ModelSpec.model_validate({"name": name, **entry, **prices}) for name, entry in entries.items()}


@pytest.mark.parametrize("strategy", ["agent", "optuna", "random"])
async def test_models_with_prices_alone_are_optimised_with_costs_in_usd(tmp_path: Path, strategy: str) -> None:
    specs = unsized(usd_per_1m_prompt=1.0, usd_per_1m_completion=2.0)
    specs[LARGE] = specs[LARGE].model_copy(update={"usd_per_1m_prompt": 10.0, "usd_per_1m_completion": 20.0})
    chosen = config(tmp_path, strategy=strategy, models=list(specs.values()), agent={"model": None})
    result = await aoptimize(priced_task(validation=40, test=40), chosen, provider=toy_model())
    first = result.trials[0]
    assert result.cost_in == "usd"
    assert first.measures is not None
    assert first.units == pytest.approx(first.measures.usd)
    assert first.units == pytest.approx(2 * (1 * 1.0 + 1 * 2.0) / 1e6), "a word in, a word out, not the nominal lengths"
    assert len(result.trials) == 8
    assert result.best_candidate["find"].model == LARGE
    assert load_result(Path(result.run)) == result


def priced_task(*, validation: int = 16, test: int = 16) -> Task:
    """The toy task without its limit in units, which only models with a parameter count can have."""
    return replace(toy_task(validation=validation, test=test), max_units=None)


@pytest.mark.parametrize("prices", [{}, {"unpriced": "ok"}, {"price": "free"}])
async def test_models_without_parameters_and_prices_cost_seconds(tmp_path: Path, prices: dict[str, str]) -> None:
    chosen = config(tmp_path, models=list(unsized(**prices).values()), strategy="agent", agent={"model": None})
    result = await aoptimize(toy_task(), chosen, provider=toy_model())
    assert (result.cost_in, result.trials[0].units) == ("seconds", 0), "a scripted model takes no time"
    (note,) = (note for note in result.notes if "so costs are in seconds" in note)
    assert note.startswith(f"{SMALL} and {LARGE} have no parameter count, so max_units is not applied; ")
    assert "units" not in "\n".join(line for finalist in result.finalists for line in finalist.lines(result.cost_in))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_usd": 0.1}, rf"toy: max_usd: costs in USD need every model's price, but {LARGE} has none"),
        ({"cost_measure": "usd"}, r"toy: cost_measure: costs in USD need .*cost_measure=None"),
        ({"cost_measure": "units"}, rf"costs in units need every model's parameter count, but {SMALL} and {LARGE}"),
        ({"cost_measure": "tokens"}, "`cost_measure` must be usd, seconds or units or None, but got 'tokens'"),
        ({"max_seconds": 0}, "`max_seconds` must be a number above 0 or None, but got 0"),
    ],
)
async def test_a_limit_or_a_measure_that_the_catalogue_cannot_price_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    specs = unsized()
    specs[SMALL] = unsized(usd_per_1m_prompt=1.0)[SMALL]
    with pytest.raises(TaskError, match=rf"(?s){message}"):
        await aoptimize(replace(priced_task(), **changes), config(tmp_path, models=list(specs.values())))
    assert not list((tmp_path / "runs").glob("*"))


async def test_a_model_whose_tokens_exceed_the_limit_is_tried_once_per_subtask_and_not_chosen(tmp_path: Path) -> None:
    fake = toy_model()

    def thinks(request: Request, repeat: int) -> Choice:
        text = str(fake._answer(request, repeat))  # type: ignore[misc]
        return Choice(text, 40 if request.model == LARGE else 1)

    task = priced_task(validation=40, test=40)
    subtasks = tuple(replace(subtask, tokens=TokenLengths(1, 1)) for subtask in task.subtasks)
    specs = unsized(usd_per_1m_prompt=1.0, usd_per_1m_completion=1.0)
    chosen = config(tmp_path, models=list(specs.values()), strategy="optuna", budget={"trials": 12})
    limited = replace(task, subtasks=subtasks, max_usd=16e-6)
    result = await aoptimize(limited, chosen, provider=ScriptedModel(thinks))
    above = [trial for trial in result.trials if trial.units > 17e-6]
    assert len(result.trials) == 12
    assert 1 <= len(above) <= 2, "its price is that of the small model, so only its measured tokens exclude it"
    assert all(LARGE in str(trial.candidate) for trial in above)
    assert not any(LARGE in str(finalist.candidate) for finalist in result.finalists)
    assert [result.trials[number].units for number in result.pareto] == sorted(
        result.trials[number].units for number in result.pareto
    )
