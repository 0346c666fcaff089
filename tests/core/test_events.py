"""Events: one class for each, its line in the log, and why a run ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentopt.core import events
from agentopt.core.budget import Budget, Usage
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import BudgetExceeded, NothingEvaluated
from agentopt.core.events import (
    BatchWaiting,
    Event,
    ExampleDone,
    FallbackUsed,
    FileProgress,
    GuidelinesWritten,
    JournalUsed,
    ModelNotice,
    Note,
    NotStored,
    PromptsDone,
    PromptsFellBack,
    PromptsStarted,
    ResponsesIncomplete,
    ResponsesUnparsed,
    RewardDrawn,
    RunDone,
    RunStarted,
    SearchStarted,
    Spent,
    StillRunning,
    Stopping,
    TestDone,
    TestStarted,
    TrialDone,
    TrialStarted,
    broadcast,
    log_to,
)
from agentopt.core.records import Evaluation, ExampleResult, Trial
from agentopt.core.stop_reason import StopKind, StopReason

CANDIDATE = Candidate.of({"answer": SubtaskChoice("small", 3)})
TRIAL = Trial(0, CANDIDATE, Evaluation("validation", 1, (ExampleResult("a", 0.5),), "complete"), "baseline", 1.0)
NOON, LATER = (datetime(2026, 5, 4, hour, tzinfo=UTC) for hour in (12, 15))
SHOWN, SHOWN_LATER = (time.astimezone().strftime("%Y-%m-%d %H:%M") for time in (NOON, LATER))
SPENT = "4 calls, 3,409 prompt + 9 completion tokens, 0.6 USD"
SPENT_BY_JUDGE = "2 calls, 9 prompt + 5 completion tokens, 0.1 USD"
EVERY: list[tuple[Event, str]] = [
    (FileProgress("m.gguf", "https://host", 5_000_000, None), "fetching m.gguf: 5 of 5 MB"),
    (FileProgress("m.gguf", "https://host", 0, 9_000_000), "fetching m.gguf: 0 of 9 MB"),
    (ModelNotice("m", "waiting", "waits 9 s"), "m: waits 9 s"),
    (Stopping(1), "stopping: waiting for 1 call in flight; press Ctrl-C again to end now"),
    (Stopping(3), "stopping: waiting for 3 calls in flight; press Ctrl-C again to end now"),
    (NotStored("the database cannot be reached; not stored: it", 2), "the database cannot be reached; not stored: it"),
    (JournalUsed(1200, NOON, NOON), f"1,200 responses came from the journal, stored {SHOWN}"),
    (JournalUsed(2, NOON, LATER), f"2 responses came from the journal, stored {SHOWN} to {SHOWN_LATER}"),
    (Spent({}), "spent: 0 calls, 0 prompt + 0 completion tokens, 0 USD"),
    (
        Spent({"samples": Usage(2, 3400, 4, 0.5), "judge": Usage(2, 9, 5, 0.1)}),
        f"spent: {SPENT}; of these the judge {SPENT_BY_JUDGE}",
    ),
    (
        ResponsesIncomplete("find", 12, 40, 64),
        "warning: find: 12 of 40 responses so far were cut off at max_tokens 64; raise it if answers are longer",
    ),
    (
        ResponsesIncomplete("find", 12, 40, None),
        "warning: find: 12 of 40 responses so far were cut off at max_tokens; raise it if answers are longer",
    ),
    (
        ResponsesIncomplete("find", 2, 40, 64, 12),
        "warning: find: 12 of 40 responses so far hold only a thought; raise max_tokens 64 or lower reasoning_effort",
    ),
    (
        ResponsesUnparsed("find", 9, 12, "expected a number, got 'x'"),
        "warning: find: no response could be parsed for 9 of 12 examples so far, such as: expected a number, got 'x'",
    ),
    (BatchWaiting("m", "b1", 2000, 7), "m: batch b1: 7 of 2,000 calls are done"),
    (BatchWaiting("m", "b1", 2, 2, has_ended=True), "m: batch b1: has ended"),
    (RunStarted(Path("runs/a")), "run runs/a"),
    (SearchStarted(12, {"validation": 3}, (), Budget()), "12 candidates"),
    (TrialStarted(4, CANDIDATE, "agent"), "trial 4"),
    (ExampleDone(ExampleResult("a", 1.0)), "a"),
    (TrialDone(TRIAL), "trial 0: complete, score 0.500, by baseline"),
    (FallbackUsed("no agent", 2), "no agent; the fallback proposes 2"),
    (FallbackUsed("no agent", 0), "no agent; nothing is left to try"),
    (GuidelinesWritten("more", 4), "guidelines: more"),
    (GuidelinesWritten("", 4), "guidelines: none, because the reply could not be read"),
    (Note("3 prompts raced"), "3 prompts raced"),
    (PromptsStarted("find", "before"), "system prompt of find, before the search"),
    (RewardDrawn("Who?", None), "Who?"),
    (PromptsFellBack("find", "no new prompt"), "find: no new prompt"),
    (PromptsDone("find", "kept"), "system prompt of find: kept"),
    (TestStarted(("baseline", "best"), TRIAL), "testing baseline and best"),
    (TestStarted(("baseline", "best", "recommended"), TRIAL), "testing baseline, best and recommended"),
    (TestDone(("best",), TRIAL, TRIAL.evaluation), "tested best: score 0.500, complete"),
    (StillRunning("trial 0", Usage(1, 3400, 4, 0.5), 119.6), "trial 0 | 1 call, 3,404 tokens, 0.5 USD, 120 s"),
    (
        StillRunning("small: waiting", Usage(), 60, 540),
        "small: waiting | 0 calls, 0 tokens, 0 USD, 60 s, at most 540 s left",
    ),
    (RunDone(Path("runs/a")), "result in runs/a"),
]


def test_every_event_has_a_kind_a_message_and_a_line_in_the_log(tmp_path: Path) -> None:
    kinds = {type(event): type(event).kind for event, _ in EVERY}
    defined = {found for found in vars(events).values() if isinstance(found, type) and issubclass(found, Event)}
    assert set(kinds) == defined - {Event}
    assert len(set(kinds.values())) == len(kinds)
    seen: list[Event] = []
    observe = broadcast(log_to(tmp_path / "log.jsonl"), seen.append)
    for event, message in EVERY:
        assert event.message == message
        observe(event)
    assert seen == [event for event, _ in EVERY]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    unlogged = {ExampleDone, RewardDrawn}
    assert [(line["event"], line["message"]) for line in lines] == [
        (event.kind, message) for event, message in EVERY if type(event) not in unlogged
    ]


@pytest.mark.parametrize(
    ("usd", "unpriced", "ends"),
    [(0.0, ("nano",), "price unknown"), (0.5, ("nano",), "0.5 USD without nano (price unknown)"), (0.0, (), "0 USD")],
)
def test_the_spend_of_models_without_a_price_is_unknown(usd: float, unpriced: tuple[str, ...], ends: str) -> None:
    spent = Spent({"samples": Usage(2, 30, 4, usd)}, unpriced)
    assert spent.message == f"spent: 2 calls, 30 prompt + 4 completion tokens, {ends}"


def test_calls_that_were_all_refused_are_no_spend() -> None:
    assert Spent({"samples": Usage(calls=5)}).message == "spent: nothing (5 calls, none of them answered)"
    assert Spent({"samples": Usage(5, 30, 4)}).message.startswith("spent: 5 calls, ")


@pytest.mark.parametrize(
    ("name", "run_cap", "next_step"),
    [
        ("calls", "calls", "needs up to 2 requests"),
        ("tokens", "tokens", "could use up to 2 tokens"),
        ("agent.usd", None, "could cost up to 2 USD"),
        ("prompts.calls", None, "needs up to 2 requests"),
    ],
)
def test_a_cap_is_data_of_the_reason_why_a_run_ended(name: str, run_cap: str | None, next_step: str) -> None:
    stopped = BudgetExceeded(name, cap=5, spent=4, wanted=2).stopped
    assert (stopped.kind, stopped.cap, stopped.run_cap) == (StopKind.CAP_REACHED, name, run_cap)
    assert str(stopped) == f"the {name} cap of 5 has 1 left, too little for the next call, which {next_step}: 4 spent"
    kept = BudgetExceeded(name, cap=9, spent=4, wanted=2, kept=4)
    assert str(kept.stopped).endswith(f"which {next_step}: 4 spent and 4 kept back for later phases")


@pytest.mark.parametrize("name", ["usd", "tokens", "calls", "seconds"])
def test_a_cap_of_which_nothing_is_left_is_reached(name: str) -> None:
    assert str(BudgetExceeded(name, cap=5, spent=5, wanted=0).stopped) == f"the {name} cap of 5 is reached: 5 spent"
    waiting = BudgetExceeded("seconds", cap=5, spent=4, wanted=2).stopped
    assert (waiting.cap, waiting.run_cap) == ("seconds", "seconds")
    assert str(waiting) == "the seconds cap of 5 is reached: 4 spent, the next wait takes 2 s"


@pytest.mark.parametrize(
    ("name", "kept", "message", "remedy"),
    [
        (
            "usd",
            0,
            "the usd cap of 1 is too low: the first call could cost up to 2 USD",
            "raise budget.usd to 2 or more",
        ),
        (
            "calls",
            0,
            "the calls cap of 1 is too low: the first call needs up to 2 requests",
            "raise budget.calls to 2 or more",
        ),
        (
            "tokens",
            1,
            "the tokens cap of 1 is too low: the first call could use up to 2 tokens beside 1 kept for later phases",
            "raise budget.tokens to 3 or more",
        ),
        (
            "agent.usd",
            0,
            "the agent.usd cap of 1 is too low: the first call could cost up to 2 USD",
            "raise agent.max_usd to 2 or more",
        ),
    ],
)
def test_a_cap_below_the_first_call_is_too_low_and_not_reached(
    name: str, kept: float, message: str, remedy: str
) -> None:
    assert str(BudgetExceeded(name, cap=1, spent=0, wanted=2, kept=kept)) == f"{message}\n  remedy: {remedy}"


def test_a_run_without_a_complete_trial_raises_its_reason_and_its_failures() -> None:
    stopped = StopReason(StopKind.TRIALS_SPENT)
    error = NothingEvaluated(stopped, {"HTTP 401": 8}, first_error="no such key", remedy="fix the cause")
    assert (error.stopped, error.failures) == (stopped, {"HTTP 401": 8})
    assert str(error) == (
        "no candidate could be evaluated on every example: every trial was spent (failed calls: 8 x HTTP 401); "
        "the first error: no such key\n  remedy: fix the cause"
    )
