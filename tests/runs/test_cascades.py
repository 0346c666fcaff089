"""A planted cascade is found and proven if it saves, and not recommended if it hurts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.api import aoptimize
from agentopt.core.candidate import Candidate
from agentopt.core.cost import CostMeasure, Unit
from agentopt.core.events import TrialDone
from agentopt.core.records import Trial
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result, load_result
from agentopt.runs.whatif import NewPrice, Question, what_if
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.strategy_loop import LoopSearch
from agentopt.testing.toy import draw
from benchmarks import cascades

MODELS = [
    ModelSpec(name="big", base_url="http://127.0.0.1:9/v1", parameters=10e9, usd_per_1m_completion=10),
    ModelSpec(name="small", base_url="http://127.0.0.1:9/v1", parameters=1e9, usd_per_1m_completion=1, max_choices=4),
]
ROWS = 120
"""Examples of the validation split."""


def planted(knows_when_wrong: bool) -> ScriptedModel:
    """The benchmark's models: where the small one is wrong, its samples differ if it knows, or else all agree."""
    return ScriptedModel(
        lambda request, repeat: cascades.planted(
            request.model, request.messages[-1].content, repeat, differs=knows_when_wrong
        )
    )


def task(measure: CostMeasure = "units") -> Task:
    return replace(cascades.cascade_task(ROWS), unit=Unit(1e9, 1, 1), max_units=200, cost_measure=measure)


async def optimized(folder: Path, measure: CostMeasure, *, knows_when_wrong: bool) -> Result:
    config = Config(
        journal=str(folder / "journal.db"),
        runs=folder / "runs",
        models=MODELS,
        strategy="grid",
        budget=BudgetConfig(trials=8),
    )
    return await aoptimize(task(measure), config, provider=planted(knows_when_wrong))


@pytest.fixture(scope="module", params=["units", "usd"])
def saving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return asyncio.run(optimized(tmp_path_factory.mktemp("saving"), request.param, knows_when_wrong=True))


def test_a_cascade_that_halves_the_cost_at_the_same_score_is_found_and_proven(saving: Result) -> None:
    result, chosen = saving, saving.finalist("recommended")
    assert chosen.candidate["answer"].model == "small"
    assert dict(chosen.candidate["answer"].settings)["cascade.below"] in (0.5, 1)
    assert chosen.test
    assert chosen.test.score == 1.0
    assert chosen.against_baseline
    assert chosen.against_baseline.verdict == "non-inferior"
    assert chosen.units < 0.66 * result.finalist("baseline").units
    (note,) = [note for note in result.notes if "escalates" in note]
    assert "answer escalates" in note
    assert "from small to big; USD" in note
    assert "score +0.000" in note
    # It loads again.
    assert load_result(Path(result.run)).recommended_candidate == chosen.candidate
    assert json.loads((Path(result.run) / "result.json").read_text())


async def test_a_cascade_that_hurts_is_not_recommended(tmp_path: Path) -> None:
    result = await optimized(tmp_path, "usd", knows_when_wrong=False)
    assert result.recommended_candidate == Candidate.from_dict({"answer": {"model": "big"}})
    tried = [trial.candidate for trial in result.trials]
    assert any("cascade.below" in dict(candidate["answer"].settings) for candidate in tried)


async def test_the_benchmark_does_not_recommend_a_cascade_that_hurts(tmp_path: Path) -> None:
    outcome = await cascades.run("hurts", tmp_path, seed=0, trials=6, rows=30)
    assert outcome.is_success
    assert any("cascade.below" in dict(trial.candidate["answer"].settings) for trial in outcome.result.trials)
    assert str(outcome).startswith("hurts: success: answer: big x1; 1.00 of the big model's USD; test 1.000")
    assert not replace(outcome, case="saves").is_success


@pytest.mark.parametrize("name", ["small", "big"])
async def test_new_prices_of_a_cascade_give_the_costs_of_a_run_at_these_prices(
    saving: Result, name: str, tmp_path: Path
) -> None:
    if saving.cost_in != "usd":
        return
    run = RunFolder.open(saving.run)
    prices = {name: NewPrice(usd_per_1m_prompt=3, usd_per_1m_completion=20)}
    found = what_if(run, task("usd"), {spec.name: spec for spec in MODELS}, Question(prices=prices))
    models = [
        spec.model_copy(update=prices[name].model_dump(exclude_none=True)) if spec.name == name else spec
        for spec in MODELS
    ]
    config = run.config.model_copy(update={"runs": tmp_path, "models": models})
    again = await aoptimize(task("usd"), config, provider=planted(knows_when_wrong=True))
    assert not found.unpriced
    assert found.chosen
    assert found.chosen.candidate == again.recommended_candidate
    costs = {trial.candidate: trial.units for trial in again.trials if trial.state == "complete"}
    shown = [option for option in (found.chosen, found.before, *found.front) if option.candidate in costs]
    assert any("cascade.below" in dict(option.candidate["answer"].settings) for option in shown)
    for option in shown:
        assert option.cost == pytest.approx(costs[option.candidate], rel=1e-6)


@pytest.mark.parametrize("below", [0.5, 1])
def test_a_trial_of_a_cascade_costs_what_it_escalates(saving: Result, below: float) -> None:
    for trial in saving.trials:
        choice = trial.candidate["answer"]
        if choice.model == "small" and choice.num_samples == 3 and dict(choice.settings).get("cascade.below") == below:
            wrong = sum(draw(f"validation-{i}") >= cascades.SKILL for i in range(ROWS)) / ROWS
            expected = (4 + 3 * 4 - 1) + wrong * (10 * (4 + 4) - 1)
            if saving.cost_in == "usd":  # one token for each word, and a prompt costs nothing
                expected = (3 + wrong * 10) / 1e6
            assert trial.units == pytest.approx(expected)
            break
    else:
        pytest.fail("the cascade was not tried")


def test_the_task_with_a_cascade_has_its_thresholds_as_choices() -> None:
    (subtask,) = task().subtasks
    assert [axis.values for axis in subtask.settings] == [("off", 0.5, 1)]
    assert replace(subtask, description="again").settings == subtask.settings
    assert task().baseline == Candidate.from_dict({"answer": {"model": "big"}})


class Batches:
    """A strategy that proposes given batches."""

    def __init__(self, *batches: Sequence[dict[str, Any]]) -> None:
        self.batches = [[Candidate.from_dict({"answer": choice}) for choice in batch] for batch in batches]

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        tried = {trial.candidate for trial in trials}
        left = [batch for batch in self.batches if not tried.issuperset(batch)]
        return [Proposal(candidate, "batches") for candidate in left[0]] if left else []


async def test_candidates_whose_answers_are_at_hand_are_evaluated_first_and_cost_no_call(tmp_path: Path) -> None:
    def small(below: float | None) -> dict[str, Any]:
        return {"model": "small", "num_samples": 3, "settings": {"cascade.below": below} if below else {}}

    batches = Batches([small(1)], [{"model": "big", "num_samples": 3}, small(None), small(0.5)])
    examples = {split: rows[:10] for split, rows in task().splits.items()}
    small_task = replace(task("usd"), splits=examples)
    config = Config(journal=str(tmp_path / "journal.db"), runs=tmp_path / "runs", models=MODELS)
    counts: list[int] = []
    model = planted(True)
    search = LoopSearch(batches, 3)
    result = await aoptimize(
        small_task,
        config,
        provider=model,
        strategy=search,
        callbacks=[lambda event: counts.append(len(model.requests)) if isinstance(event, TrialDone) else None],
    )
    assert [str(trial.candidate["answer"]) for trial in result.trials] == [
        "big x1",
        "small x3 cascade.below=1",
        "small x3",
        "small x3 cascade.below=0.5",
        "big x3",
    ]
    assert counts[1] == counts[2] == counts[3] < counts[4]
