"""An evaluation that is stopped early: which rows run, in which order they count, and what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.api import aoptimize
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import Unit
from agentopt.core.records import Evaluation, ExampleResult, Score, Split
from agentopt.core.stopping import StopTest
from agentopt.core.task import Example, Scorer, Subtask, Task, TokenLengths
from agentopt.evaluation.evaluator import CANARY, Evaluator
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import Request, Response
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import Config
from agentopt.runs.result import Result, load_result
from agentopt.runs.trial_store import TrialStore
from agentopt.search.base import Proposal
from agentopt.search.from_task import search_space
from agentopt.testing.toy import LARGE, SMALL

ROWS = 24
CANDIDATE = Candidate.of({"answer": SubtaskChoice(SMALL)})


def task(scorer: Scorer | None = None) -> Task:
    answer = Subtask(
        name="answer",
        render=lambda inputs, outputs: f"{inputs['number']}",
        models=(SMALL, LARGE),
        num_samples=(1, 2),
        max_tokens=4,
        tokens=TokenLengths(16, 4),
    )
    splits: dict[Split, tuple[Example, ...]] = {"validation": rows_of("validation"), "test": rows_of("test")}
    return Task(
        name="words", subtasks=(answer,), scorer=scorer or exact_match(), splits=splits, unit=Unit(134.5e6, 16, 4)
    )


def rows_of(split: Split) -> tuple[Example, ...]:
    return tuple(Example(f"{split}-{i}", {"number": i}, target=f"word-{i}") for i in range(ROWS))


class Slow(ScriptedModel):
    """Answers wrong, or right as given; the first requests of any concurrent ones take longest."""

    def __init__(self, right: Callable[[str], bool]) -> None:
        super().__init__(lambda request, _: f"word-{self._number(request)}" if right(self._number(request)) else "no")

    async def generate(self, request: Request) -> Response:
        await asyncio.sleep(max(0.0, 0.03 - 0.001 * len(self.requests)))
        return await super().generate(request)

    @staticmethod
    def _number(request: Request) -> str:
        return request.messages[-1].content


async def evaluated(model: ScriptedModel, stop: StopTest | None = None) -> Evaluation:
    return await Evaluator(task(), model, Catalog.load()).evaluate(CANDIDATE, stop=stop)


async def incumbent() -> StopTest:
    whole = await evaluated(ScriptedModel(lambda request, _: f"word-{request.messages[-1].content}"))
    assert whole.state == "complete"
    return StopTest(whole.scores, "trial 3")


async def test_a_trial_stops_once_it_has_lost_and_no_further_row_starts() -> None:
    model = ScriptedModel(lambda *_: "no")
    found = await evaluated(model, await incumbent())
    assert (found.state, found.planned) == ("pruned", ROWS)
    assert len(found.results) == len(model.requests) == 1, "it cannot catch up with a trial that has every row right"
    assert found.outcome == "pruned after 1 of 24 rows: cannot catch up with trial 3"


@pytest.mark.parametrize("wrong", [{"1", "2"}, {"23"}, {str(number) for number in range(0, 24, 3)}])
async def test_what_finishes_first_does_not_matter(wrong: set[str]) -> None:
    test = StopTest(dict.fromkeys((await incumbent()).incumbent, 0.8), "trial 3")
    fast = await evaluated(
        ScriptedModel(lambda r, _: "no" if (n := r.messages[-1].content) in wrong else f"word-{n}"), test
    )
    slow_model = Slow(lambda number: number not in wrong)
    slow = await evaluated(slow_model, test)
    assert slow.results == fast.results
    assert slow.stopped == fast.stopped
    assert len(slow_model.requests) == len(slow.results)


async def test_rows_that_are_needed_in_any_case_run_at_the_same_time() -> None:
    running, most = 0, 0

    class Counting(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return await super().generate(request)

    evaluator = Evaluator(task(), Counting(lambda *_: "no"), Catalog.load())
    await evaluator.evaluate(CANDIDATE)
    assert most == ROWS - CANARY, "the first rows of an evaluator that has no answer yet run before the others"
    order = [result.id for result in (await evaluator.evaluate(CANDIDATE)).results]
    most = 0
    half = StopTest({f"validation-{i}": float(i % 2) for i in range(ROWS)}, "trial 3")
    found = await evaluator.evaluate(CANDIDATE, stop=half)
    assert found.state == "pruned"
    assert most == half.needed({}, order) > 6


async def test_in_waves_a_quarter_of_the_rows_runs_before_each_test() -> None:
    """Calls that wait in batches: few batches, not one for each row that a test may need."""
    evaluator = Evaluator(task(), wrong := ScriptedModel(lambda *_: "no"), Catalog.load(), in_waves=True)
    test = await incumbent()
    found = await evaluator.evaluate(CANDIDATE, stop=test)
    assert (found.state, len(found.results), len(wrong.requests)) == ("pruned", ROWS // 4, ROWS // 4)
    row_by_row = await evaluated(ScriptedModel(lambda *_: "no"), test)
    assert found.results[: len(row_by_row.results)] == row_by_row.results, "the same rows in the same order"


async def test_rows_that_repeat_each_other_run_together_and_count_as_one() -> None:
    rows = tuple(Example(f"validation-{i}", {"number": i % 8}, target=f"word-{i % 8}") for i in range(ROWS))
    repeated = replace(task(), splits={"validation": rows})
    evaluator = Evaluator(repeated, ScriptedModel(lambda *_: "no"), Catalog.load())
    incumbent = StopTest({f"validation-{i}": float(i < 5) for i in range(8)}, "trial 3", level=0)
    found = await evaluator.evaluate(CANDIDATE, stop=incumbent)
    assert found.state == "pruned"
    assert len(found.results) == 3 * len(found.scores), "whole groups of three rows"
    assert found.outcome == f"pruned after {len(found.scores)} of 8 rows: cannot catch up with trial 3"
    shuffled = [result.id for result in (await evaluator.evaluate(CANDIDATE)).results]
    assert sorted(shuffled) == sorted(row.id for row in rows)
    assert shuffled[: len(found.results)] == [result.id for result in found.results]


async def test_without_a_test_every_row_runs() -> None:
    found = await evaluated(ScriptedModel(lambda *_: "no"))
    assert (found.state, found.score, found.stopped) == ("complete", 0.0, None)


def config(tmp_path: Path, **search: object) -> Config:
    return Config.model_validate(
        {
            "strategy": "grid",
            "journal": str(tmp_path / "journal.db"),
            "runs": str(tmp_path / "runs"),
            "budget": {"trials": 4},
            "search": search,
        }
    )


def only_small_is_right() -> ScriptedModel:
    return ScriptedModel(lambda r, _: f"word-{r.messages[-1].content}" if r.model == SMALL else "no")


async def run(tmp_path: Path, scorer: Scorer | None = None, **search: object) -> Result:
    return await aoptimize(task(scorer), config(tmp_path, **search), provider=only_small_is_right())


async def test_the_reason_is_in_the_result_and_is_loaded_again(tmp_path: Path) -> None:
    result = await run(tmp_path)
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned
    assert all(t.stopped and t.stopped.rule == "cannot catch up" and t.planned == ROWS for t in pruned)
    assert load_result(Path(result.run)) == result


@pytest.mark.parametrize(("level", "pruned"), [(0, True), (0.05, True), (None, False)])
async def test_the_level_0_leaves_curtailment_and_null_stops_nothing(
    tmp_path: Path, level: float | None, *, pruned: bool
) -> None:
    result = await run(tmp_path, early_stopping=level)
    assert any(trial.state == "pruned" for trial in result.trials) == pruned


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 5.0), (-3.0, -2.0)])
async def test_scores_without_a_known_range_stop_nothing(tmp_path: Path, low: float, high: float) -> None:
    def scorer(example: Example, output: object) -> Score:
        return Score(high if output == example.target else low)

    result = await run(tmp_path, scorer)
    assert {trial.state for trial in result.trials} == {"complete"}


async def test_looks_of_an_earlier_version_is_read_and_has_no_effect(tmp_path: Path) -> None:
    assert config(tmp_path, looks=4) == config(tmp_path)
    with pytest.warns(FutureWarning, match=r"search\.looks has no effect"):
        assert config(tmp_path, looks=8) == config(tmp_path)


async def test_a_pruned_trial_that_all_trials_make_the_best_is_completed(tmp_path: Path) -> None:
    model = ScriptedModel(lambda r, _: f"word-{n}" if int(n := r.messages[-1].content) % 2 else "no")
    rows = tuple(ExampleResult(f"validation-{i}", 1.0) for i in range(15))
    larger = replace(task().subtasks[0], num_samples=(1, 2, 3))
    wider = replace(task(), subtasks=(larger,), max_units=100.0)
    again = await aoptimize(wider, config(tmp_path / "2", early_stopping=None), provider=model)
    space = search_space(wider, Catalog.load())
    pruned = next(c for c in space.candidates() if c not in [trial.candidate for trial in again.trials])
    store = TrialStore(Path(again.run) / "trials.db", space)
    store.add(Proposal(pruned, "grid"), Evaluation("validation", ROWS, rows, "pruned"))
    resumed = await aoptimize(wider, resume=again.run, provider=model)
    last = resumed.trials[-1]
    assert (len(resumed.trials), last.number) == (len(again.trials) + 1, len(again.trials))
    assert (last.state, last.proposer, last.candidate) == ("complete", "grid", pruned)
    assert last.note == "completed, because all trials together make it the best"
    assert (await aoptimize(wider, resume=again.run, provider=model)).trials == resumed.trials
