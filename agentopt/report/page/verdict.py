"""The verdict of a run in words: score, cost and latency against the baseline, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from agentopt.core.cost import cost_in_words
from agentopt.core.duplicates import shared_by_group
from agentopt.core.message_text import counted
from agentopt.core.records import ExampleResult, Trial
from agentopt.core.stats import Interval, paired_difference
from agentopt.core.usd_text import format_usd
from agentopt.report.formatting import format_difference, format_interval, rounded
from agentopt.report.printed_result import KEEP_BASELINE, VERDICTS, resumable, unreadable, uses
from agentopt.runs.archive import RunArchive
from agentopt.runs.result import Finalist, Measured, Result, Role

LEAST_ROWS = 2
"""Rows that a difference in cost or latency needs."""


def headline(archive: RunArchive) -> str:
    """The outcome in one sentence."""
    result, done = archive.result, counted(len(archive.trials), "trial")
    if result is None:
        return f"The run {'is running' if archive.state == 'running' else 'was stopped'}: {done} so far"
    if result.unparsed:
        return f"There is no verdict: {result.unparsed}"
    if result.unsearched:
        return f"There is no verdict: the run {result.unsearched}"
    if result.keeps_baseline:
        return "No candidate is better than the baseline"
    if result.verdict is None:
        return "There is no verdict, because the baseline or the best candidate was not tested"
    words = VERDICTS[result.verdict]
    return words[0].upper() + words[1:]


def sentences(archive: RunArchive) -> Iterator[str]:
    """Yield the score, cost and latency of the best and the recommended candidate against the baseline."""
    best, baseline = _finalist(archive, "best"), _finalist(archive, "baseline")
    if best is None:
        return
    yield from _scores(best, baseline)
    issues = archive.result.incomplete if archive.result else ()
    yield from (f"{issue}." for issue in issues if issue.is_unusable)
    for role in ("best", "recommended"):
        chosen = _finalist(archive, role)
        if chosen is None or "baseline" in chosen.roles or (role == "recommended" and chosen is best):
            continue
        yield from _costs(archive, chosen, role)
    recommended = _finalist(archive, "recommended")
    if recommended and recommended is not best:
        tolerance = archive.run.config.search.tolerance
        tested = f"; its test score is {_measured(recommended.test)}" if recommended.test else ""
        yield (
            f"Recommended is trial {recommended.trial}, the cheapest candidate whose shrunk score is within "
            f"{tolerance:g} of that of the best, trial {best.trial}{tested}."
        )


def next_steps(archive: RunArchive) -> Iterator[str]:
    """Yield what the reader can do next."""
    result, path = archive.result, archive.run.path
    if archive.state == "running":
        yield "This page shows the run so far. Build it again to see more: " + _command("report", path)
    elif result is None:
        yield f"Resume the run: {archive.run.resuming}"
    else:
        yield from _of_result(result, path)
        if ended := resumable(result):
            yield f"Resume the run: {archive.run.resuming_after(ended)}"
        yield from result.notes


def _of_result(result: Result, path: Path) -> Iterator[str]:
    """What to do with the candidates, as the terminal says it."""
    if change := unreadable(result):
        yield f"{change[0].upper()}{change[1:]}: " + _command("inspect", path)
    elif result.verdict == "not enough rows":
        yield "Add test rows, or compare on more rows: " + _command("gate", path / "best.yaml") + " --rows-needed"
    elif not result.unsearched and (result.keeps_baseline or result.verdict == "inferior"):
        yield f"{KEEP_BASELINE.capitalize()}."
    elif chosen := uses(result):
        for role, why in chosen.items():
            yield "Use it: " + _command("serve", path / f"{role}.yaml") + (f" ({why})" if why else "")
        yield "Or export it: " + _command("export", path / f"{next(iter(chosen))}.yaml") + " --to python"


def _finalist(archive: RunArchive, role: Role) -> Finalist | None:
    return next((finalist for finalist in archive.finalists if role in finalist.roles), None)


def _scores(best: Finalist, baseline: Finalist | None) -> Iterator[str]:
    split = "test" if best.test else "validation"
    of_best = best.test or best.validation
    of_baseline = (baseline.test if best.test else baseline.validation) if baseline else None
    if of_baseline is None or baseline is best:
        yield f"The best candidate, trial {best.trial}, has a {split} score of {_measured(of_best)}."
        return
    yield (
        f"The best candidate, trial {best.trial}, has a {split} score of {_measured(of_best)}; "
        f"the baseline has {_measured(of_baseline)}."
    )
    if best.against_baseline:
        difference = best.against_baseline.difference
        yield f"The paired difference is {format_difference(difference)}, n={difference.n}."


def _measured(measured: Measured) -> str:
    return f"{measured.score:.3f} {format_interval(measured.interval)}"


def _costs(archive: RunArchive, chosen: Finalist, role: Role) -> Iterator[str]:
    """What a request costs with the candidate and with the baseline, over the validation rows of both."""
    ours, baseline = archive.trial(chosen.trial), archive.trial(0)
    if ours is None or baseline is None:
        return
    name = "recommended" if role == "recommended" else "best"
    usd = difference_of(ours, baseline, usd_of)
    if usd and (ours.evaluation.usd_per_example or baseline.evaluation.usd_per_example):
        change, more = format_usd(1000 * abs(usd[0])), "less" if usd[0] < 0 else "more"
        costs, before_costs = (format_usd(1000 * trial.evaluation.usd_per_example) for trial in (ours, baseline))
        ends = f" (95% interval {_signed(1000 * usd[1].low)} to {_signed(1000 * usd[1].high)})" if usd[1] else ""
        yield (
            f"Per 1,000 requests on validation, the {name} candidate costs {costs} USD "
            f"and the baseline {before_costs} USD: {change} USD {more}{ends}."
        )
    if archive.cost_in not in ("usd", "seconds"):
        units, before_units = (cost_in_words(trial.units, archive.cost_in) for trial in (ours, baseline))
        yield f"An example costs {units} with the {name} candidate and {before_units} with the baseline."
    seconds = difference_of(ours, baseline, lambda result: result.seconds)
    if seconds and (median := ours.evaluation.latency(0.5)) and (before := baseline.evaluation.latency(0.5)):
        mean, of_mean = rounded(seconds[0], 2), seconds[1]
        low, high = (rounded(end, 2) for end in (of_mean.low, of_mean.high)) if of_mean else (mean, mean)
        ends = f" (95% interval {low:+.2f} to {high:+.2f} s)" if of_mean else ""
        yield (
            f"The median latency on validation of the {name} candidate is {median:.2f} s and that of the baseline "
            f"{before:.2f} s; the mean differs by {mean:+.2f} s{ends}."
        )


def usd_of(result: ExampleResult) -> float:
    """USD of an example, fusion calls included."""
    return sum(use.usd + use.fusion_usd for use in result.subtasks.values())


def difference_of(
    ours: Trial, baseline: Trial, measure: Callable[[ExampleResult], float | None]
) -> tuple[float, Interval | None] | None:
    """The mean difference of a measure over the rows that both trials have it for; None if they are too few.

    Each group of repeated rows counts once.

    The interval is that of scores, so the values are scaled into their range. It is None if all differences are equal:
    an interval of equal scores allows for rows that no one has seen, which has no meaning for USD or seconds.

    Args:
        ours: The trial.
        baseline: The trial that it is compared with.
        measure: The value of an example; None if it is not known.
    """
    a, b = (
        {r.id: value for r in t.evaluation.results if r.score is not None and (value := measure(r)) is not None}
        for t in (ours, baseline)
    )
    scale = max([*a.values(), *b.values()], default=0.0)
    differences = [a[row] - b[row] for row in a.keys() & b.keys()]
    if len(differences) < LEAST_ROWS or not scale:
        return None
    if max(differences) - min(differences) < 1e-9 * scale:
        return differences[0], None
    first, second = ({row: value / scale for row, value in of.items()} for of in (a, b))
    found = paired_difference(*shared_by_group(first, second, ours.evaluation.groups))
    low, high = found.interval.low * scale, found.interval.high * scale
    return found.mean * scale, replace(found.interval, low=low, high=high)


def _signed(usd: float) -> str:
    return f"{'-' if usd < 0 else '+'}{format_usd(abs(usd))}"


def _command(name: str, path: Path) -> str:
    return shlex.join(["agentopt", name, str(path)])
