"""Makes the records of a result from trials and their evaluations on the test split."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agentopt.core.cost import SHOWN, CostMeasure, cost_in_words, format_cost
from agentopt.core.message_text import counted, in_words, plain_number
from agentopt.core.records import Evaluation, Trial
from agentopt.core.usd_text import format_usd
from agentopt.runs.example_costs import ExampleCosts, SubtaskCostShown
from agentopt.runs.result import Comparison, Finalist, Measured, Role, TrialLine
from agentopt.search.base import SearchSpace
from agentopt.search.measured_costs import measured_cost, with_measured_costs, within_limits
from agentopt.search.posterior import Choice

Finalists = list[tuple[tuple[Role, ...], Trial]]
"""The trials that are evaluated on the test split, each once, with its roles."""


def finalists_of(choice: Choice, baseline: Trial | None) -> Finalists:
    """The best, the recommended and the baseline's trial.

    Args:
        choice: The choice among the complete trials.
        baseline: The baseline's trial, which is no finalist without a score.
    """
    by_role: dict[Role, Trial] = {"best": choice.best, "recommended": choice.recommended}
    if baseline is not None and baseline.score is not None:
        by_role = {"baseline": baseline, **by_role}
    distinct = {trial.number: trial for trial in by_role.values()}
    return [(tuple(r for r, t in by_role.items() if t.number == trial.number), trial) for trial in distinct.values()]


def finalist(
    roles: tuple[Role, ...],
    trial: Trial,
    choice: Choice,
    test: Evaluation | None,
    baseline_test: Evaluation | None,
    seed: int,
) -> Finalist:
    """The record of one finalist, from its trial and its evaluation on the test split.

    Args:
        roles: Its roles.
        trial: Its trial.
        test: Its evaluation on the test split; None if it was not tested.
        baseline_test: The baseline's evaluation on the test split.
        seed: Seeds the intervals.
    """
    validation = Measured.of(trial.evaluation, seed=seed)
    assert validation is not None, "a finalist has a score"
    compared = None
    if test and baseline_test and "baseline" not in roles:
        compared = Comparison.of(test, baseline_test, seed=seed)
    return Finalist(
        roles=roles,
        trial=trial.number,
        proposer=trial.proposer,
        candidate=trial.candidate,
        units=trial.units,
        cost={name: SubtaskCostShown.of(trial.evaluation, name) for name in trial.candidate},
        validation=validation,
        test=Measured.of(test, seed=seed) if test else None,
        against_baseline=compared,
        metrics=Measured.metrics_of(test or trial.evaluation, seed=seed),
        shrunk=choice.shrunk.get(trial.number),
        measures=ExampleCosts.of(trial.evaluation),
    )


def trial_line(trial: Trial, shrunk: Mapping[int, float]) -> TrialLine:
    """The record of one trial; `shrunk` has the posterior mean score by trial number."""
    return TrialLine(
        trial.number,
        trial.proposer,
        trial.state,
        trial.score,
        len(trial.evaluation.scores),
        trial.units,
        trial.candidate,
        trial.note,
        trial.evaluation.planned_scores,
        trial.evaluation.stopped,
        shrunk.get(trial.number),
        ExampleCosts.of(trial.evaluation),
    )


def beyond_limits(space: SearchSpace, trials: Sequence[Trial]) -> tuple[int, ...]:
    """Numbers of the complete trials that cost more than a limit of the task: they are not chosen."""
    measured = with_measured_costs(space, trials)
    return tuple(t.number for t in trials if t.state == "complete" and not within_limits(measured, t))


def choice_notes(
    space: SearchSpace, choice: Choice, trials: Sequence[Trial], tolerance: float, run: Path
) -> Iterator[str]:
    """Yield what a reader should know about the choice.

    Args:
        space: The search space.
        choice: The choice.
        trials: The trials, the baseline's first.
        tolerance: `search.tolerance`.
        run: The run's folder, for the commands in the notes.
    """
    yield from filter(
        None,
        (
            limits_note(space, choice),
            rows_note(choice, tolerance),
            cheaper_note(choice, trials, space.measure, run),
            nothing_right_note(trials, run),
        ),
    )


def nothing_right_note(trials: Sequence[Trial], run: Path) -> str | None:
    """That every example of every trial scores 0, which bad prompts, targets or parsers cause, not models alone.

    Args:
        trials: The trials.
        run: The run's folder, for the command that shows what was answered.
    """
    scored = [trial for trial in trials if trial.score is not None]
    if not scored or any(result.score or result.unparsed for trial in scored for result in trial.evaluation.results):
        return None
    return (
        "every example of every trial scores 0: check the targets, the parser and the prompts; "
        f"`agentopt inspect {shlex.quote(str(run))}` shows the answers"
    )


def limits_note(space: SearchSpace, choice: Choice) -> str | None:
    """That the best trial is above a cost limit, because every complete one is, or that its latency is not known.

    None if it is within all limits.
    """
    notes = (_above_limits(space, choice), _unchecked_limit(space, choice))
    return "; ".join(filter(None, notes)) or None


def _unchecked_limit(space: SearchSpace, choice: Choice) -> str | None:
    if space.max_seconds is None:
        return None
    trials = dict.fromkeys(t.number for t in (choice.best, choice.recommended) if not t.evaluation.latencies)
    if not trials:
        return None
    of = f"trial{'s' * (len(trials) > 1)} {in_words(map(str, trials))}"
    limit = f"cost.max_seconds={plain_number(space.max_seconds)}"
    return f"{limit} could not be checked: the latency of {of} is not known, as of answers from batches"


def _above_limits(space: SearchSpace, choice: Choice) -> str | None:
    above = [
        f"{cost_in_words(cost, measure)}, above the limit of {format_usd(SHOWN[measure][0] * most)}"
        for measure, most in space.limits
        if (cost := measured_cost(space, choice.best.evaluation, measure)) is not None and cost > most
    ]
    if not above:
        return None
    limit = "the cost limit" if len(above) == 1 else "all cost limits"
    return f"no complete trial is within {limit}: the best one costs {in_words(above)}"


def cheaper_note(choice: Choice, trials: Sequence[Trial], measure: CostMeasure, run: Path) -> str | None:
    """That a trial costs less than the baseline and scores as well, if the best and the recommended one cost more.

    Args:
        choice: The choice.
        trials: The trials, the baseline's first.
        measure: The measure of their costs.
        run: The run's folder, for the command that shows the trial.
    """
    baseline = trials[0]
    if baseline.number not in choice.shrunk or choice.recommended.units <= baseline.units:
        return None
    least = choice.shrunk[baseline.number]
    found = [t for t in trials if t.number in choice.pareto and choice.shrunk[t.number] >= least]
    cheapest = min(found, key=lambda trial: trial.units, default=baseline)
    if cheapest.units >= baseline.units:
        return None
    costs = f"costs {cost_in_words(cheapest.units, measure)}, the baseline {format_cost(baseline.units, measure)}"
    scores = f"its shrunk score is {choice.shrunk[cheapest.number]:.3f}, the baseline's {least:.3f}"
    shown = f"`agentopt whatif {shlex.quote(str(run))} --min-score {math.floor(1000 * least) / 1000:g}` shows it"
    return f"trial {cheapest.number} {costs}; {scores}; it was not tested: {shown}"


def rows_note(choice: Choice, tolerance: float) -> str | None:
    """That the validation rows are too few to save anything, and how many it would take; None if they are enough."""
    if not choice.too_few_rows:
        return None
    return (
        f"{counted(choice.rows, 'validation row')} cannot show whether a cheaper candidate is as good as the best one: "
        f"about {choice.rows_needed:,} would resolve a difference of {tolerance:g} (search.tolerance)"
    )
