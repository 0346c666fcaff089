"""The untried candidates that are most worth measuring, and what measuring one would cost. Makes no model call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from statistics import NormalDist

from agentopt.core.axes import SettingValue
from agentopt.core.candidate import Candidate
from agentopt.core.errors import JournalError, UserError
from agentopt.core.records import Trial
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.session import open_existing_journal
from agentopt.runs.cached_candidates import CachedCandidates
from agentopt.runs.folder import RunFolder
from agentopt.search.base import SearchSpace
from agentopt.search.insight_strategy import in_seed_prompts, measured
from agentopt.search.neighbourhood import without_limits
from agentopt.search.surrogate import Expectation, expectations, most_promising

SHORTLIST = 500
"""Untried candidates with the greatest expected improvement, among which the most promising ones are found."""

SCORE_DIGITS = 3
"""Digits of an expected score that are compared: those that are shown of scores."""

POSSIBLE = 0.1
"""Least probability of a cheaper candidate to be good enough, at which it comes before those that may score higher."""


def promising(
    space: SearchSpace, trials: Sequence[Trial], least: float, dearest: float | None, seed: int
) -> list[Candidate]:
    """Order the untried candidates by the posterior of their scores, the most promising first.

    First come those that cost less than `dearest` and may be good enough, by their expected saving; then all others by
    their expected score, of equal ones the cheaper first; last those with a setting that scored 0 in every trial.

    Args:
        space: The candidates, with measured costs.
        trials: The trials; those outside of the space count for the settings that failed only.
        least: The score that is good enough.
        dearest: Cost of the candidate to save on; None if there is none.
        seed: Orders equal candidates, and samples a large space.
    """
    inside = [trial for trial in trials if without_limits(space).contains(trial.candidate)]
    scored = measured(space, inside)
    tried = [in_seed_prompts(space, trial.candidate) for trial in inside if trial.evaluation.scores]
    failed = _failed_settings(trials)
    if not len(scored.mean):  # no trial informs about these candidates
        any_of_them = most_promising(space, scored, [], tried, seed, [None] * SHORTLIST)
        return sorted(any_of_them, key=lambda one: (not failed.isdisjoint(_settings(one)), space.units(one)))

    def key(found: Expectation) -> tuple[float, float, float]:
        cost = space.units(found.candidate)
        if not failed.isdisjoint(_settings(found.candidate)):
            return 2.0, -round(found.mean, SCORE_DIGITS), cost
        good = 1 - NormalDist(found.mean, found.deviation).cdf(least)
        if dearest and 0 < cost < dearest and good >= POSSIBLE:
            return 0.0, -good * math.log(dearest / cost), cost
        return 1.0, -round(found.mean, SCORE_DIGITS), cost

    found = expectations(space, scored, tried, seed, SHORTLIST)
    return [one.candidate for one in sorted(found, key=key)]


def _settings(candidate: Candidate) -> Iterator[tuple[str, str, SettingValue]]:
    return ((name, axis, value) for name, choice in candidate.items() for axis, value in choice.settings)


def _failed_settings(trials: Sequence[Trial]) -> set[tuple[str, str, SettingValue]]:
    """The settings of subtasks with which no trial scored, if one scored without them."""
    scored = [(set(_settings(t.candidate)), any(t.evaluation.scores.values())) for t in trials if t.evaluation.scores]
    of = {
        good: set[tuple[str, str, SettingValue]]().union(*(s for s, is_good in scored if is_good is good))
        for good in (False, True)
    }
    return of[False] - of[True] if any(is_good for _, is_good in scored) else set()


def rows_to_call(
    run: RunFolder, task: Task, specs: Mapping[str, ModelSpec], candidates: Sequence[Candidate]
) -> Sequence[int | None]:
    """Count for each candidate the validation rows of which the run's journal lacks a response.

    Args:
        run: The run.
        task: Its task.
        specs: Catalogue name -> entry.
        candidates: The candidates.

    Returns:
        The counts; None for each if the journal cannot be opened.
    """

    def counted() -> Sequence[int | None]:
        rows = len(task.splits["validation"])
        try:
            journal = open_existing_journal(run.config.journal)
        except (JournalError, UserError):  # the rest of the answer needs no journal
            return [None] * len(candidates)
        if journal is None:
            return [rows] * len(candidates)
        with closing(journal):
            at_hand = CachedCandidates(task, journal, specs, run.config.response_seed, journal.refused(run.id))
            return [rows - asyncio.run(at_hand.rows(candidate)) for candidate in candidates]

    with ThreadPoolExecutor(1) as pool:  # the caller's thread may have an event loop, as in a notebook
        return pool.submit(counted).result()
