"""What a run reports before its search: calls that are sent directly despite `batch`, and limits that none meets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt import Config, ModelSpec, aevaluate, aoptimize
from agentopt.core.cost import Unit
from agentopt.core.errors import TaskError
from agentopt.core.events import Note
from agentopt.core.message_text import in_words
from agentopt.core.stop_reason import StopKind
from agentopt.core.task import TokenLengths
from agentopt.evaluation.judge import Judge
from agentopt.models.base import Request, Response
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.evaluators import batch_note, batch_notes, batched_note
from agentopt.runs.expected_case import costly_baseline, unmet_limits_in
from agentopt.search.from_task import fitted_to, search_space, unit_note
from agentopt.search.unmet_limits import unmet_limits
from agentopt.testing.company import STAFF, company_specs, company_task
from agentopt.testing.toy import toy_model, toy_task

SPECS = {spec.name: spec for spec in company_specs("http://127.0.0.1:9/v1")}


def specs(*batched: str) -> dict[str, ModelSpec]:
    """The company's models; these have batches."""
    return {
        name: ModelSpec.model_validate(
            spec.model_dump(exclude_unset=True) | ({"batch": {"price": 0.5}} if name in batched else {})
        )
        for name, spec in SPECS.items()
    }


NAMES = list(STAFF)


def says_a_word(request: Request, repeat: int) -> str:
    """An answer of one word."""
    return "word"


@pytest.mark.parametrize(
    ("batched", "uses", "lacking"),
    [
        ((), ["trials"], NAMES),
        (NAMES[1:], ["tests"], NAMES[:1]),
        (NAMES[2:], True, NAMES[:2]),
        (NAMES, True, []),
        ((), False, []),
    ],
)
def test_models_that_are_called_directly_despite_the_setting_are_named_with_the_remedy(
    batched: list[str], uses: Any, lacking: list[str]
) -> None:
    found = batch_note(company_task(validation=4, test=2), Config(batch=uses), specs(*batched))
    have = "has" if len(lacking) == 1 else "have"
    assert (found is None) is (not lacking)
    assert found is None or found == (
        f"{in_words(lacking)} {have} no `batch` in the catalogue, so calls are made directly, at the full price; if "
        f"there is a batch interface, add `batch: {{price: 0.5}}` to {in_words(lacking)}"
    )


@pytest.mark.parametrize(
    ("settings", "uses", "direct"),
    [
        ({"batch": True, "strategy": "optuna"}, "trials and tests", ""),
        ({"batch": ["trials"], "agent": {"model": "nano"}}, "trials", "the agent (nano) and tests"),
        (
            {"batch": ["tests"], "strategy": "optuna", "prompts": {"when": "after"}},
            "tests",
            "prompt optimisation and trials",
        ),
    ],
)
def test_what_goes_in_batches_and_what_is_called_directly_is_named(
    settings: dict[str, Any], uses: str, direct: str
) -> None:
    task = company_task(validation=4, test=2)
    if "prompts" in settings:
        task = replace(task, splits={**task.splits, "train": task.splits["test"]})
    goes = f"In batches, at their price: samples and fusions of {in_words(task.models)} in the {uses}"
    whole = f"{goes}; called directly, at the full price: {direct}" if direct else goes
    assert batched_note(task, Config(**settings), specs(*NAMES)) == whole


def test_the_judge_of_a_batched_run_is_called_directly() -> None:
    task = replace(company_task(validation=4, test=2), scorer=Judge("nano", "Is it right?"))
    note = batched_note(task, Config(batch=True, strategy="optuna"), specs(*NAMES))
    assert (note or "").endswith("; called directly, at the full price: the judge (nano)")


@pytest.mark.parametrize(
    ("uses", "batched"), [(False, NAMES), (True, ()), (["jobs"], NAMES)], ids=["off", "no interface", "jobs"]
)
def test_a_run_without_batches_names_none(uses: Any, batched: list[str]) -> None:
    assert batched_note(company_task(validation=4, test=2), Config(batch=uses), specs(*batched)) is None


@pytest.mark.parametrize(
    ("uses", "limits", "shown"),
    [
        (True, {"max_seconds": 2.0}, "cost.max_seconds=2 is not checked"),
        (["trials"], {"max_seconds": 0.5, "cost_measure": "usd"}, "cost.max_seconds=0.5 is not checked"),
        (True, {"cost_measure": "seconds"}, "costs in seconds are not checked"),
        (["tests"], {"max_seconds": 2.0}, None),
        (False, {"max_seconds": 2.0}, None),
        (True, {}, None),
    ],
)
def test_a_limit_in_seconds_that_batches_leave_unknown_is_named_before_the_run(
    uses: Any, limits: dict[str, Any], shown: str | None
) -> None:
    task = replace(company_task(validation=4, test=2), **limits)
    warnings = [note for note in batch_notes(task, Config(batch=uses), specs(*NAMES)) if note.startswith("Warning: ")]
    assert [shown in note for note in warnings if shown] == [True] * (shown is not None)
    assert bool(warnings) is (shown is not None)


@pytest.mark.parametrize("seconds", [0.0, 1.0, 3.0])
async def test_a_result_whose_latency_is_not_known_does_not_claim_its_limit(tmp_path: Path, seconds: float) -> None:
    task = replace(toy_task(validation=4, test=4), max_seconds=2.0)
    config = Config(strategy="random", budget={"trials": 2}, journal=str(tmp_path / "j.db"), runs=tmp_path / "runs")

    toy = toy_model()

    class Lasting(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            return replace(await toy.generate(request), seconds=seconds)

    result = await aoptimize(task, config, provider=Lasting())
    notes = [note for note in result.notes if "could not be checked" in note]
    assert bool(notes) is (seconds == 0.0), result.notes
    assert all("cost.max_seconds=2 could not be checked: the latency of trial" in note for note in notes)


def test_a_model_that_cannot_have_batches_gets_no_remedy() -> None:
    routed = {name: ModelSpec(name=name, litellm=f"gemini/{name}", price="free") for name in NAMES}
    found = batch_note(company_task(validation=4, test=2), Config(batch=True), routed)
    assert (found or "").endswith("so calls are made directly, at the full price")


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_usd": 1e-9}, r"none of the \d+ candidates is within cost.max_usd_per_1000=0.000001; the cheapest is "),
        ({"max_usd": 1e-9, "max_seconds": 1e-6}, r"cost.max_usd_per_1000=0.000001"),
        ({"max_usd": 1.0}, None),
        ({}, None),
    ],
)
async def test_a_limit_that_no_candidate_meets_is_named_before_the_search_and_by_the_result(
    tmp_path: Path, limits: dict[str, float], named: str | None
) -> None:
    task = replace(company_task(validation=8, test=4), **limits)  # type: ignore[arg-type]
    notes: list[str] = []
    config = Config(
        models=list(SPECS.values()),
        strategy="optuna",
        budget={"trials": 3},
        journal=str(tmp_path / "j.db"),
        runs=tmp_path / "runs",
        batch=True,
    )

    def observe(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    predicted = unmet_limits_in(task, SPECS)
    result = await aoptimize(task, config, provider=ScriptedModel(says_a_word), callbacks=[observe])
    assert any("calls are made directly" in note for note in notes)
    found = [note for note in notes if "is within" in note]
    if named is None:
        assert (found, predicted) == ([], None)
        return
    assert len(result.trials) == 1
    assert result.beyond_limits == (0,)
    assert [len(found), result.ended.kind] == [1, StopKind.NOTHING_LEFT]
    assert re.search(named, found[0])
    assert str(result.ended) == f"the search had nothing more to try: {found[0]}"
    assert predicted
    assert "the cheapest is predicted to cost 0." in predicted
    (last,) = (note for note in result.notes if "no complete trial" in note)
    assert "the best one costs " in last
    assert "above the limit of 0.000001" in last


@pytest.mark.parametrize(
    ("limit", "unit", "is_above"),
    [
        (1e-3, Unit(134.5e6, 1, 4), True),
        (1e-3, Unit(1e12, 4000, 2), False),  # replaced, and the limit with it
        (1e4, Unit(134.5e6, 16, 4), False),
        (None, Unit(134.5e6, 16, 4), False),
    ],
)
@pytest.mark.parametrize("given", [True, False])
async def test_a_baseline_above_the_limit_in_units_is_expected_before_it_is_run(
    tmp_path: Path, limit: float | None, unit: Unit, is_above: bool, given: bool
) -> None:
    toy = toy_task(validation=4, test=4)
    subtasks = tuple(replace(s, tokens=TokenLengths(60, 4) if given else None) for s in toy.subtasks)
    task = replace(toy, subtasks=subtasks, unit=unit, max_units=limit, cost_measure="units")
    expected, model = costly_baseline(task, Catalog.load()), toy_model()
    assert (expected is not None) is (is_above and not given)
    if not is_above:
        return
    notes: list[str] = []

    def observe(event: object) -> None:
        if isinstance(event, Note) and not event.text.startswith("removed "):
            assert not model.requests
            notes.append(event.text)

    config = Config(strategy="random", budget={"trials": 2}, journal=str(tmp_path / "j.db"), runs=tmp_path / "runs")
    with pytest.raises(TaskError, match=r"the baseline must cost at most max_units = 0.001 units per example"):
        await aoptimize(task, config, provider=model, callbacks=[observe])
    assert bool(model.requests) is not given
    assert [note for note in notes if "max_units" in note] == ([] if given else [expected])


@pytest.mark.parametrize("limit", [5.0, 0.25, 20.0])
def test_a_baseline_above_the_limit_is_reported_in_the_unit_that_the_task_gives(limit: float) -> None:
    """The first subtask's pass costs less than 0 units, so that another unit is used."""
    toy, specs, long = toy_task(validation=4, test=4), Catalog.load(), TokenLengths(2000, 100)
    subtasks = tuple(replace(s, tokens=None, num_samples=(1,)) for s in toy.subtasks)
    lengths = [TokenLengths(10, 1), *[long] * (len(subtasks) - 1)]
    size = min(specs[s.models[0]].parameters or 0 for s in subtasks)
    task = replace(toy, subtasks=subtasks, unit=Unit(size, 500, 50), max_units=limit, cost_measure="units")
    sizes = [(specs[s.models[0]].parameters or 0) / size for s in subtasks]
    cost = sum((a * (own.prompt + own.completion) - 500) / 50 for a, own in zip(sizes, lengths, strict=True))
    assert cost > limit
    assert unit_note(task, fitted_to(task, specs, lengths)), "the unit is replaced"
    with pytest.raises(TaskError) as caught:
        search_space(task, specs, expected=lengths)
    assert f"at most max_units = {limit:g} units per example, but costs {cost:g}" in str(caught.value)
    fits = search_space(replace(task, max_units=cost + 1e-6), specs, expected=lengths)
    assert fits.contains(fits.baseline)


async def test_an_evaluation_reports_calls_that_are_not_batched(tmp_path: Path) -> None:
    notes: list[str] = []
    config = Config(models=list(SPECS.values()), journal=str(tmp_path / "j.db"), batch=["tests"])
    await aevaluate(
        company_task(validation=4, test=2),
        config=config,
        provider=ScriptedModel(says_a_word),
        callbacks=[lambda event: notes.append(event.message) if isinstance(event, Note) else None],
    )
    assert any("calls are made directly" in note for note in notes)


def test_limits_that_are_met_apart_and_not_together_are_named_together() -> None:
    task = company_task(validation=4, test=2)
    space = replace(search_space(task, SPECS), max_usd=None, max_seconds=None)
    assert unmet_limits(space) is None
    assert unmet_limits(replace(space, max_usd=1e-9)) is not None
