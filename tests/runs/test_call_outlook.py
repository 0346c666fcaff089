"""How many of the coming trials make calls, from which the time left is estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt import Config, optimize
from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.candidate import Candidate
from agentopt.core.events import Event, TrialDone
from agentopt.core.records import Evaluation, ExampleResult, Remaining, Trial
from agentopt.runs.call_outlook import MOST_LISTED, CallOutlook
from agentopt.search.base import SearchSpace
from agentopt.search.from_task import search_space
from agentopt.testing.company import company_specs, company_task
from agentopt.testing.toy import toy_model, toy_task

SPECS = {spec.name: spec for spec in company_specs("http://127.0.0.1:9/v1")}


def space_of(*models: str, counts: tuple[int, ...] = (1, 2, 3), subtasks: int = 2) -> SearchSpace:
    task = company_task()
    kept = tuple(replace(s, models=models, num_samples=counts) for s in task.subtasks[:subtasks])
    return search_space(replace(task, subtasks=kept, output=kept[-1].name), SPECS)


def trials_of(*candidates: Candidate) -> list[Trial]:
    evaluation = Evaluation("validation", 1, (ExampleResult("a", 1.0),), "complete")
    return [Trial(number, candidate, evaluation, "random", 1.0) for number, candidate in enumerate(candidates)]


def pair(space: SearchSpace, find: int, answer: int, model: str = "mini") -> Candidate:
    return space.candidate({"find": (model, find), "answer": (model, answer)})


def rest(outlook: CallOutlook, space: SearchSpace, trials: Sequence[Trial]) -> Remaining:
    found = outlook.remaining(space, trials, None)
    assert found
    return found


def test_trials_whose_samples_were_all_drawn_make_no_calls_if_nothing_is_read() -> None:
    space, outlook = space_of("mini", counts=tuple(range(1, 9)), subtasks=1), CallOutlook(Budget(Caps(trials=8)))
    few, most = (trials_of(space.candidate({"find": ("mini", count)})) for count in (1, 8))
    assert rest(outlook, space, most).calling == 0
    assert 1 <= rest(outlook, space, few).calling < 5, "of a random order, the counts above all before"


def test_trials_that_read_new_outputs_make_calls_as_often_as_such_trials_did() -> None:
    space, budget = space_of("mini"), Budget(Caps(trials=9))
    outlook, trials = CallOutlook(budget), trials_of(pair(space, 3, 3))
    unknown = rest(outlook, space, trials)
    assert (unknown.trials, unknown.calling) == (8, 4), "half of them, as nothing is known"
    for _ in range(3):
        with outlook.watching(pair(space, 1, 1), trials):
            pass
    assert rest(outlook, space, trials).calling == 8 * 0.5 / 4


async def test_a_trial_with_new_samples_says_nothing_about_the_others() -> None:
    space, budget = space_of("mini"), Budget(Caps(trials=9))
    outlook, trials = CallOutlook(budget), trials_of(pair(space, 3, 1))
    before = rest(outlook, space, trials)
    for candidate, is_evidence in ((pair(space, 1, 2), False), (pair(space, 1, 1), True)):
        with outlook.watching(candidate, trials):
            budget.settle(await budget.reserve(Usage(calls=1), "samples"), Usage(calls=1))
        assert (rest(outlook, space, trials).calling > before.calling) is is_evidence


@pytest.mark.parametrize(("cap", "left"), [(4, 3), (100, 8), (1, 0)])
def test_no_more_trials_are_left_than_the_space_has_candidates(cap: int, left: int) -> None:
    space = space_of("mini")
    found = rest(CallOutlook(Budget(Caps(trials=cap))), space, trials_of(pair(space, 1, 1)))
    assert found.trials == left
    assert 0 <= found.calling <= left
    assert 1 <= found.finalists <= 2
    assert CallOutlook(Budget()).remaining(space, (), None) is None


def test_a_space_too_large_to_list_is_sampled() -> None:
    space = space_of(*SPECS, counts=tuple(range(1, 41)))
    assert space.size > MOST_LISTED
    found = rest(CallOutlook(Budget(Caps(trials=1000))), space, trials_of(space.baseline))
    assert found.trials == 999
    assert 0 < found.calling < 999


def test_a_run_reports_what_remains(tmp_path: Path) -> None:
    events: list[Event] = []
    config = Config(strategy="random", journal=str(tmp_path / "j.db"), runs=tmp_path / "runs", budget={"trials": 4})
    optimize(toy_task(), config, provider=toy_model(), callbacks=[events.append])
    remaining = [event.remaining for event in events if isinstance(event, TrialDone)]
    assert [found.trials for found in remaining if found] == [3, 2, 1, 0]
