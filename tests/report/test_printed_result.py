"""The printed result and the live view."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import CostMeasure
from agentopt.core.events import (
    ExampleDone,
    Note,
    RunDone,
    RunStarted,
    SearchStarted,
    TrialDone,
    TrialStarted,
)
from agentopt.core.records import BestSoFar, Evaluation, ExampleResult, Trial
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.report import tables
from agentopt.report.printed_result import print_result
from agentopt.report.progress_bar import ProgressBar
from agentopt.report.safe_console import VisibleConsole
from agentopt.report.tables import Column, finalist_columns, table_of
from agentopt.runs.example_costs import ExampleCosts
from agentopt.runs.result import Finalist, load_result

FINISHED = Path(__file__).parent.parent / "data" / "0.1.0" / "finished"
CANDIDATE = Candidate.of({"answer": SubtaskChoice("large", 3)})


def printed(result: object) -> str:
    output = io.StringIO()
    print_result(result, Console(file=output, width=200))  # type: ignore[arg-type]
    return output.getvalue()


def test_a_result_shows_its_trials_its_finalists_its_spend_and_its_verdict() -> None:
    text = printed(load_result(FINISHED))
    for part in (
        "capitals: every trial was spent",
        "Trials (*",
        "answer: large x3",
        "Finalists (95%",
        "Spent by purpose",
    ):
        assert part in text
    verdict = text.rstrip().splitlines()[-1]
    assert verdict.startswith("Verdict on the test split: not enough rows to decide")
    assert verdict.endswith(".")


@pytest.mark.parametrize(
    ("units", "cost_in", "costs"),
    [
        ((90, 30), "units", "It costs 90.0 units, and the baseline 30.0."),
        (
            (0.00203, 0.000724),
            "usd",
            "It costs 2.03 USD per 1,000 requests, and the baseline 0.724.",
        ),
        ((1.5, 0.25), "seconds", "It costs 1.50 seconds, and the baseline 0.25."),
        ((4.5, 4.5), "units", "Both cost 4.5 units."),
    ],
)
def test_the_verdict_says_what_the_best_candidate_and_the_baseline_cost(
    units: tuple[float, float], cost_in: CostMeasure, costs: str
) -> None:
    result = load_result(FINISHED)
    best, baseline = (
        replace(result.finalist("best"), units=units[0]),
        replace(result.finalist("baseline"), units=units[1]),
    )
    text = printed(replace(result, finalists=(best, baseline), cost_in=cost_in))
    assert " ".join(text.split()).endswith(f". {costs}")


def test_a_column_of_the_result_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    column: Column[Finalist] = Column("proposer of the finalist", lambda finalist: f"<{finalist.proposer}>")
    monkeypatch.setattr(tables, "COST_COLUMNS", (*tables.COST_COLUMNS, column))
    text = printed(load_result(FINISHED))
    assert "proposer of the finalist" in text
    assert "<baseline>" in text


def test_settings_are_shown_if_the_chosen_candidate_has_some() -> None:
    plain = load_result(FINISHED)
    assert "settings" not in printed(plain)
    best = plain.finalist("best")
    having = best.candidate.having("answer", settings={"effort": "high", "temperature": 0.7})
    varied = replace(best, roles=("baseline", "best", "recommended"), candidate=having)
    text = printed(replace(plain, finalists=(varied,)))
    assert "settings" in text
    assert "effort=high, temperature=0.7" in text


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(table_of("[t]", [Column("[h]", str)], ["[red]cell[/red]"]))
    for text in ("[t]", "[h]", "[red]cell[/red]"):
        assert text in output.getvalue()


def test_a_test_that_a_cap_cut_short_is_reported() -> None:
    cap = StopReason(StopKind.CAP_REACHED, "calls", "the calls cap of 5 is reached: 5 spent")
    assert "the test was cut short: the calls cap of 5" in printed(replace(load_result(FINISHED), test_ended=cap))


def test_the_reasons_of_failed_calls_have_a_heading_if_there_are_any() -> None:
    heading = "Evaluations of an example in which a call failed, by reason:\n"
    reasons = {"HTTP 500: overloaded": 3, "timeout: 60 s": 1}
    shown = printed(replace(load_result(FINISHED), failure_reasons=reasons))
    assert f"{heading}  3 x HTTP 500: overloaded\n  1 x timeout: 60 s\n" in shown
    assert heading not in printed(load_result(FINISHED))


async def test_the_live_view_prints_a_line_for_each_trial_with_the_time_left() -> None:
    output, now = io.StringIO(), [0.0]
    results = (ExampleResult("a", 1.0), ExampleResult("b", 0.0))
    trial = Trial(0, CANDIDATE, Evaluation("validation", 2, results, "complete"), "baseline", 3.0)
    budget = Budget(Caps(trials=4, calls=100), clock=lambda: 0.0)
    with ProgressBar(Console(file=output, width=300), clock=lambda: now[0]) as view:
        view(RunStarted(Path("runs/a")))
        view(SearchStarted(12, {"validation": 2, "test": 2}, (), budget))
        view(TrialStarted(0, CANDIDATE, "baseline"))
        view(ExampleDone(results[0]))
        budget.settle(await budget.reserve(Usage(calls=2), "search"), Usage(calls=2))
        now[0] += 1
        view(TrialDone(trial, BestSoFar(0, 0.5)))
        view(Note("guidelines: more"))
        view(RunDone(Path("runs/a")))
    run, search, done, note = output.getvalue().splitlines()
    assert (run, search, note) == ("run runs/a", "12 candidates", "guidelines: more")
    assert done == (
        "trial 0: complete, score 0.500, by baseline | answer: large x3 | 1 of 4 trials | "
        "best shrunk score 0.500 (trial 0) | 2 of 100 calls, 0 tokens, 0 USD, 0 s | 2.0 calls/s | "
        "about 6 s left"
    )


def test_usd_and_latency_are_shown_for_trials_and_finalists_if_they_were_measured() -> None:
    result = load_result(FINISHED)
    assert "s p50" not in printed(result)
    assert "units" in printed(result)
    measured = ExampleCosts(0.0004, 1.25, 3.5)
    priced = replace(
        result,
        cost_in="usd",
        trials=tuple(replace(trial, measures=measured) for trial in result.trials),
        finalists=tuple(replace(finalist, measures=measured) for finalist in result.finalists),
    )
    text = printed(priced)
    for part in ("USD per 1,000", "s p50", "s p95", "0.4", "1.25", "3.50", "front by score, USD and median latency"):
        assert part in text
    assert "units" not in text.replace("measured units", "")
    assert "; on validation 0.4 USD per 1,000 requests, 1.25 s (p50) and 3.50 s (p95)" in " ".join(repr(priced).split())


@pytest.mark.parametrize("cost_in", ["usd", "seconds", "units"])
def test_every_number_of_a_finalist_is_under_the_split_that_it_was_measured_on(cost_in: CostMeasure) -> None:
    tested, untested = load_result(FINISHED).finalists[:2]
    metric, measures = {"length": tested.validation}, ExampleCosts(0.0004, 1.25, 3.5)
    rows = [replace(f, measures=measures, metrics=metric) for f in (tested, replace(untested, test=None))]
    for finalists in (rows, rows[:1]):
        names = [column.header for column in finalist_columns(cost_in, finalists)]
        free = {"", "trial", "shrunk", "units", "validation", "test"}
        assert {name for name in names if not name.endswith((" on test", " on validation"))} <= free
        assert ("units" in names) == (cost_in == "units")
    length = next(column for column in finalist_columns(cost_in, rows) if column.header == "length on test")
    assert [" (on validation)" in length.cell(row) for row in rows] == [False, True]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_title_is_wrapped_at_the_width_of_the_terminal_and_not_of_its_table(width: int) -> None:
    console = VisibleConsole(file=io.StringIO(), width=width)
    title = "Worst case for 4 trials, \x1bbefore caps"
    console.print(table_of(title, [Column("#", str)], ["1"]))
    assert console.file.getvalue().splitlines()[0] == title.replace("\x1b", "\\x1b")  # type: ignore[attr-defined]


def test_an_empty_system_prompt_is_none() -> None:
    result = load_result(FINISHED)
    for prompt, shown in (("", "  answer: no system prompt\n"), ("Be it's.", '  answer: system prompt "Be it\'s."\n')):
        candidate = Candidate.of({"answer": SubtaskChoice("large", 3, prompt)})
        finalists = tuple(replace(finalist, candidate=candidate) for finalist in result.finalists)
        assert shown in printed(replace(result, finalists=finalists))


def test_control_characters_in_lines_and_cells_are_visible() -> None:
    console = VisibleConsole(file=io.StringIO(), width=60)
    table = Table("run \x1b[2J")
    table.add_row("a\x1b[31mb\x07")
    for part in ("c\x1b]0;title\x07", table):
        console.print(part)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert all(text in printed for text in ("c\\x1b]0;title\\x07", "run \\x1b[2J", "a\\x1b[31mb\\x07"))
