"""Token lengths that a dry run finds in the journal: of the baseline's responses, and of the agent's replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt import Config, ModelSpec, evaluate
from agentopt.core.budget import Usage
from agentopt.core.task import Task, TokenLengths
from agentopt.models.base import Choice, Message, Purpose, Request, Response
from agentopt.models.catalog import Supports
from agentopt.models.journal import Journal
from agentopt.models.journal_records import Sent
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.agent_usage import agent_usage, expected_agent_usage, expected_writer_usage, writer_usage
from agentopt.runs.expected_case import costly_baseline, expected_case, expected_unit_note, unmet_limits_in
from agentopt.runs.recorded_lengths import recorded_baseline, with_lengths
from agentopt.runs.worst_case import estimate
from agentopt.search.from_task import unlimited_space
from agentopt.testing.company import PROMPT_WORDS, company_specs, company_task

SPECS = {spec.name: spec for spec in company_specs("http://127.0.0.1:9/v1")}


def unmeasured(task: Task | None = None, **changes: Any) -> Task:
    """The company's task without token lengths."""
    task = task or company_task(validation=30, test=4)
    return replace(task, subtasks=tuple(replace(s, tokens=None) for s in task.subtasks), **changes)


def after_evaluation(task: Task, folder: Path, **settings: Any) -> Journal:
    """A journal with the baseline's responses of ten tokens."""
    model = ScriptedModel(lambda request, repeat: Choice("word", 10))
    config = Config(models=list(SPECS.values()), journal=str(folder / "j.db"), **settings)
    evaluate(task, config=config, split="validation", provider=model)
    return Journal(folder / "j.db")


def test_the_baseline_is_found_in_the_journal_without_a_call(tmp_path: Path) -> None:
    task = unmeasured()
    with closing(after_evaluation(task, tmp_path)) as journal:
        found = recorded_baseline(task, SPECS, journal, 0)
        assert recorded_baseline(task, SPECS, journal, 1) is None, "another seed draws other samples"
        assert recorded_baseline(company_task(validation=30), SPECS, journal, 0) is None, "the task has token lengths"
    assert found
    assert len(found.results) == 20
    assert [s.tokens for s in with_lengths(task, SPECS, found).subtasks] == [TokenLengths(PROMPT_WORDS, 10)] * 2


def test_the_rows_that_the_journal_has_are_enough(tmp_path: Path) -> None:
    task = unmeasured()
    few = replace(task, splits={**task.splits, "validation": task.splits["validation"][25:]})
    with closing(after_evaluation(few, tmp_path)) as journal:
        found = recorded_baseline(task, SPECS, journal, 0)
    assert found
    assert [result.id for result in found.results] == [row.id for row in few.splits["validation"]]


def test_an_empty_journal_and_none_have_no_lengths(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.db")) as journal:
        assert recorded_baseline(unmeasured(), SPECS, journal, 0) is None
    assert recorded_baseline(unmeasured(), SPECS, None, 0) is None


@pytest.mark.parametrize(("usd", "assumed", "recorded"), [(1e-6, True, True), (3e-5, True, False), (1.0, False, False)])
def test_a_limit_that_only_long_responses_exceed_is_reported_until_their_length_is_known(
    tmp_path: Path, usd: float, assumed: bool, recorded: bool
) -> None:
    task = unmeasured(max_usd=usd)
    before = unmet_limits_in(task, SPECS)
    assert (before is not None) is assumed
    if before:
        assert before.startswith("Warning: if responses have half of max_tokens, none of the ")
        assert before.endswith("; the lengths are not known before the baseline is measured")
    with closing(after_evaluation(task, tmp_path)) as journal:
        after = unmet_limits_in(task, SPECS, recorded_baseline(task, SPECS, journal, 0))
    assert (after is not None) is recorded
    if after:
        assert after.startswith("Warning: by the token lengths of the baseline in the journal, none of the ")
        assert after.endswith("; raise the limit, or add a cheaper model to a subtask")


@pytest.mark.parametrize("note", [costly_baseline, expected_unit_note])
def test_notes_on_units_name_the_source_of_the_lengths(tmp_path: Path, note: Callable[..., str | None]) -> None:
    sized = {name: spec.model_copy(update={"parameters": 3e9}) for name, spec in SPECS.items()}
    task = unmeasured(max_units=1e-3 if note is costly_baseline else None, cost_measure="units")
    if note is costly_baseline:
        task = replace(task, unit=replace(task.unit, prompt_tokens=1, completion_tokens=1))
    else:
        task = replace(task, unit=replace(task.unit, parameters=1e12))
    with closing(after_evaluation(task, tmp_path)) as journal:
        recorded = recorded_baseline(task, sized, journal, 0)
    assert recorded
    assert "by the expected token lengths, " in (note(task, sized) or "").lower()
    assert "by the token lengths of the baseline in the journal, " in (note(task, sized, recorded) or "").lower()


def test_the_expected_case_has_the_lengths_of_the_journal(tmp_path: Path) -> None:
    task, config = unmeasured(), Config(strategy="optuna")
    space = unlimited_space(task, SPECS)
    worst = estimate(task, space, SPECS, config, None)
    with closing(after_evaluation(task, tmp_path)) as journal:
        known = with_lengths(task, SPECS, recorded_baseline(task, SPECS, journal, 0))
    guessed, expected = (expected_case(of, space, SPECS, config, worst) for of in (task, known))
    assert expected.test.completion_tokens == pytest.approx(guessed.test.completion_tokens * 10 / 200, rel=0.01)
    assert expected.total.usd < guessed.total.usd


AGENT = ModelSpec(name="agent", base_url="http://127.0.0.1:9/v1", usd_per_1m_prompt=1, usd_per_1m_completion=10)
THINKING = AGENT.model_copy(update={"supports": Supports(reasoning_effort=True)})
CONFIG = Config(strategy="agent", agent={"model": "agent", "style": "paper", "attempts": 3})


def test_the_replies_of_an_agent_that_does_not_think_are_not_expected_to_have_thoughts() -> None:
    worst = agent_usage({"agent": AGENT}, CONFIG, 20)
    plain = expected_agent_usage({"agent": AGENT}, CONFIG, worst, None)
    thinks = expected_agent_usage({"agent": THINKING}, CONFIG, worst, None)
    assert plain.calls == thinks.calls == worst.calls / 2
    assert plain.completion_tokens / plain.calls < 350
    assert 4000 < thinks.completion_tokens / thinks.calls < 4400
    assert plain.usd == pytest.approx((plain.prompt_tokens + 10 * plain.completion_tokens) / 1e6)
    assert plain.usd < thinks.usd < worst.usd


def test_the_replies_of_an_agent_are_as_long_as_those_in_the_journal(tmp_path: Path) -> None:
    async def fill(journal: Journal) -> None:
        purposes: tuple[Purpose, ...] = ("agent", "agent", "samples")
        for number, purpose in enumerate(purposes):
            request = Request("agent", (Message("user", f"{number}"),), 100, purpose=purpose)
            used = Usage(1, 1000 * (number + 1), 100 * (number + 1), 0.1)
            entry = await journal.open("run", request, used)
            assert entry
            response = Response((Choice("text", used.completion_tokens),), used.prompt_tokens)
            await journal.record(entry, f"key-{number}", AGENT.identity, Sent(request, response, used))
        entry = await journal.open("run", Request("agent", (Message("user", "cut off"),), 100, purpose="agent"), used)
        assert entry
        await journal.record_failure(entry, Usage(1, 9999, 9999, 1.0), "timeout")

    worst = agent_usage({"agent": AGENT}, CONFIG, 20)
    with closing(Journal(tmp_path / "j.db")) as journal:
        asyncio.run(fill(journal))
        found = expected_agent_usage({"agent": AGENT}, CONFIG, worst, journal)
        assert journal.mean_call("another", "agent") is None
    assert (found.prompt_tokens, found.completion_tokens) == (1500 * found.calls, 150 * found.calls)
    assert found.usd == pytest.approx(0.003 * found.calls)
    assert found.calls == worst.calls / 2


def test_a_run_without_an_agent_or_a_writer_expects_none() -> None:
    alone = Config(strategy="optuna")
    assert expected_agent_usage({}, alone, Usage(), None) == Usage()
    assert expected_writer_usage({}, alone, Usage()) == Usage()


def test_the_writers_thoughts_are_expected_only_if_it_thinks() -> None:
    config = Config(prompts={"model": "agent"})
    worst = writer_usage({"agent": AGENT}, config, "Be brief.", 4)
    plain, thinks = (expected_writer_usage({"agent": spec}, config, worst) for spec in (AGENT, THINKING))
    assert plain.calls == thinks.calls == 4
    assert 0 < plain.completion_tokens < 4 * 1500
    assert thinks.completion_tokens == plain.completion_tokens + 4 * 4000
