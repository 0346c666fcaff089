"""Which untried candidates are worth measuring, and which of their responses the journal has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.api import evaluate, load
from agentopt.core.axes import Axis
from agentopt.core.candidate import Candidate
from agentopt.core.records import Evaluation, ExampleResult, Trial, TrialState
from agentopt.core.task import Program
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.promising_candidates import promising, rows_to_call
from agentopt.search.base import SearchSpace
from agentopt.search.from_task import search_space
from agentopt.testing.company import company_specs, company_task

SPECS = {spec.name: spec for spec in company_specs("http://127.0.0.1:9/v1")}
ROWS = 8


def space_with_a_knob() -> SearchSpace:
    task = company_task()
    find, answer = (replace(s, models=("nano", "mini"), num_samples=(1, 2, 3)) for s in task.subtasks)
    answer = replace(answer, knobs={"form": "plain"}, settings=(Axis("knobs.form", ("plain", "vague")),))
    return search_space(replace(task, subtasks=(find, answer)), SPECS)


def trial(space: SearchSpace, number: int, models: tuple[str, str], counts: tuple[int, int], form: str) -> Trial:
    settings: Mapping[str, str] = {"knobs.form": form}
    candidate = space.candidate({"find": (models[0], counts[0]), "answer": (models[1], counts[1], settings)})
    rows = ROWS if form == "plain" else 1
    results = tuple(ExampleResult(str(i), float(form == "plain")) for i in range(rows))
    state: TrialState = "complete" if form == "plain" else "pruned"
    return Trial(number, candidate, Evaluation("validation", ROWS, results, state), "x", space.units(candidate))


def is_vague(candidate: Candidate) -> bool:
    return dict(candidate["answer"].settings).get("knobs.form") == "vague"


def test_a_knobs_value_that_never_scored_comes_after_the_untried_candidates_with_the_good_one() -> None:
    space = space_with_a_knob()
    trials = [
        trial(space, 0, ("mini", "mini"), (1, 1), "plain"),
        trial(space, 1, ("nano", "mini"), (1, 1), "vague"),
        trial(space, 2, ("mini", "mini"), (3, 3), "vague"),
        trial(space, 3, ("mini", "mini"), (1, 2), "plain"),
        trial(space, 4, ("nano", "mini"), (1, 2), "plain"),
    ]
    found = promising(space, trials, 0.98, trials[4].units, 0)
    assert len(found) == len(set(found)) == space.size - len(trials)
    plain = len([candidate for candidate in found if not is_vague(candidate)])
    assert [is_vague(candidate) for candidate in found] == [False] * plain + [True] * (len(found) - plain)


def test_cheaper_candidates_that_are_probably_good_enough_come_first() -> None:
    space = space_with_a_knob()
    trials = [trial(space, n, ("mini", "mini"), counts, "plain") for n, counts in enumerate([(1, 3), (3, 3), (3, 1)])]
    dearest = trials[1].units
    found = promising(space, trials, 0.5, dearest, 0)
    costs = [space.units(candidate) for candidate in found]
    assert costs[0] < dearest / 4
    assert all(cost < dearest for cost in costs[:5])
    unbound = promising(space, trials, 0.5, None, 0)
    assert set(unbound) == set(found)


@pytest.mark.parametrize("is_informed", [True, False])
def test_the_cheapest_of_other_models_is_among_the_first_and_a_setting_that_failed_with_any_model_last(
    is_informed: bool,
) -> None:
    whole = space_with_a_knob()
    trials = [
        trial(whole, 0, ("mini", "mini"), (1, 1), "plain"),
        trial(whole, 1, ("mini", "mini"), (1, 1), "vague"),
        *([trial(whole, 2, ("nano", "nano"), (3, 3), "plain")] if is_informed else []),
    ]
    space = replace(whole, subtasks=tuple(replace(subtask, models=("nano",)) for subtask in whole.subtasks))
    found = promising(space, trials, 0.98, trials[-1].units if is_informed else None, 0)
    assert "find: nano x1, answer: nano x1" in [str(candidate) for candidate in found[: 3 if is_informed else 1]]
    assert [is_vague(candidate) for candidate in found] == sorted(map(is_vague, found))


def test_without_a_score_of_these_candidates_any_are_proposed() -> None:
    space = space_with_a_knob()
    assert len(promising(space, [], 0.5, None, 0)) == space.size


@pytest.mark.parametrize(("counts", "to_call"), [((1, 2), 0), ((2, 1), ROWS)])
def test_rows_whose_responses_are_in_the_journal_need_no_call(
    tmp_path: Path, counts: tuple[int, int], to_call: int
) -> None:
    task = company_task(validation=ROWS, test=2)
    task = replace(task, subtasks=tuple(replace(s, models=("mini",), num_samples=(1, 2, 3)) for s in task.subtasks))
    config = Config(
        models=list(SPECS.values()),
        journal=str(tmp_path / "j.db"),
        runs=tmp_path / "runs",
    )
    run, loaded, model = RunFolder.create(task, config), load(task, config), ScriptedModel(lambda request, repeat: "a")
    most = _candidate(task.baseline, (1, 3))
    evaluate(task, candidate=most, config=config, split="validation", provider=model)
    wanted = [loaded.task.baseline, _candidate(loaded.task.baseline, counts)]
    assert rows_to_call(run, loaded.task, loaded.specs, wanted) == [0, to_call]
    functions = replace(loaded.task, program=Program(("python", "program.py")))
    assert rows_to_call(run, functions, loaded.specs, wanted) == [ROWS, ROWS], "it would have to run"
    away = replace(run, config=run.config.model_copy(update={"journal": str(tmp_path / "other.db")}))
    assert rows_to_call(away, loaded.task, loaded.specs, wanted) == [ROWS, ROWS]
    assert not (tmp_path / "other.db").exists()
    (tmp_path / "j.db").write_bytes(b"not a database, but the rest of the answer needs none" * 100)
    assert rows_to_call(run, loaded.task, loaded.specs, wanted) == [None, None]


def _candidate(baseline: Candidate, counts: tuple[int, int]) -> Candidate:
    pairs = zip(baseline.items(), counts, strict=True)
    return Candidate.of({name: replace(choice, num_samples=count) for (name, choice), count in pairs})
