"""The unit of a task whose token lengths are measured: every pass costs something, and limits keep their meaning."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.core.cost import PAPER_UNIT, Unit
from agentopt.core.records import Evaluation, ExampleResult, SubtaskUse
from agentopt.core.task import Task, TokenLengths
from agentopt.models.catalog import Catalog
from agentopt.search.from_task import search_space, unit_note, with_fitting_unit
from agentopt.testing.toy import LARGE, SMALL, toy_task

SPECS = {name: Catalog.load()[name] for name in (SMALL, LARGE)}
NOMINAL = TokenLengths(700, 20)

lengths = st.tuples(st.integers(1, 3000), st.integers(1, 300))
units = st.builds(Unit, st.sampled_from([1e7, 134.5e6, 3e9, 1e12]), st.integers(1, 4000), st.integers(1, 64))


def measured_task(unit: Unit, limit: float | None = None, *, nominal: bool = False) -> Task:
    """The toy task; the lengths of its second subtask, and unless `nominal` of the first, are measured."""
    find, answer = (replace(subtask, num_samples=(1, 2, 5)) for subtask in toy_task().subtasks)
    subtasks = (replace(find, tokens=NOMINAL if nominal else None), replace(answer, tokens=None))
    return replace(toy_task(), subtasks=subtasks, unit=unit, max_units=limit, cost_measure="units")


def measured_use(*each: tuple[int, int]) -> Evaluation:
    """An evaluation of one example with these (prompt, completion) tokens of `find` and `answer`."""
    uses = {
        name: SubtaskUse(prompt_tokens=prompt, completion_tokens=completion, responses=1)
        for name, (prompt, completion) in zip(("find", "answer"), each, strict=True)
    }
    return Evaluation("validation", 1, (ExampleResult("0", 1.0, subtasks=uses),), "complete")


@settings(max_examples=60)
@given(units, lengths, lengths, st.booleans())
def test_every_pass_of_a_measured_task_costs_more_than_nothing(
    unit: Unit, find: tuple[int, int], answer: tuple[int, int], nominal: bool
) -> None:
    space = search_space(measured_task(unit, nominal=nominal), SPECS, measured_use(find, answer))
    assert all(subtask.units(choice) > 0 for subtask in space.subtasks for choice in subtask.choices())
    assert space.contains(space.baseline)


@settings(max_examples=60)
@given(units, lengths, lengths, st.integers(0, 35))
def test_a_limit_in_units_affords_the_same_candidates_in_the_unit_that_replaces_the_tasks(
    unit: Unit, find: tuple[int, int], answer: tuple[int, int], place: int
) -> None:
    measured = measured_use(find, answer)
    free = search_space(measured_task(unit), SPECS, measured)
    by_cost = sorted(replace(free, max_units=None).candidates(), key=free.units)
    most = by_cost[place]

    def own(subtask: str, tokens: tuple[int, int]) -> float:
        choice = most[subtask]
        size = SPECS[choice.model].parameters or 0.0
        return (
            size / unit.parameters * (tokens[0] + choice.num_samples * tokens[1]) - unit.prompt_tokens
        ) / unit.completion_tokens

    limit = own("find", find) + own("answer", answer)
    if limit <= 0:  # no limit can be
        return
    space = search_space(measured_task(unit, limit * (1 + 1e-9)), SPECS, measured)
    assert set(space.candidates()) == {c for c in by_cost if free.units(c) <= free.units(most) + 1e-6}


@pytest.mark.parametrize(
    ("unit", "tokens", "is_kept"),
    [
        (PAPER_UNIT, (3000, 100), True),
        (PAPER_UNIT, (2000, 8), False),
        (Unit(134.5e6, 16, 4), (16, 4), True),
        (Unit(134.5e6, 20, 4), (16, 4), False),
    ],
)
def test_a_unit_that_fits_is_kept_and_another_one_is_reported(
    unit: Unit, tokens: tuple[int, int], is_kept: bool
) -> None:
    task = measured_task(unit)
    fitted = with_fitting_unit(task, SPECS, measured_use(tokens, tokens))
    assert (fitted == task) is is_kept
    note = unit_note(task, fitted)
    assert (note is None) is is_kept
    if note:
        assert f"One unit is now a pass of 134.5M parameters over {tokens[0]} prompt and {tokens[1]} completion" in note
        assert note.endswith("for another one, set unit")


@pytest.mark.parametrize("measure", ["usd", "seconds"])
def test_costs_in_another_measure_leave_the_unit(measure: str) -> None:
    specs = {name: spec.model_copy(update={"usd_per_1m_prompt": 1.0}) for name, spec in SPECS.items()}
    task = replace(measured_task(PAPER_UNIT), cost_measure=measure)  # type: ignore[arg-type]
    assert with_fitting_unit(task, specs, measured_use((1, 1), (1, 1))) is task
