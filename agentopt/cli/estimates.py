"""The worst and the expected case of a run, for dry runs; no model is called."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass

from agentopt.api import LoadedTask
from agentopt.core.records import Evaluation
from agentopt.models.request_fitting import limited
from agentopt.models.session import check_priced, open_existing_journal
from agentopt.runs.agent_model import with_agent_model
from agentopt.runs.config import Config
from agentopt.runs.evaluators import batched_models
from agentopt.runs.expected_case import ExpectedCase, expected_case
from agentopt.runs.expected_lengths import ExpectedLengths, expected_lengths
from agentopt.runs.pace import seconds_of, why_no_pace
from agentopt.runs.recorded_answers import recorded_answers_note
from agentopt.runs.recorded_lengths import recorded_baseline, with_lengths
from agentopt.runs.strategies import check_search_settings
from agentopt.runs.worst_case import Estimate, estimate
from agentopt.search.base import SearchSpace
from agentopt.search.from_task import check_costs, needs_measuring, search_space, unlimited_space

PARTS = ("search", "agent", "demos", "prompts", "test", "total")

BATCHED = {"search": {"trials"}, "test": {"tests"}, "total": {"trials", "tests"}}
"""Part -> the evaluations in it whose calls may wait in batches, so that its time is not known."""


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run would use.

    Attributes:
        config: The settings, with the agent's model.
        space: The search space; without limits if token lengths are measured first.
        trials: Most trials.
        worst: The worst case.
        expected: The expected case.
        times: Part -> its expected seconds at the pace of earlier calls; None if it is not known.
        no_pace: Why the time of the run is not known, for messages; None if it is.
        has_answers: Whether the journal has answers of the run's models, which cost nothing again.
        answers: The note on the answers in the journal; None if there are none, or they are not known.
        recorded: The baseline's responses that are in the journal, from which token lengths are taken; or None.
        lengths: The token lengths of the expected case.
    """

    config: Config
    space: SearchSpace
    trials: int
    worst: Estimate
    expected: ExpectedCase
    times: Mapping[str, float | None]
    no_pace: str | None
    has_answers: bool
    answers: str | None
    recorded: Evaluation | None
    lengths: ExpectedLengths


def estimates(source: LoadedTask, config: Config) -> RunEstimate:
    """Estimate a run. A dry run creates no files, so the journal is read only if it exists.

    Args:
        source: The task.
        config: The settings.

    Raises:
        UserError: The run would be refused.
    """
    task, specs = source
    config = with_agent_model(config, task, specs)
    check_costs(task, specs)
    check_search_settings(task, config)
    check_priced(specs.values(), config.budget.caps(), *config.purpose_caps().values())
    space = unlimited_space(task, specs) if needs_measuring(task) else search_space(task, specs)
    journal = open_existing_journal(config.journal)
    with closing(journal) if journal else nullcontext():
        if found := journal.refused_lately("") if journal else {}:
            specs = {name: limited(s, found.get((name, s.identity), frozenset())) for name, s in specs.items()}
        worst = estimate(task, space, specs, config, journal)
        recorded = recorded_baseline(task, specs, journal, config.response_seed)
        measured = with_lengths(task, specs, recorded)
        lengths = asyncio.run(expected_lengths(measured, specs, journal, config.response_seed))
        expected = expected_case(measured, space, specs, config, worst, journal, lengths)
        batched = batched_models(task, config, specs)
        waiting = {part for part, use in BATCHED.items() if batched and use & {*config.batch}}
        times = {
            part: None if part in waiting else seconds_of(getattr(expected, part), specs, journal) for part in PARTS
        }
        no_pace = why_no_pace(specs, journal, batched)
        answers, paces = None, [journal.pace(specs[name].identity) for name in task.models] if journal else []
        has_answers = any(pace.timed + pace.untimed for pace in paces)
        if journal and has_answers:
            answers = asyncio.run(recorded_answers_note(task, space, specs, journal, config.response_seed))
    trials = min(config.budget.trials, space.size)
    return RunEstimate(config, space, trials, worst, expected, times, no_pace, has_answers, answers, recorded, lengths)
