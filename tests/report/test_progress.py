"""The progress bar by a scripted clock: caps, pace, time left, waits, failures; terminals, notebooks and pipes."""

from __future__ import annotations

import asyncio
import io
import json
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from agentopt import ProgressBar, optimize
from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import CallbackError
from agentopt.core.events import (
    BatchWaiting,
    Event,
    ExampleDone,
    FileProgress,
    ModelNotice,
    Note,
    PromptsDone,
    PromptsStarted,
    RewardDrawn,
    RunDone,
    RunStarted,
    SearchStarted,
    StillRunning,
    Stopping,
    TestStarted,
    TrialDone,
    TrialStarted,
    broadcast,
    log_to,
)
from agentopt.core.plain_text import one_line
from agentopt.core.records import BestSoFar, Evaluation, ExampleResult, Failure, Remaining, SubtaskUse, Trial
from agentopt.report.formatting import format_duration, format_spend
from agentopt.report.progress import RunProgress
from agentopt.report.progress_bar import PLAIN_SECONDS, bar_of, packed
from agentopt.runs.heartbeat import Heartbeat
from agentopt.testing.toy import toy_model, toy_task
from tests.report.pages import settings

CANDIDATE = Candidate.of({"answer": SubtaskChoice("large", 3)})
EXAMPLE, REWARD = ExampleDone(ExampleResult("a", 1.0)), RewardDrawn("a", 1.0)
HOSTILE = "\x1b[2Jline 1\nline 2\r\n\u202eright to left\u2028end\ud83d\x07"
LONG = "organisation/" + "very-long-model-name-" * 12


class Clock:
    """Time that only the test changes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> RunProgress:
    return RunProgress(clock, clock.now)


def trial(number: int) -> Trial:
    results = (ExampleResult("a", 1.0), ExampleResult("b", 0.0))
    return Trial(number, CANDIDATE, Evaluation("validation", 2, results, "complete"), "random", 3.0)


def started(budget: Budget, *trials: Trial, test: int = 2) -> SearchStarted:
    best = BestSoFar(trials[0].number, 0.5) if trials else None
    return SearchStarted(12, {"validation": 2, "test": test}, trials, budget, best)


async def spend(budget: Budget, usage: Usage) -> None:
    budget.settle(await budget.reserve(usage, "search"), usage)


async def pass_trial(progress: RunProgress, clock: Clock, number: int, seconds: float, *, calls: int = 2) -> None:
    progress(TrialStarted(number, CANDIDATE, "random"))
    assert progress.budget
    if calls:
        await spend(progress.budget, Usage(calls=calls))
    clock.seconds += seconds
    progress(TrialDone(trial(number), BestSoFar(0, 0.5)))


async def test_the_spend_against_every_cap_is_shown(progress: RunProgress, clock: Clock) -> None:
    budget = Budget(Caps(2.0, 1_000, 40, 60.0, 8), clock=clock)
    progress(started(budget))
    await spend(budget, Usage(10, 300, 200, 0.25))
    clock.seconds += 5
    await pass_trial(progress, clock, 0, 1, calls=0)
    shown = " | ".join(progress.fields())
    assert "1 of 8 trials" in shown
    assert "10 of 40 calls, 500 of 1,000 tokens, 0.25 of 2 USD, 6 of 60 s" in shown
    assert progress.share == 0.5
    assert [(unit, cap) for unit, _, cap, _ in progress.spend()] == [
        ("trials", 8), ("calls", 40), ("tokens", 1_000), ("USD", 2.0), ("s", 60.0)
    ]  # fmt: skip


async def test_calls_per_second_are_those_of_this_session_and_of_the_last_seconds(
    progress: RunProgress, clock: Clock
) -> None:
    budget = Budget(Caps(), already_spent={"search": Usage(calls=1_000)}, clock=clock)
    progress(started(budget))
    clock.seconds += 10
    await spend(budget, Usage(calls=50))
    progress(ExampleDone(ExampleResult("a", 1.0)))
    assert progress.calls_per_second() == 5.0
    for _ in range(100):  # nothing more is called
        clock.seconds += 1
        progress(ExampleDone(ExampleResult("a", 1.0)))
    assert progress.calls_per_second() == 0.0


async def test_without_caps_there_is_no_bar_and_the_time_left_is_unknown(progress: RunProgress, clock: Clock) -> None:
    assert progress.fields() == ["preparing"]
    progress(started(Budget(clock=clock)))
    await pass_trial(progress, clock, 0, 2)
    assert progress.share is None
    assert progress.fields()[0] == "1 trial"
    assert progress.fields()[-1] == "time left unknown"
    json.dumps(progress.snapshot())


async def test_trials_of_earlier_sessions_count_right_after_a_resume(progress: RunProgress, clock: Clock) -> None:
    clock.seconds = 7.0  # this session's time before the search does not count
    budget = Budget(Caps(trials=10), already_spent={"search": Usage(calls=8)}, seconds_before=40.0, clock=clock)
    clock.seconds = 9.0
    progress = RunProgress(clock, clock.now)
    progress(started(budget, *map(trial, range(4))))
    assert progress.fields()[0] == "4 of 10 trials"
    assert progress.time_left() == "about 1 min 34 s left"  # 42 s for 4 trials: 6 trials and 3 tests are left
    await pass_trial(progress, clock, 3, 1)  # an incomplete trial is continued under its number
    assert progress.trials == 4
    assert progress.time_left() == "about 9 s left"


@pytest.mark.parametrize(("calls", "responses", "is_free"), [(0, 3, True), (1, 3, False), (0, 0, False)])
async def test_a_trial_whose_responses_were_all_in_the_journal_is_named(
    progress: RunProgress, clock: Clock, calls: int, responses: int, is_free: bool
) -> None:
    free = "no calls: the journal had all responses of this trial"
    progress(started(Budget(Caps(trials=3), clock=clock)))
    await pass_trial(progress, clock, 0, 1)
    assert free not in progress.fields()
    progress(TrialStarted(1, CANDIDATE, "random"))
    assert progress.budget
    await spend(progress.budget, Usage(calls=calls))
    progress(ExampleDone(ExampleResult("a", 1.0, subtasks={"answer": SubtaskUse(responses=responses)})))
    progress(TrialDone(trial(1), BestSoFar(0, 0.5)))
    assert (free in progress.fields()) is is_free
    progress(TrialStarted(2, CANDIDATE, "random"))
    assert free not in progress.fields()


async def test_no_time_left_is_estimated_once_every_trial_was_spent(progress: RunProgress, clock: Clock) -> None:
    progress(started(Budget(Caps(trials=2, seconds=900.0), clock=clock)))
    await pass_trial(progress, clock, 0, 10)
    assert progress.fields()[-1] == progress.time_left() != ""
    await pass_trial(progress, clock, 1, 10)
    assert progress.time_left() == progress.snapshot()["left"] == ""
    assert all(progress.fields())


async def test_the_first_trial_in_which_models_are_opened_shows_no_pace_once_there_is_another(
    progress: RunProgress, clock: Clock
) -> None:
    progress(started(Budget(Caps(trials=5), clock=clock), test=0))
    await pass_trial(progress, clock, 0, 20)
    assert progress.time_left() == "about 1 min 20 s left"
    await pass_trial(progress, clock, 1, 2)
    assert progress.time_left() == "about 6 s left"


@pytest.mark.parametrize("caps", [Caps(trials=2), Caps(trials=2, seconds=30.0), Caps(seconds=30.0), Caps(trials=1)])
async def test_the_time_left_is_never_negative(progress: RunProgress, clock: Clock, caps: Caps) -> None:
    progress(started(Budget(caps, clock=clock)))
    for number in range(4):  # more than the cap: trials that are completed later
        await pass_trial(progress, clock, number, 2, calls=0 if number else 2)  # the time may be up after the first
        progress(PromptsStarted("answer", "after"))
        clock.seconds += 500
        assert "-" not in progress.time_left()
        progress(PromptsDone("answer", "nothing is better"))
        assert "-" not in progress.time_left()


async def test_the_time_left_falls_during_a_trial_and_not_past_its_estimate(
    progress: RunProgress, clock: Clock
) -> None:
    progress(started(Budget(Caps(trials=3), clock=clock), test=0))
    await pass_trial(progress, clock, 0, 10)
    assert progress.time_left() == "about 20 s left"
    progress(TrialStarted(1, CANDIDATE, "random"))
    clock.seconds += 4
    assert progress.time_left() == "about 16 s left"
    clock.seconds += 1_000
    assert progress.time_left() == "about 10 s left"


@pytest.mark.parametrize("seconds", [None, 90.0])
async def test_trials_without_calls_show_no_pace(progress: RunProgress, clock: Clock, seconds: float | None) -> None:
    progress(started(Budget(Caps(trials=6, seconds=seconds), clock=clock), test=0))
    for number in range(2):  # of the journal's answers, such as those of the measured baseline
        await pass_trial(progress, clock, number, 1, calls=0)
        bound = f"at most 1 min {29 - number} s left"
        assert progress.time_left() == ("time left unknown" if seconds is None else bound)
    await pass_trial(progress, clock, 2, 10)
    assert progress.time_left() == "about 30 s left"
    await pass_trial(progress, clock, 3, 0, calls=0)
    assert progress.time_left() == "about 20 s left"


def test_trials_of_earlier_sessions_without_calls_show_no_pace(clock: Clock) -> None:
    budget = Budget(Caps(trials=10), seconds_before=2.0, clock=clock)
    progress = RunProgress(clock, clock.now)
    progress(started(budget, trial(0)))
    assert progress.time_left() == "time left unknown"


@pytest.mark.parametrize("caps", [Caps(trials=3), Caps(seconds=30.0), Caps()])
async def test_no_time_is_left_at_the_end(progress: RunProgress, clock: Clock, caps: Caps) -> None:
    progress(started(Budget(caps, clock=clock)))
    await pass_trial(progress, clock, 0, 10)
    progress(RunDone(Path("runs/a")))
    assert progress.fields()[-1] == progress.snapshot()["left"] == "finished"


def test_waits_have_their_end(progress: RunProgress, clock: Clock) -> None:
    progress(started(Budget(clock=clock)))
    progress(ModelNotice("m", "waiting", "the provider requests to wait 90 s (HTTP 429)", 90.0))
    progress(BatchWaiting("b", "batch-1", 20, 5))
    progress(BatchWaiting("b", "batch-2", 10))
    progress(FileProgress("weights.gguf", "https://example.org", 25_000_000, 100_000_000))
    assert progress.waits() == [
        "waiting for m until 00:01:30 (1 min 30 s): the provider requests to wait 90 s (HTTP 429)",
        "waiting in batches of b: 25 calls",
        "waiting for a download: fetching weights.gguf: 25 of 100 MB",
    ]
    clock.seconds += 91
    progress(BatchWaiting("b", "batch-1", 20, 20, has_ended=True))
    progress(BatchWaiting("b", "batch-2", 10, 10, has_ended=True))
    progress(FileProgress("weights.gguf", "https://example.org", 100_000_000, 100_000_000))
    assert progress.waits() == []


@pytest.mark.parametrize(
    "result",
    [
        ExampleResult("row\n1", None, error=HOSTILE),
        ExampleResult("a", None, error="call", failure=Failure(f"HTTP 500{HOSTILE}", "example", HOSTILE * 100)),
        ExampleResult("a", 0.0, failure=Failure("timeout", "example", HOSTILE)),
    ],
)
def test_the_last_failure_is_one_line_without_control_characters(progress: RunProgress, result: ExampleResult) -> None:
    progress(ExampleDone(ExampleResult("first", None, error="an earlier reason")))
    progress(ExampleDone(result))
    (shown,) = progress.fields()[1:]
    assert shown.startswith("2 failed examples, the last: ")
    assert "earlier" not in shown
    assert len(shown) < 300
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c == "\u202e"]
    assert r"\x1b[2J" in shown


def test_one_line_escapes_and_truncates() -> None:
    assert one_line("a\tb\nc") == r"a\tb\nc"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("abcd", 4) == "abcd"


def events_of_long_names(clock: Clock) -> list[Event]:
    long = Candidate.of({"answer": SubtaskChoice(LONG, 3)})
    return [
        RunStarted(Path("runs/a")),
        started(Budget(Caps(usd=1.0, trials=5), clock=clock)),
        TrialStarted(0, long, "random"),
        ModelNotice(LONG, "waiting", "the provider requests to wait 9 s (HTTP 429)", 9.0),
        ExampleDone(ExampleResult("模型" * 60, None, error=HOSTILE)),
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_status_is_no_wider_than_the_terminal(clock: Clock, width: int) -> None:
    bar = ProgressBar(Console(file=io.StringIO(), width=width), clock)
    for event in events_of_long_names(clock):
        bar(event)
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(bar._status())
    lines = output.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= 12
    assert lines[1].startswith("──")


def test_a_terminal_shows_the_status_and_keeps_the_lines_of_trials(clock: Clock) -> None:
    output = io.StringIO()
    with ProgressBar(Console(file=output, width=40, force_terminal=True, color_system=None), clock) as bar:
        for event in (*events_of_long_names(clock), TrialDone(trial(0), BestSoFar(0, 0.5))):
            bar(event)
    assert "trial 0: complete" in output.getvalue()
    assert "1 failed example, the last: " in output.getvalue()


def test_elsewhere_a_line_is_printed_now_and_then(clock: Clock) -> None:
    output = io.StringIO()
    with ProgressBar(Console(file=output, width=300), clock) as bar:
        bar(started(Budget(Caps(trials=2), clock=clock)))
        bar(TrialStarted(0, CANDIDATE, "random"))
        for _ in range(6):
            clock.seconds += PLAIN_SECONDS / 2
            bar(ExampleDone(ExampleResult("a", 1.0)))
        bar(Note(f"a note {HOSTILE}"))
        bar(RunDone(Path("runs/a")))
    first, *between, note = output.getvalue().split("\n")[:5]
    assert first == "12 candidates"
    assert [line.split(" | ")[0] for line in between] == [
        f"trial 0: answer: large x3 ({n} examples done)" for n in (2, 4, 6)
    ]
    assert "\x1b" not in note


@pytest.mark.parametrize(
    ("activity", "ended", "line"),
    [
        (TrialStarted(0, CANDIDATE, "random"), EXAMPLE, "trial 0: answer: large x3 (2 examples done)"),
        (PromptsStarted("answer", "before"), REWARD, "system prompt of answer, before the search (2 rewards done)"),
        (
            Note("1 system prompt raced, 16 responses"),
            REWARD,
            "1 system prompt raced, 16 responses; 2 rewards done since",
        ),
        (ModelNotice("m", "waiting", "HTTP 429"), EXAMPLE, "m: HTTP 429; 2 examples done since"),
        (Stopping(4), EXAMPLE, Stopping(4).message),
        (Stopping(4), REWARD, Stopping(4).message),
    ],
)
def test_what_is_done_is_counted_beside_what_it_is_of(clock: Clock, activity: Event, ended: Event, line: str) -> None:
    progress = RunProgress(clock)
    for event in (started(Budget(Caps(), clock=clock)), activity, ended, ended):
        progress(event)
    assert progress.activity_line == line


def test_no_number_is_shown_beside_what_is_reported_while_the_run_stops(clock: Clock) -> None:
    progress = RunProgress(clock)
    for event in (started(Budget(Caps(), clock=clock)), Stopping(4), Note("a note"), EXAMPLE):
        progress(event)
    assert progress.activity_line == "a note"


@pytest.mark.parametrize(("cap", "field"), [(1, "0 of 1 trial"), (2, "0 of 2 trials"), (None, "0 trials")])
def test_one_is_no_plural(clock: Clock, cap: int | None, field: str) -> None:
    progress = RunProgress(clock)
    progress(RunStarted(Path("runs/a"), Budget(Caps(trials=cap), clock=clock)))
    assert progress.fields()[0] == field


def test_packed_fields_share_lines_as_far_as_they_fit() -> None:
    assert packed(["ab", "cd", "efgh", "i" * 20], 10) == ["ab | cd", "efgh", "i" * 20]
    assert packed([], 10) == []
    assert (bar_of(0, 4), bar_of(0.5, 4), bar_of(1, 4)) == ("────", "━━──", "━━━━")


def test_a_run_in_a_notebook_replaces_one_text(tmp_path: Path) -> None:
    shown: list[str] = []
    console = Console(file=io.StringIO(), width=300)
    with ProgressBar(console, show=shown.append) as bar:
        optimize(toy_task(), settings(tmp_path, trials=3), provider=toy_model(), callbacks=[bar])
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert shown[-1].splitlines()[0].startswith("result in ")
    assert "3 of 3 trials" in shown[-1]


@pytest.mark.parametrize(
    ("seconds", "cap", "shown"),
    [(1.857, 1, "1 of 1 s"), (0.42, 1, "0.4 of 1 s"), (64.4, 60.0, "60 of 60 s"), (1.857, None, "2 s")],
)
def test_no_more_time_than_the_cap_is_shown(seconds: float, cap: float | None, shown: str) -> None:
    assert format_spend(Usage(), seconds, Caps(seconds=cap)).endswith(f"USD, {shown}")


class Sleeps:
    """Sleeps that end when the test lets them, and advance the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.waiting = clock, asyncio.Queue[asyncio.Event]()

    async def __call__(self, seconds: float) -> None:
        end = asyncio.Event()
        await self.waiting.put(end)
        await end.wait()
        self.clock.seconds += seconds

    async def end(self) -> None:
        """Let the present sleep end, and wait for the next one."""
        (await self.waiting.get()).set()
        next_one = await self.waiting.get()
        await self.waiting.put(next_one)


async def test_a_pipe_and_the_log_have_a_line_a_minute_while_nothing_else_happens(tmp_path: Path, clock: Clock) -> None:
    output, log, sleeps = io.StringIO(), tmp_path / "log.jsonl", Sleeps(clock)
    budget = Budget(Caps(trials=2, calls=100, seconds=600), clock=clock)
    with ProgressBar(Console(file=output, width=300), clock) as bar:
        beat = Heartbeat(broadcast(log_to(log), bar), sleeps)
        async with beat.beating(budget):
            beat(RunStarted(Path("runs/a"), budget))
            beat(Note("measuring token lengths"))
            await sleeps.end()
            beat(ModelNotice("small", "waiting", "the endpoint requests a wait", seconds=90.0))
            await sleeps.end()
            beat(started(budget))
            beat(TrialStarted(0, CANDIDATE, "baseline"))
            beat(ExampleDone(ExampleResult("a", 1.0)))
            await sleeps.end()
    run, note, first, _, second, search, third = output.getvalue().splitlines()
    assert (run, note, search) == ("run runs/a", "measuring token lengths", "12 candidates")
    spend = "0 of 100 calls, 0 tokens, 0 USD, {} of 600 s | 0.0 calls/s"
    head = "0 of 2 trials | no score yet | "
    assert first == (f"measuring token lengths | {head}{spend.format(60)} | at most 9 min 0 s left")
    assert second.startswith(f"small: the endpoint requests a wait | {head}{spend.format(120)}")
    assert "waiting for small until" in second
    assert third.startswith(f"trial 0: answer: large x3 (1 example done) | {head}{spend.format(180)}")
    logged = [json.loads(line)["message"] for line in log.read_text().splitlines() if "still_running" in line]
    assert logged == [
        "measuring token lengths | 0 calls, 0 tokens, 0 USD, 60 s, at most 540 s left",
        "small: the endpoint requests a wait | 0 calls, 0 tokens, 0 USD, 120 s, at most 480 s left",
        "trial 0 | 0 calls, 0 tokens, 0 USD, 180 s, at most 420 s left",
    ]


async def test_a_terminal_and_a_notebook_show_no_further_line(clock: Clock) -> None:
    shown: list[str] = []
    with ProgressBar(Console(file=io.StringIO()), clock, show=shown.append) as bar:
        bar(Note("a note"))
        bar(StillRunning("a note", Usage(), 60))
    assert [text.splitlines()[0] for text in shown] == ["a note"] * 3


async def test_a_callback_that_fails_on_a_report_fails_the_run_at_its_end() -> None:
    def fail(event: Event) -> None:
        raise CallbackError("planted")

    ended: list[bool] = []

    async def run() -> None:
        async with Heartbeat(fail, lambda seconds: asyncio.sleep(0)).beating(Budget()):
            for _ in range(3):
                await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(CallbackError, match="planted"):
        await run()
    assert ended


def test_a_run_that_measures_its_baseline_reports_it_first(tmp_path: Path) -> None:
    task = toy_task()
    unmeasured = replace(task, subtasks=tuple(replace(subtask, tokens=None) for subtask in task.subtasks))
    output = io.StringIO()
    with ProgressBar(Console(file=output, width=300)) as bar:
        optimize(unmeasured, settings(tmp_path, trials=1), provider=toy_model(), callbacks=[bar])
    lines = output.getvalue().splitlines()
    rows = len(task.splits["validation"])
    measuring = lines.index(f"measuring token lengths: the baseline runs on {rows} validation examples")
    assert measuring < next(place for place, line in enumerate(lines) if line.startswith("trial 0:"))


@pytest.mark.parametrize("seconds", [None, 90.0])
async def test_no_pace_of_trials_is_shown_once_a_call_waited_in_a_batch(
    progress: RunProgress, clock: Clock, seconds: float | None
) -> None:
    progress(started(Budget(Caps(trials=4, seconds=seconds), clock=clock)))
    progress(BatchWaiting("b", "batch-1", 20, 20, has_ended=True))
    await pass_trial(progress, clock, 0, 1)
    bound = "time left unknown: calls wait in batches"
    assert progress.time_left() == (bound if seconds is None else "at most 1 min 29 s left")


@pytest.mark.parametrize("sizes", [(100,), (50, 100), (10, 99, 100)])
def test_a_download_is_not_the_activity_after_its_end(progress: RunProgress, sizes: tuple[int, ...]) -> None:
    progress(Note("measuring token lengths"))
    for done in sizes:
        progress(FileProgress("a.gguf", "https://example.org", done, 100))
        assert progress.activity.startswith("fetching a.gguf") is (done < 100)
    assert progress.activity == "measuring token lengths"


def test_a_download_beside_another_one_is_the_activity_until_both_end(progress: RunProgress) -> None:
    for file, done in (("a", 10), ("b", 10), ("a", 100)):
        progress(FileProgress(file, "https://example.org", done, 100))
    assert progress.activity.startswith("fetching")
    progress(FileProgress("b", "https://example.org", 100, 100))
    assert progress.activity == "starting"


async def end_trial(
    progress: RunProgress, clock: Clock, number: int, seconds: float, remaining: Remaining, *, calls: int = 2
) -> None:
    progress(TrialStarted(number, CANDIDATE, "random"))
    assert progress.budget
    await spend(progress.budget, Usage(calls=calls))
    clock.seconds += seconds
    progress(TrialDone(trial(number), BestSoFar(0, 0.5), remaining))


async def test_trials_of_the_journals_responses_are_estimated_at_their_own_pace(
    progress: RunProgress, clock: Clock
) -> None:
    progress(started(Budget(Caps(trials=9), clock=clock), test=0))
    await end_trial(progress, clock, 0, 60, Remaining(8, 4.0, 1))
    assert progress.time_left() == "about 4 min 0 s left"
    await end_trial(progress, clock, 1, 60, Remaining(7, 3.0, 1))
    await end_trial(progress, clock, 2, 5, Remaining(6, 2.0, 1), calls=0)
    assert progress.time_left() == "about 2 min 20 s left"


async def test_the_start_of_the_search_is_not_expected_of_each_trial(progress: RunProgress, clock: Clock) -> None:
    progress(started(Budget(Caps(trials=5), clock=clock), test=0))
    await pass_trial(progress, clock, 0, 10)
    clock.seconds += 100  # the first proposal loads libraries
    await pass_trial(progress, clock, 1, 10)
    assert progress.time_left() == "about 30 s left"
    clock.seconds += 3
    await pass_trial(progress, clock, 2, 10)
    assert progress.time_left() == "about 26 s left"


@pytest.mark.parametrize(("at_once", "seconds"), [(1, 20 + 2 * 40), (8, 20 + 2 * 20), (16, 20 + 2 * 10)])
async def test_the_test_takes_as_long_as_a_trial_while_all_its_calls_run_at_once(
    progress: RunProgress, clock: Clock, at_once: int, seconds: float
) -> None:
    budget = Budget(Caps(trials=9), clock=clock)
    progress(replace(started(budget), examples={"validation": 4, "test": 16}, concurrency=at_once))
    await end_trial(progress, clock, 0, 10, Remaining(2, 2.0, 2))
    assert progress.time_left() == f"about {format_duration(seconds)} left"


async def test_nothing_is_estimated_once_the_test_began_or_every_candidate_was_tried(
    progress: RunProgress, clock: Clock
) -> None:
    progress(replace(started(Budget(Caps(trials=50), clock=clock)), allocations=2))
    await pass_trial(progress, clock, 0, 10)
    assert progress.time_left().startswith("about ")
    await pass_trial(progress, clock, 1, 10)
    assert progress.time_left() == ""
    other = RunProgress(clock, clock.now)
    other(started(Budget(Caps(trials=50), clock=clock)))
    await pass_trial(other, clock, 0, 10)
    other(TestStarted(("baseline",), trial(0)))
    assert other.time_left() == ""


@pytest.mark.parametrize(
    ("spent", "caps", "shown"),
    [
        (Usage(calls=1), Caps(), "1 call, 0 tokens, 0 USD, 0 s"),
        (Usage(calls=2, completion_tokens=1), Caps(), "2 calls, 1 token, 0 USD, 0 s"),
        (Usage(calls=1), Caps(calls=20), "1 of 20 calls, 0 tokens, 0 USD, 0 s"),
    ],
)
def test_the_spend_is_plain_english(spent: Usage, caps: Caps, shown: str) -> None:
    assert format_spend(spent, 0.0, caps) == shown
