"""The progress of a run, from its events: spend against every cap, best score, pace, time left, waits, failures."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from agentopt.core.budget import Budget
from agentopt.core.events import (
    BatchWaiting,
    Event,
    ExampleDone,
    FileProgress,
    GuidelinesWritten,
    ModelNotice,
    Note,
    NotStored,
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
)
from agentopt.core.message_text import counted, plain_number
from agentopt.core.plain_text import one_line
from agentopt.core.records import BestSoFar, ExampleResult, Remaining
from agentopt.core.usd_text import format_usd
from agentopt.report.formatting import format_duration, format_seconds, format_spend
from agentopt.runs.worst_case import FINALISTS

PACE_SECONDS = 30.0
"""Calls per second are the mean over this many seconds."""

MOST_OF_A_REASON = 200
"""Characters of the last failure's reason that are shown."""


def local_time() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC).astimezone()


def _mean(seconds: Sequence[float]) -> float:
    return sum(seconds) / max(len(seconds), 1)


@dataclass
class RunProgress:
    """An observer that keeps what a progress display shows; it prints nothing.

    Attributes:
        clock: Seconds, from any start.
        now: The local time, for the ends of waits.
    """

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = local_time
    activity: str = "starting"
    """What the run does now, in one line."""
    examples: int = 0
    """Examples, or rewards, that ended since the last other event."""
    _ended: str = "example"
    """What `examples` counts."""
    _is_counted: bool = True
    """Whether the activity is what they are of; otherwise they ended after something that was reported meanwhile."""
    budget: Budget | None = None
    """The live budget of the run; None before it has one."""
    _search: SearchStarted | None = None
    _trials: set[int] = field(default_factory=set)
    _best: BestSoFar | None = None
    _seconds_before: float = 0.0
    """Seconds of earlier sessions; 0 if these made no calls, which shows no pace."""
    _trials_since: float | None = None
    """Start of this session's first trial: what comes before, such as a download, does not count for the pace."""
    _prompt_seconds: float = 0.0
    """Seconds spent on prompts since the last trial, which do not count for the pace of trials."""
    _prompts_since: float = 0.0
    _trial_start: float = 0.0
    _trial_end: float | None = None
    """End of this session's last trial."""
    _gaps: list[float] = field(default_factory=list)
    """Seconds from the end of a trial to the start of the next one, prompts left out."""
    _calls_before: int = 0
    """Calls before the present trial."""
    _responses_before: int = 0
    """Responses of examples before the present trial."""
    _was_free: bool = False
    """Whether the last trial had all of its responses in the journal, and the next one has not begun."""
    _paces: list[float] = field(default_factory=list)
    """Seconds of this session's trials that made calls."""
    _free: list[float] = field(default_factory=list)
    """Seconds of those that had all responses in the journal."""
    _remaining: Remaining | None = None
    _is_testing: bool = False
    _calls: deque[tuple[float, int]] = field(default_factory=deque)
    """(clock, calls so far) of the last seconds."""
    _responses: int = 0
    _cut_off: int = 0
    _failed: int = 0
    _failure: str | None = None
    _batches: dict[str, BatchWaiting] = field(default_factory=dict)
    """Open batches by their ids."""
    _is_batched: bool = False
    """Whether a call waited in a batch: how long the next one takes is not known."""
    _paused: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Model -> the end of its wait by `clock`, and its reason."""
    _downloads: dict[str, FileProgress] = field(default_factory=dict)
    _before_download: str = "starting"
    _has_ended: bool = False
    _is_stopping: bool = False
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def __call__(self, event: Event) -> None:
        match event:
            case ExampleDone():
                self.examples, self._ended = self.examples + 1, "example"
                self._count(event.result)
            case RewardDrawn():
                self.examples, self._ended = self.examples + 1, "reward"
            case RunStarted():
                self.budget = event.budget
            case StillRunning():  # the activity is that of the events before it
                pass
            case BatchWaiting():
                self._batches[event.batch], self._is_batched = event, True
                if event.has_ended:
                    del self._batches[event.batch]
            case _:
                self.examples = 0
                self._is_counted = isinstance(event, TrialStarted | TestStarted | PromptsStarted)
                self._is_stopping = self._is_stopping or isinstance(event, Stopping)
                self._note(event)
        self._sample()

    def _count(self, result: ExampleResult) -> None:
        for use in result.subtasks.values():
            self._responses += use.responses
            self._cut_off += use.cut_off + use.filtered
        if result.failure or result.error is not None:
            reason = f"{result.failure.kind}: {result.failure.reason}" if result.failure else result.error
            self._failed += 1
            self._failure = one_line(f"{result.id}: {reason}", MOST_OF_A_REASON)

    def _note(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self._begin(event)
            case TrialStarted():
                self.activity = one_line(f"{event.message}: {event.candidate}")
                self._calls_before, self._responses_before = self._calls_so_far(), self._responses
                self._begin_trial()
            case TrialDone():
                self._trials.add(event.trial.number)
                self._best, self._remaining = event.best, event.remaining
                self._end_trial()
            case PromptsDone():
                self._prompt_seconds += self.clock() - self._prompts_since
            case PromptsStarted():
                self._prompts_since = self.clock()
                self.activity = one_line(event.message)
            case ModelNotice():
                self._notice(event)
            case FileProgress():
                self._fetch(event)
            case GuidelinesWritten() | Note() | TestStarted() | Stopping() | NotStored() | RunDone():
                self.activity = one_line(event.message)
                self._is_testing = self._is_testing or isinstance(event, TestStarted)
                self._has_ended = isinstance(event, RunDone)

    def _begin(self, event: SearchStarted) -> None:
        self._search, self._best, self.budget = event, event.best, event.budget
        self._trials = {trial.number for trial in event.trials}
        if self._calls_so_far():
            self._seconds_before = max(0.0, event.budget.seconds - (self.clock() - self._started))

    def _calls_so_far(self) -> int:
        return self.budget.spent.calls if self.budget else 0

    def _begin_trial(self) -> None:
        self._trial_start = self.clock()
        if self._trials_since is None:
            self._trials_since = self._trial_start
        elif self._trial_end is not None:
            self._gaps.append(max(0.0, self._trial_start - self._trial_end - self._prompt_seconds))
        self._prompt_seconds, self._was_free = 0.0, False

    def _end_trial(self) -> None:
        """Note the seconds of the trial, apart from each other those with and without calls."""
        made_calls = self._calls_so_far() > self._calls_before
        self._was_free = not made_calls and self._responses > self._responses_before
        (self._paces if made_calls else self._free).append(self.clock() - self._trial_start)
        self._trial_end, self._prompt_seconds = self.clock(), 0.0

    def _notice(self, event: ModelNotice) -> None:
        self.activity = one_line(event.message)
        if event.topic == "waiting" and event.seconds is not None:
            self._paused[event.model] = (self.clock() + event.seconds, event.detail)

    def _fetch(self, event: FileProgress) -> None:
        if not any(self._fetching()):
            self._before_download = self.activity
        self._downloads[event.file] = event
        self.activity = one_line(event.message) if any(self._fetching()) else self._before_download

    def _sample(self) -> None:
        """Remember the calls so far, for the pace."""
        if self.budget is None:
            return
        now, calls = self.clock(), self._calls_so_far()
        if len(self._calls) > 1 and self._calls[-2][0] == now:
            self._calls.pop()
        self._calls.append((now, calls))
        while len(self._calls) > 2 and self._calls[1][0] < now - PACE_SECONDS:
            self._calls.popleft()

    @property
    def activity_line(self) -> str:
        """The activity, with the number of examples or rewards that ended meanwhile; without it while the run stops."""
        if not self.examples or self._is_stopping:
            return self.activity
        done = f"{counted(self.examples, self._ended)} done"
        return f"{self.activity} ({done})" if self._is_counted else f"{self.activity}; {done} since"

    @property
    def trials(self) -> int:
        """Trials of all sessions."""
        return len(self._trials)

    @property
    def share(self) -> float | None:
        """The share of the cap that is used most, from 0 to 1; None without a cap."""
        shares = [min(1.0, used / cap) for _, used, cap, _ in self.spend() if cap]
        return max(shares, default=None)

    def spend(self) -> list[tuple[str, float, float | None, str]]:
        """Unit, amount, cap (None without one) and text of trials, calls, tokens, USD and seconds."""
        budget = self.budget
        if budget is None:
            return []
        caps, spent = budget.caps, budget.spent
        amounts = (
            ("trials", self.trials, caps.trials, f"{self.trials:,}"),
            ("calls", spent.calls, caps.calls, f"{spent.calls:,}"),
            ("tokens", spent.tokens, caps.tokens, f"{spent.tokens:,}"),
            ("USD", spent.usd, caps.usd, format_usd(spent.usd)),
            ("s", budget.seconds, caps.seconds, format_seconds(budget.seconds, caps.seconds)),
        )
        return [
            (unit, used, cap, text if cap is None else f"{text} of {plain_number(cap, ',')}")
            for unit, used, cap, text in amounts
        ]

    def fields(self) -> list[str]:
        """The parts of the progress line, the most important first."""
        budget = self.budget
        if budget is None:
            return ["preparing", *self.waits(), *self._problems()]
        cap = budget.caps.trials
        return [
            counted(self.trials, "trial") if cap is None else f"{self.trials} of {counted(cap, 'trial')}",
            self._best_score(),
            format_spend(budget.spent, budget.seconds, budget.caps),
            f"{self.calls_per_second():.1f} calls/s",
            *(["no calls: the journal had all responses of this trial"] if self._was_free else []),
            *self.waits(),
            *self._problems(),
            *filter(None, (self.time_left(),)),
        ]

    def _best_score(self) -> str:
        return f"best shrunk score {self._best.score:.3f} (trial {self._best.trial})" if self._best else "no score yet"

    def _problems(self) -> Iterator[str]:
        if self._cut_off:
            yield f"{self._cut_off:,} of {counted(self._responses, 'response')} cut off"
        if self._failure:
            yield f"{counted(self._failed, 'failed example')}, the last: {self._failure}"

    def calls_per_second(self) -> float:
        """Mean over the last `PACE_SECONDS`, of this session's calls only."""
        if not self.budget or not self._calls:
            return 0.0
        since, calls = self._calls[0]
        return max(0, self._calls_so_far() - calls) / max(self.clock() - since, 1.0)

    def waits(self) -> list[str]:
        """What calls wait for: a pause that a provider requested, batches, downloads."""
        return [*self._pauses(), *self._in_batches(), *self._fetching()]

    def _pauses(self) -> Iterator[str]:
        for model, (end, detail) in list(self._paused.items()):
            left = end - self.clock()
            if left > 0:
                until = (self.now() + timedelta(seconds=left)).strftime("%H:%M:%S")
                yield one_line(f"waiting for {model} until {until} ({format_duration(left)}): {detail}")

    def _in_batches(self) -> Iterator[str]:
        left: Counter[str] = Counter()
        for event in list(self._batches.values()):
            left[event.model] += event.calls - event.done
        for model, number in left.items():
            yield one_line(f"waiting in batches of {model}: {counted(number, 'call')}")

    def _fetching(self) -> Iterator[str]:
        for event in list(self._downloads.values()):
            if not event.has_ended:
                yield one_line(f"waiting for a download: {event.message}")

    def time_left(self) -> str:
        """The estimated time of the trials that are left and of the test, at the pace of the trials so far.

        At the end of the run, that it is finished; nothing once every trial was spent. With batches, and before a trial
        made calls, no pace is known. Without a cap on trials, only a cap on seconds bounds the rest.
        """
        assert self.budget
        if self._has_ended:
            return "finished"
        bound, cap = self.budget.seconds_left, self.budget.caps.trials
        if self._is_testing or (cap is not None and self.trials >= self._most_trials(cap)):
            return ""
        pace = self._pace()
        if cap is None or pace is None or self._is_batched:
            why = ": calls wait in batches" if self._is_batched else ""
            within = f"at most {format_duration(bound)} left" if bound else "no time left"
            return f"time left unknown{why}" if bound is None else within
        left = self._seconds_left(self._remaining or self._assumed(cap), pace)
        return f"about {format_duration(left if bound is None else min(left, bound))} left"

    def _seconds_left(self, remaining: Remaining, pace: float) -> float:
        """Seconds of the trials, of what is between them, and of the test."""
        assert self._search
        # The first gap has the start of the search: its libraries are loaded.
        in_trials = remaining.calling * pace + (remaining.trials - remaining.calling) * _mean(self._free)
        in_trials += remaining.trials * _mean(self._gaps[1:])
        # The present trial counts as at least begun: its own time is subtracted up to that of a whole trial.
        in_trials -= min(self.clock() - self._last_end(), in_trials / max(remaining.trials, 1))
        examples, at_once = self._search.examples, self._search.concurrency
        # Examples run concurrently, so that fewer of them than calls may be made at once take as long.
        share = max(examples.get("test", 0), at_once) / max(examples["validation"], at_once)
        return in_trials + (remaining.finalists * share * pace if examples.get("test") else 0.0)

    def _most_trials(self, cap: int) -> int:
        return min(cap, self._search.allocations) if self._search else cap

    def _assumed(self, cap: int) -> Remaining:
        """The rest of the run before the first trial of a session has ended: each trial makes calls."""
        left = self._most_trials(cap) - self.trials
        return Remaining(left, left, min(FINALISTS, cap))

    def _last_end(self) -> float:
        since = self._trials_since if self._trial_end is None else self._trial_end
        return self.clock() if since is None else since

    def _pace(self) -> float | None:
        """Seconds of a trial that made calls: of this session, or of the earlier ones before its first; else None."""
        if self._paces:
            return _mean(self._paces[1:] or self._paces)  # in the first trial, models and connections are opened
        return self._seconds_before / self.trials if self._seconds_before and self.trials else None

    def snapshot(self) -> dict[str, Any]:
        """The progress as plain data for JSON."""
        return {
            "activity": self.activity_line,
            "spend": [[unit, used, cap, text] for unit, used, cap, text in self.spend()],
            "best": self._best_score() if self.budget else "",
            "pace": f"{self.calls_per_second():.1f} calls/s" if self.budget else "",
            "left": self.time_left() if self.budget else "",
            "waits": self.waits(),
            "problems": list(self._problems()),
        }
