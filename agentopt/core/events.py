"""Events of a run: one frozen dataclass for each, for the live view, `log.jsonl` and callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from agentopt.core.budget import Budget, Usage
from agentopt.core.candidate import Candidate
from agentopt.core.message_text import counted, in_words
from agentopt.core.observers import Event as Event  # the names of `agentopt.events` are all here
from agentopt.core.observers import Observer as Observer
from agentopt.core.observers import broadcast as broadcast
from agentopt.core.observers import log_to as log_to
from agentopt.core.observers import of_callbacks as of_callbacks
from agentopt.core.prompt_events import PromptsDone as PromptsDone
from agentopt.core.prompt_events import PromptsFellBack as PromptsFellBack
from agentopt.core.prompt_events import PromptsStarted as PromptsStarted
from agentopt.core.prompt_events import RewardDrawn as RewardDrawn
from agentopt.core.records import BestSoFar, Evaluation, ExampleResult, Remaining, Split, Trial
from agentopt.core.response_events import ResponsesIncomplete as ResponsesIncomplete
from agentopt.core.response_events import ResponsesUnparsed as ResponsesUnparsed
from agentopt.core.still_running import StillRunning as StillRunning
from agentopt.core.usd_text import usd_in_words


@dataclass(frozen=True, slots=True)
class FileProgress(Event):
    """A model file is being downloaded.

    Attributes:
        file: Name of the file.
        source: URL that it comes from.
        done_bytes: Bytes on disk so far.
        total_bytes: Size of the file; None if it is unknown.
    """

    kind: ClassVar[str] = "fetching"

    file: str
    source: str
    done_bytes: int
    total_bytes: int | None

    @property
    def has_ended(self) -> bool:
        """Whether the whole file is on disk."""
        return self.total_bytes is not None and self.done_bytes >= self.total_bytes

    @property
    def message(self) -> str:
        total = self.total_bytes or self.done_bytes or 1
        return f"fetching {self.file}: {self.done_bytes / 1e6:.0f} of {total / 1e6:.0f} MB"


NoticeTopic = Literal["parameter", "waiting", "usage", "stopped"]
"""A parameter that the endpoint refuses; a wait that it requests; usage above the reservation; no further calls."""


@dataclass(frozen=True, slots=True)
class ModelNotice(Event):
    """A finding about a model's endpoint.

    Attributes:
        model: Catalogue name.
        topic: The subject.
        detail: The finding, to be read after the name.
        seconds: How long a wait takes; None if it is not known, or for other topics.
    """

    kind: ClassVar[str] = "model_notice"

    model: str
    topic: NoticeTopic
    detail: str
    seconds: float | None = None

    @property
    def message(self) -> str:
        return f"{self.model}: {self.detail}"


@dataclass(frozen=True, slots=True)
class BatchWaiting(Event):
    """Calls wait in a batch of a provider; once when it is submitted, and whenever more of it is done.

    Attributes:
        model: Catalogue name.
        batch: The provider's id of the batch.
        calls: Calls in the batch.
        done: Those of them that are finished.
        has_ended: Whether the batch ended, so that its responses are being read.
    """

    kind: ClassVar[str] = "batch_waiting"

    model: str
    batch: str
    calls: int
    done: int = 0
    has_ended: bool = False

    @property
    def message(self) -> str:
        state = "has ended" if self.has_ended else f"{self.done:,} of {self.calls:,} calls are done"
        return f"{self.model}: batch {self.batch}: {state}"


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """The work is interrupted, and waits for the calls in flight: their responses are paid for, and are stored.

    Attributes:
        calls: Number of calls in flight.
    """

    kind: ClassVar[str] = "stopping"

    calls: int

    @property
    def message(self) -> str:
        return f"stopping: waiting for {counted(self.calls, 'call')} in flight; press Ctrl-C again to end now"


@dataclass(frozen=True, slots=True)
class NotStored(Event):
    """The work has ended while its database could not be reached.

    Attributes:
        detail: What could not be stored, and what follows.
        responses: Number of responses that were paid for and are lost.
    """

    kind: ClassVar[str] = "not_stored"

    detail: str
    responses: int = 0

    @property
    def message(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A run began, or was resumed, in `folder`. `budget` is its live budget."""

    kind: ClassVar[str] = "run_started"

    folder: Path
    budget: Budget | None = None

    @property
    def message(self) -> str:
        return f"run {self.folder}"


@dataclass(frozen=True, slots=True)
class SearchStarted(Event):
    """The search space is known, and the first trial follows.

    Attributes:
        allocations: Size of the search space.
        examples: Number of examples of each split.
        trials: Trials that earlier sessions of the run recorded.
        budget: The live budget of the run: its caps and the spend.
        best: The best of `trials`; None if none is complete.
        concurrency: Calls of one model that may run at the same time, of the model with the fewest.
    """

    kind: ClassVar[str] = "search_started"

    allocations: int
    examples: Mapping[Split, int]
    trials: tuple[Trial, ...]
    budget: Budget
    best: BestSoFar | None = None
    concurrency: int = 1

    @property
    def message(self) -> str:
        return counted(self.allocations, "candidate")


@dataclass(frozen=True, slots=True)
class TrialStarted(Event):
    """A candidate is about to be evaluated on the validation split."""

    kind: ClassVar[str] = "trial_started"

    number: int
    candidate: Candidate
    proposer: str

    @property
    def message(self) -> str:
        return f"trial {self.number}"


@dataclass(frozen=True, slots=True)
class ExampleDone(Event):
    """One example was run through the workflow."""

    kind: ClassVar[str] = "example_done"
    logged: ClassVar[bool] = False

    result: ExampleResult

    @property
    def message(self) -> str:
        return self.result.id


@dataclass(frozen=True, slots=True)
class JournalUsed(Event):
    """Responses of an evaluation came from the journal.

    Attributes:
        responses: Number of responses that earlier sessions stored.
        oldest: When the oldest of them was stored.
        newest: When the newest of them was stored.
    """

    kind: ClassVar[str] = "journal_used"

    responses: int
    oldest: datetime
    newest: datetime

    @property
    def message(self) -> str:
        first, last = (time.astimezone().strftime("%Y-%m-%d %H:%M") for time in (self.oldest, self.newest))
        when = first if first == last else f"{first} to {last}"
        return f"{counted(self.responses, 'response')} came from the journal, stored {when}"


@dataclass(frozen=True, slots=True)
class Spent(Event):
    """What the calls of an evaluation cost, those whose example has no score included.

    Attributes:
        by_purpose: Purpose -> usage. Responses from the journal cost nothing.
        unpriced: Models of these calls that have no price, and count as 0 USD.
    """

    kind: ClassVar[str] = "spent"

    by_purpose: Mapping[str, Usage]
    unpriced: tuple[str, ...] = ()

    @property
    def total(self) -> Usage:
        """Usage of all purposes together."""
        return sum(self.by_purpose.values(), Usage())

    @property
    def message(self) -> str:
        judge = self.by_purpose.get("judge")
        if self.total.calls and not self.total.tokens:
            return f"spent: nothing ({counted(self.total.calls, 'call')}, none of them answered)"
        of_judge = f"; of these the judge {self._used(judge)}" if judge else ""
        return f"spent: {self._used(self.total)}{of_judge}"

    def _used(self, usage: Usage) -> str:
        tokens = f"{usage.prompt_tokens:,} prompt + {usage.completion_tokens:,} completion tokens"
        usd = usd_in_words(usage.usd, self.unpriced if usage.tokens else ())
        return f"{counted(usage.calls, 'call')}, {tokens}, {usd}"


@dataclass(frozen=True, slots=True)
class TrialDone(Event):
    """A trial was recorded.

    Attributes:
        trial: The trial.
        best: The best trial so far; None if none is complete.
        remaining: The expected rest of the run; None if it is not known.
    """

    kind: ClassVar[str] = "trial_done"

    trial: Trial
    best: BestSoFar | None = None
    remaining: Remaining | None = None

    @property
    def message(self) -> str:
        trial = self.trial
        score = "no score" if trial.score is None else f"score {trial.score:.3f}"
        if trial.state == "complete":
            return f"trial {trial.number}: complete, {score}, by {trial.proposer}"
        return f"trial {trial.number}: {score}, by {trial.proposer}, {trial.evaluation.outcome}"


@dataclass(frozen=True, slots=True)
class FallbackUsed(Event):
    """The fallback strategy proposed `proposals` candidates, because the search agent gave too few."""

    kind: ClassVar[str] = "fall_back"

    reason: str
    proposals: int

    @property
    def message(self) -> str:
        what = f"the fallback proposes {self.proposals}" if self.proposals else "nothing is left to try"
        return f"{self.reason}; {what}"


@dataclass(frozen=True, slots=True)
class GuidelinesWritten(Event):
    """The search agent wrote guidelines for its next proposals.

    Attributes:
        text: The guidelines; empty if the reply could not be read.
        trials: Number of trials that they rest on.
    """

    kind: ClassVar[str] = "guidelines_written"

    text: str
    trials: int

    @property
    def message(self) -> str:
        return f"guidelines: {self.text or 'none, because the reply could not be read'}"


@dataclass(frozen=True, slots=True)
class Note(Event):
    """Free text, such as the progress of a pilot."""

    kind: ClassVar[str] = "note"

    text: str

    @property
    def message(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class TestStarted(Event):
    """A finalist is about to be evaluated on the test split."""

    __test__: ClassVar[bool] = False  # not a class of tests, whatever pytest takes its name for
    kind: ClassVar[str] = "test_started"

    roles: tuple[str, ...]
    trial: Trial

    @property
    def message(self) -> str:
        return f"testing {in_words(self.roles)}"


@dataclass(frozen=True, slots=True)
class TestDone(Event):
    """A finalist was evaluated on the test split, on all of its examples or until a cap was reached."""

    __test__: ClassVar[bool] = False
    kind: ClassVar[str] = "test_done"

    roles: tuple[str, ...]
    trial: Trial
    evaluation: Evaluation

    @property
    def message(self) -> str:
        score = self.evaluation.score
        shown = "no score" if score is None else f"score {score:.3f}"
        return f"tested {in_words(self.roles)}: {shown}, {self.evaluation.outcome}"


@dataclass(frozen=True, slots=True)
class RunDone(Event):
    """The result of the run was written to `folder`."""

    kind: ClassVar[str] = "run_done"

    folder: Path

    @property
    def message(self) -> str:
        return f"result in {self.folder}"
