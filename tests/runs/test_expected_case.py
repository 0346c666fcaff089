"""The expected case of a dry run, what caps pay for, and the rows that a difference needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.demos import Demos
from agentopt.core.power import minimal_detectable_difference, rows_to_detect
from agentopt.core.task import Example, Fusion, Program, Task
from agentopt.evaluation.judge import JUDGE_TRIES, Judge
from agentopt.models.base import Message, Request
from agentopt.models.catalog import BatchTerms, ModelSpec, Supports
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.runs.config import Config
from agentopt.runs.evaluators import batch_note
from agentopt.runs.expected_case import cap_notes, expected_case, expected_usd
from agentopt.runs.expected_lengths import ExpectedLengths
from agentopt.runs.worst_case import estimate, longest_prompt
from agentopt.search.from_task import search_space
from agentopt.testing.company import COUNTS, PROMPT_WORDS, STAFF, WORDS, company_specs, company_task
from agentopt.testing.toy import toy_task
from agentopt.workflow.templates import template

PROGRAM = Program(("python", "program.py"))
SPECS = {spec.name: spec for spec in company_specs("http://127.0.0.1:9/v1")}


def cases(task: Task | None = None, specs: dict[str, ModelSpec] = SPECS, **settings: Any) -> tuple[Any, Any, Any, Any]:
    """Worst and expected case of a run of the company's task without an agent, its configuration and its space."""
    task = task or company_task(validation=100, test=50)
    config = Config.model_validate({"strategy": "optuna", "budget": {"trials": 10}, **settings})
    space = search_space(task, specs)
    worst = estimate(task, space, specs, config, None)
    return worst, expected_case(task, space, specs, config, worst), config, space


def test_the_expected_case_is_that_of_a_random_candidate_and_shares_what_trials_share() -> None:
    worst, expected, _, _ = cases()
    # `find` reads nothing: five models draw at most their samples once. `answer` is drawn anew in every trial.
    assert expected.search.calls == 5 * 100 + 10 * 100
    assert expected.test.calls == 3 * 2 * 50
    prompt = 8 * PROMPT_WORDS / 4 + WORDS / 2 + 5
    mean = sum(m.price().usd(prompt, WORDS * sum(COUNTS) / len(COUNTS)) for m in STAFF.values()) / len(STAFF)
    assert expected.test.usd == pytest.approx(3 * 2 * 50 * mean, rel=0.1)
    assert 0 < expected.total.usd < worst.total.usd
    assert expected.total.calls < worst.total.calls


def test_fusion_calls_and_judges_are_expected_too() -> None:
    task = company_task(validation=100, test=50)
    subtasks = (replace(task.subtasks[0], fusion=Fusion("fuse")), task.subtasks[1])
    plain, fused = cases()[1], cases(replace(task, subtasks=subtasks))[1]
    assert fused.test.calls == plain.test.calls + round(3 * 50 * 2 / 3), "two of three counts are fused"
    judged = replace(task, scorer=Judge("mini", "Is it right?", max_tokens=100))
    worst, expected, _, _ = cases(judged)
    assert expected.test.calls == plain.test.calls + 3 * 50, "one call for each verdict"
    assert expected.test.completion_tokens == pytest.approx(plain.test.completion_tokens + 3 * 50 * 100 / 2, abs=2)
    assert worst.test.calls == cases()[0].test.calls + 3 * 50 * JUDGE_TRIES


async def test_verdicts_have_the_lengths_of_those_in_the_journal(tmp_path: Path) -> None:
    task = replace(company_task(validation=100, test=50), scorer=Judge("mini", "Is it right?", max_tokens=100))
    plain = cases(company_task(validation=100, test=50))[1]
    request = Request("mini", (Message("user", "Is it right?"),), 100, purpose="judge")
    model = ScriptedModel(lambda request, repeat: "yes it is right")
    async with open_session(SPECS, "run", journal=str(tmp_path / "j.db"), provider=model) as session:
        one = await session.model.generate(request)
        worst, _, config, space = cases(task)
        found = expected_case(task, space, SPECS, config, worst, session.journal)
    assert found.test.completion_tokens - plain.test.completion_tokens == 3 * 50 * one.completion_tokens
    assert found.test.prompt_tokens - plain.test.prompt_tokens == 3 * 50 * one.prompt_tokens


@pytest.mark.parametrize(("fields", "per_draw"), [({}, 1), ({"supports": {"n": False}}, 5), ({"api": "responses"}, 5)])
def test_requests_for_one_choice_are_counted_and_each_pays_for_the_prompt(
    fields: dict[str, Any], per_draw: int
) -> None:
    task = company_task(validation=100, test=50)
    find, answer = (replace(s, models=("mini",), num_samples=(5,)) for s in task.subtasks)
    spec = ModelSpec.model_validate({**SPECS["mini"].model_dump(), "max_choices": 8, **fields})
    worst, expected, _, space = cases(replace(task, subtasks=(find, answer)), {"mini": spec}, budget={"trials": 1})
    assert (worst.search.calls, expected.search.calls) == (2 * 100 * per_draw,) * 2
    price = STAFF["mini"].price()
    assert space["find"].cost.units("mini", 5) == pytest.approx(
        per_draw * price.usd(PROMPT_WORDS, 0) + 5 * price.usd(0, WORDS)
    )


@pytest.mark.parametrize(
    "render",
    [
        template("{{ inputs.x }} in {{ find.output.town }}"),
        template("{{ inputs.x }} in {% for one in find.output.towns %}{{ one }}{% endfor %}"),
        lambda inputs, outputs: f"{inputs['x']} in {outputs['find']['town']}",
    ],
)
def test_a_prompt_that_reads_a_field_of_an_earlier_output_is_part_of_the_worst_case(render: Any) -> None:
    task = company_task(validation=2, test=2)
    find, answer = task.subtasks
    prompt = longest_prompt(task, replace(answer, render=render), Example("a", {"x": "here"}, "b"))
    assert prompt.startswith("here in ")
    assert len(prompt) > 4 * find.max_tokens


@pytest.mark.parametrize("parts", [("search",), ("test",), ("search", "test")])
def test_batched_evaluations_have_the_price_of_batches(parts: tuple[str, ...]) -> None:
    uses = [{"search": "trials", "test": "tests"}[part] for part in parts]
    specs = {name: spec.model_copy(update={"batch": BatchTerms(price=0.5)}) for name, spec in SPECS.items()}
    for direct, batched in zip(cases(None, specs)[:2], cases(None, specs, batch=uses)[:2], strict=True):
        for part in ("search", "test", "agent"):
            share = 0.5 if part in parts else 1
            assert getattr(batched, part).usd == pytest.approx(share * getattr(direct, part).usd)
            assert getattr(batched, part).calls == getattr(direct, part).calls


def test_models_without_a_batch_interface_are_named() -> None:
    config, task = Config.model_validate({"batch": True}), company_task()
    some = {**SPECS, "nano": SPECS["nano"].model_copy(update={"batch": BatchTerms(price=0.5)})}
    whole = {name: spec.model_copy(update={"batch": BatchTerms(price=0.5)}) for name, spec in SPECS.items()}
    note = batch_note(task, config, some)
    assert note
    assert "nano" not in note
    assert "have no `batch` in the catalogue, so calls are made directly, at the full price; if there is a " in note
    assert batch_note(task, config, whole) is None
    assert batch_note(task, Config(), SPECS) is None
    assert "a program waits" in (batch_note(replace(task, program=Program(("python", "x.py"))), config, whole) or "")


def test_the_expected_usd_of_a_model_has_the_lengths_of_the_expected_case() -> None:
    task = company_task(validation=100, test=50)
    subtasks = (replace(task.subtasks[0], demos=Demos((0, 2))), task.subtasks[1])
    task = replace(task, subtasks=subtasks)
    _, _, _, space = cases(task)
    lengths = ExpectedLengths(task, SPECS)
    first, second = expected_usd(task, space, lengths)
    assert first.startswith("expected USD per 1,000 requests of find: ultra x1 ")
    assert first.count("demos=2") == second.count(" x1 ") == len(STAFF)
    one = lengths.of(task.subtasks[0], "nano")
    plain = STAFF["nano"].price().usd(one.prompt, one.answer)
    longer = plain + 2 * STAFF["nano"].price().usd(one.prompt + one.answer, 0)
    assert f"nano x1 {1000 * plain:.3g}, " in first
    assert f"nano x1 demos=2 {1000 * longer:.3g}" in first
    unpriced = {**SPECS, "nano": ModelSpec(name="nano", base_url="http://127.0.0.1:9/v1")}
    assert not list(expected_usd(task, space, ExpectedLengths(task, unpriced)))


@pytest.mark.parametrize("update", [{}, {"supports": Supports(reasoning_effort=True)}])
def test_the_expected_usd_of_a_model_is_that_of_the_expected_case(update: dict[str, Any]) -> None:
    task = company_task(validation=100, test=50)
    task = replace(task, subtasks=tuple(replace(s, models=("mini",), num_samples=(3,)) for s in task.subtasks))
    specs = {"mini": SPECS["mini"].model_copy(update=update)}
    _, expected, _, space = cases(task, specs)
    shown = [float(line.rpartition(" ")[2]) for line in expected_usd(task, space, ExpectedLengths(task, specs))]
    assert sum(shown) / 1000 * 3 * 50 == pytest.approx(expected.test.usd, rel=0.01)


def test_demonstrations_are_bootstrapped_on_train_examples_and_make_prompts_longer() -> None:
    task = company_task(validation=100, test=50)
    rows = company_task(validation=1, test=150).splits["test"][100:]  # no other split has their inputs
    train = tuple(replace(example, id=f"t{example.id}") for example in rows)
    task = replace(task, splits={**task.splits, "train": train})
    subtasks = (replace(task.subtasks[0], demos=Demos((0, 2, 4))), task.subtasks[1])
    (worst, expected, _, _), (plain, _, _, _) = cases(replace(task, subtasks=subtasks)), cases(task)
    assert worst.demos.calls == 2 * 40, "ten train examples for each demonstration"
    assert expected.demos.calls == 2 * 8, "two for each"
    assert plain.demos.calls == 0
    assert worst.search.prompt_tokens > plain.search.prompt_tokens
    assert worst.search.calls == plain.search.calls
    assert expected.demos.usd <= worst.demos.usd


@pytest.mark.parametrize("budget", [{}, *({"usd": 0.05 * 2**n} for n in range(10)), {"calls": 300}, {"tokens": 50_000}])
@pytest.mark.parametrize("writer", ["ultra", "mini", "thinker"])
def test_no_part_of_the_expected_case_is_negative_or_above_the_worst(budget: dict[str, float], writer: str) -> None:
    """A cap that the writer alone would pass leaves its calls, and the price of these is that of their tokens."""
    train = tuple(
        replace(example, id=f"t{example.id}") for example in company_task(validation=30, test=1).splits["validation"]
    )
    task = company_task(validation=60, test=80)
    task = replace(task, splits={**task.splits, "train": train})
    settings = {"budget": {"trials": 5, **budget}, "agent": {"model": writer}, "strategy": "agent"}
    worst, expected, _, _ = cases(task, SPECS, **settings)
    for part in ("search", "agent", "demos", "prompts", "test", "total"):
        for field in ("calls", "prompt_tokens", "completion_tokens", "usd"):
            assert 0 <= getattr(getattr(expected, part), field) <= getattr(getattr(worst, part), field) + 1e-9, (
                part,
                field,
            )
    if worst.prompts.calls:
        assert expected.prompts.usd > 0


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"usd": 1000}, r"Warning: budget.usd (1000) cannot bind, as the run takes at most "),
        ({"calls": 900}, "budget.calls (900) pays for about 4 of 10 trials in the expected case, 3 in the worst"),
        ({"calls": 500}, "budget.calls (500) pays for about "),
        ({"tokens": 100}, "budget.tokens (100) pays for about 0 of 10 trials in the expected case, 0 in the worst"),
        ({}, None),
    ],
)
def test_a_cap_reports_the_trials_that_it_pays_for_or_that_it_cannot_bind(
    budget: dict[str, float], words: str | None
) -> None:
    worst, expected, config, space = cases(budget={"trials": 10, **budget})
    found = [note for note in cap_notes(worst, expected, config, space) if "cut short" not in note]
    assert [note.startswith(words or "") for note in found] == ([] if words is None else [True]), found


@pytest.mark.parametrize("name", ["calls", "tokens", "usd"])
def test_a_cap_whose_half_is_less_than_the_test_takes_is_reported_with_one_that_suffices(name: str) -> None:
    def warnings(cap: float) -> list[str]:
        notes = cap_notes(*cases(budget={"trials": 10, name: cap}))
        return [note for note in notes if "so it may be cut short" in note]

    takes = getattr(cases()[1].test, name)
    (warning,) = warnings(takes)
    assert warning.startswith(f"Warning: budget.{name} (")
    enough = float(warning.partition("raise it to ")[2].replace(",", ""))
    assert not warnings(enough)
    assert enough <= 2.02 * takes


def test_a_cap_in_usd_cannot_bind_if_models_are_free() -> None:
    specs = {name: ModelSpec(name=name, base_url="http://127.0.0.1:9/v1", price="free") for name in SPECS}
    worst, expected, config, space = cases(None, specs, budget={"trials": 10, "usd": 1})
    (note,) = cap_notes(worst, expected, config, space)
    assert note == "Warning: budget.usd (1) cannot bind, as the run takes at most 0 USD without retries"


@given(st.floats(0.01, 0.9), st.floats(0.02, 1.0))
def test_the_rows_that_detect_a_difference_are_the_fewest(difference: float, discordance: float) -> None:
    rows = rows_to_detect(difference, discordance)
    found = minimal_detectable_difference(rows, discordance)
    assert found is not None
    assert found <= difference + 1e-6
    fewer = minimal_detectable_difference(rows - 1, discordance)
    assert fewer is None or fewer > difference - 1e-6


def test_the_toy_task_has_an_expected_case_in_units_too() -> None:
    specs = {
        name: ModelSpec(name=name, base_url="http://127.0.0.1:9/v1", parameters=size, price="free")
        for name, size in {"smollm2-135m": 134.5e6, "qwen2.5-coder-0.5b": 494e6}.items()
    }
    worst, expected, _, space = cases(toy_task(), specs)
    assert space.measure == "units"
    assert 0 < expected.search.calls <= worst.search.calls


@pytest.mark.parametrize(
    ("thinks", "named"),
    [({}, None), ({"a": False, "b": None}, None), ({"a": True, "b": False}, "a"), ({"a": True, "b": True}, "a and b")],
)
def test_a_dry_run_reports_that_thoughts_are_estimated(thinks: dict[str, bool | None], named: str | None) -> None:
    task, spec = company_task(), SPECS["mini"]
    specs = {
        name: spec.model_copy(update={"name": name, "supports": Supports(reasoning_effort=value)})
        for name, value in thinks.items()
    }
    source, *notes = ExpectedLengths(task, {**SPECS, **specs}).notes()
    assert source.startswith("expected token lengths: `tokens` of the task (ultra")
    assert len(notes) == (named is not None)
    assert named is None or notes[0].startswith(
        f"{named} may think before answering: the expected case counts thoughts"
    )


def test_thoughts_are_in_the_expected_case_and_at_their_price() -> None:
    plain, thinking = (
        cases(specs={name: spec.model_copy(update=update) for name, spec in SPECS.items()})[1]
        for update in ({}, {"supports": Supports(reasoning_effort=True)})
    )
    responses = 3 * 50 * sum(COUNTS) / len(COUNTS)  # of each of the two subtasks
    task = company_task(validation=100, test=50)
    left = sum(subtask.max_tokens - (subtask.tokens.completion if subtask.tokens else 0) for subtask in task.subtasks)
    added = thinking.test.completion_tokens - plain.test.completion_tokens
    assert added == pytest.approx(responses * left / 2, rel=0.01)
    assert thinking.test.usd > plain.test.usd
    assert thinking.test.calls == plain.test.calls
    free = {"supports": Supports(reasoning_effort=True), "usd_per_1m_reasoning": 0.0}
    unpaid = cases(specs={name: spec.model_copy(update=free) for name, spec in SPECS.items()})[1]
    assert unpaid.test.usd == pytest.approx(plain.test.usd)


def test_the_only_subtask_of_a_program_shares_its_responses() -> None:
    task = company_task(validation=100, test=50)
    one = replace(task, subtasks=task.subtasks[:1], output=task.subtasks[0].name)
    declared, of_program, of_two = (
        cases(each)[1].search.calls for each in (one, replace(one, program=PROGRAM), replace(task, program=PROGRAM))
    )
    assert declared == of_program == 5 * 100, "as many as five models have responses"
    assert of_two == 2 * 10 * 100, "which of two reads the other is not known"
